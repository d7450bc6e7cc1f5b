//! The handles of each method, taken when they are first needed and kept.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use ::metrics::{Counter, Gauge, Histogram, Label};

use super::{names::Family, registry::Registry};
use crate::{
    Code, Ending, Role, Stats, Status,
    labels::registered,
    rpc::{MethodKind, Traffic},
};

/// The handles of one method on one side.
pub(super) struct Method {
    pub(super) role: Role,
    pub(super) labels: Vec<Label>,
    pub(super) started: Counter,
    pub(super) in_flight: Gauge,
    /// Of RPCs that are over, without labels of a user.
    ended: OnceLock<Arc<Ended>>,
    /// The same by the values of those labels.
    labelled: RwLock<HashMap<Box<str>, Arc<Ended>>>,
}

/// The handles for RPCs that are over.
pub(super) struct Ended {
    role: Role,
    labels: Vec<Label>,
    failed: Counter,
    sent_messages: Counter,
    sent_bytes: Counter,
    received_messages: Counter,
    received_bytes: Counter,
    grpc: [OnceLock<Box<Outcome>>; Code::ALL.len()],
    /// By HTTP status, for exchanges that have no gRPC code: see `outcome`.
    http: OnceLock<Box<[OnceLock<Box<Outcome>>]>>,
}

/// The handles of one code.
pub(super) struct Outcome {
    role: Role,
    labels: Vec<Label>,
    duration: OnceLock<Histogram>,
    /// By ending; the last is for those cancelled with their parent.
    handled: [OnceLock<Counter>; Ending::ALL.len() + 1],
}

impl Method {
    #[cold]
    pub(super) fn register(
        registry: &Registry,
        role: Role,
        kind: Option<MethodKind>,
        service: &str,
        method: &str,
    ) -> Self {
        let labels = registry.names.of_method(role, kind, service, method);
        Self {
            role,
            started: registry.counter(Family::Started, role, &labels),
            in_flight: registry.gauge(Family::InFlight, role, &labels),
            ended: OnceLock::new(),
            labelled: RwLock::default(),
            labels,
        }
    }

    pub(super) fn ended(&self, registry: &Registry) -> &Arc<Ended> {
        let make = || Arc::new(Ended::register(registry, self.role, self.labels.clone()));
        self.ended.get_or_init(make)
    }

    /// The handles with labels of a user, whose values are `combination`. The caller bounds these.
    pub(super) fn labelled(
        &self,
        registry: &Registry,
        combination: &str,
        labels: impl FnOnce() -> Vec<Label>,
    ) -> Arc<Ended> {
        let known = self.labelled.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(ended) = known.get(combination) {
            return Arc::clone(ended);
        }
        drop(known);
        let mut known = self
            .labelled
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let ended = known.entry(combination.into()).or_insert_with(|| {
            let labels = [self.labels.clone(), labels()].concat();
            Arc::new(Ended::register(registry, self.role, labels))
        });
        Arc::clone(ended)
    }
}

impl Ended {
    fn register(registry: &Registry, role: Role, labels: Vec<Label>) -> Self {
        let counter = |family| registry.counter(family, role, &labels);
        Self {
            role,
            failed: counter(Family::Failed),
            sent_messages: counter(Family::SentMessages),
            sent_bytes: counter(Family::SentBytes),
            received_messages: counter(Family::ReceivedMessages),
            received_bytes: counter(Family::ReceivedBytes),
            grpc: [const { OnceLock::new() }; Code::ALL.len()],
            http: OnceLock::new(),
            labels,
        }
    }

    /// Adds the messages and bytes that passed since the last time.
    pub(super) fn count_messages(&self, stats: &Stats, counted: &mut Counted) {
        let messages = (&self.sent_messages, &self.received_messages);
        let bytes = (&self.sent_bytes, &self.received_bytes);
        counted.sent.add(stats.sent(), messages.0, bytes.0);
        counted.received.add(stats.received(), messages.1, bytes.1);
    }

    /// Counts an RPC that is over.
    pub(super) fn count(&self, stats: &Stats, mut counted: Counted, registry: &Registry) {
        self.count_messages(stats, &mut counted);
        if stats.failed() {
            self.failed.increment(1);
        }
        let outcome = self.outcome(stats.status(), registry);
        if let (Some(duration), Some(ending)) = (stats.duration(), stats.ending_label()) {
            outcome.duration(registry).record(duration);
            if let Some(handled) = outcome.handled(ending, registry) {
                handled.increment(1);
            }
        }
    }

    pub(super) fn outcome(&self, status: Option<Status>, registry: &Registry) -> &Outcome {
        let slot = match status {
            Some(Status::Grpc(code)) => self.grpc.get(code as usize),
            Some(Status::Http(status)) => match registered(status) {
                true => self.http().get(usize::from(status)),
                false => self.http().first(),
            },
            None => self.http().get(1),
        };
        // There is a slot for everything above; the first one of HTTP's is for the rest.
        let slot = slot.unwrap_or(&self.grpc[Code::Unknown as usize]);
        slot.get_or_init(|| Box::new(self.register_outcome(status, registry)))
    }

    /// A slot per status up to 599. There is no status below 100, so two of those slots are for the
    /// rest.
    fn http(&self) -> &[OnceLock<Box<Outcome>>] {
        self.http
            .get_or_init(|| (0..600).map(|_| OnceLock::new()).collect())
    }

    #[cold]
    fn register_outcome(&self, status: Option<Status>, registry: &Registry) -> Outcome {
        let mut labels = self.labels.clone();
        labels.push(registry.names.code(status));
        Outcome {
            role: self.role,
            duration: OnceLock::new(),
            handled: [const { OnceLock::new() }; Ending::ALL.len() + 1],
            labels,
        }
    }
}

impl Outcome {
    fn duration(&self, registry: &Registry) -> &Histogram {
        self.duration.get_or_init(|| {
            // The code is the last label.
            let labels = match registry.names.duration_has_code() {
                true => &*self.labels,
                false => self.labels.split_last().map_or(&[][..], |(_, rest)| rest),
            };
            registry.histogram(Family::Duration, self.role, labels)
        })
    }

    pub(super) fn handled(
        &self,
        (place, ending): (usize, &'static str),
        registry: &Registry,
    ) -> Option<&Counter> {
        let slot = self.handled.get(place)?;
        Some(slot.get_or_init(|| {
            let mut labels = self.labels.clone();
            if registry.names.has_ending() {
                labels.push(Label::from_static_parts("ending", ending));
            }
            registry.counter(Family::Handled, self.role, &labels)
        }))
    }
}

/// What of an RPC that runs is in the counters already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    sent: CountedTraffic,
    received: CountedTraffic,
}

#[derive(Clone, Copy, Debug, Default)]
struct CountedTraffic {
    messages: u64,
    bytes: u64,
}

impl CountedTraffic {
    /// Adds what is known of one direction and not yet counted.
    fn add(&mut self, traffic: Traffic, messages: &Counter, bytes: &Counter) {
        let (Some(count), Some(size)) = (traffic.messages(), traffic.message_bytes()) else {
            return;
        };
        let more = count.saturating_sub(self.messages);
        let more_bytes = size.saturating_sub(self.bytes);
        if more > 0 {
            messages.increment(more);
            self.messages = count;
        }
        if more_bytes > 0 {
            bytes.increment(more_bytes);
            self.bytes = size;
        }
    }
}
