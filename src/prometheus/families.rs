//! The families, their series, and which RPC becomes an exemplar.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, UNIX_EPOCH},
};

use prometheus_client::{
    metrics::{
        counter::Counter,
        exemplar::HistogramWithExemplars,
        family::{Family, MetricConstructor},
        gauge::Gauge,
    },
    registry::{Registry, Unit},
};

use super::Text;
use crate::{
    Code, Ending, Role, RpcInfo, Stats, Status, buckets,
    labels::{code, registered},
    rpc::Traffic,
    time::system_time,
    trace_id::TraceId,
};

type Labels = Vec<(&'static str, Text)>;
type Durations = HistogramWithExemplars<Vec<(&'static str, String)>>;

/// Makes the histograms.
#[derive(Clone)]
pub(super) struct NewDurations;

impl MetricConstructor<Durations> for NewDurations {
    fn new_metric(&self) -> Durations {
        Durations::new(buckets::SECONDS.into_iter())
    }
}

/// All families, and the handles of each method.
pub(super) struct Families {
    started: Family<Labels, Counter>,
    handled: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    in_flight: Family<Labels, Gauge>,
    duration: Family<Labels, Durations, NewDurations>,
    sent_messages: Family<Labels, Counter>,
    received_messages: Family<Labels, Counter>,
    sent_bytes: Family<Labels, Counter>,
    received_bytes: Family<Labels, Counter>,
    methods: RwLock<HashMap<Box<str>, Sides>>,
}

/// The handles of one method on a client and on a server.
type Sides = [OnceLock<Arc<Method>>; 2];

/// The handles of one method on one side.
pub(super) struct Method {
    pub(super) labels: Labels,
    pub(super) started: Counter,
    pub(super) in_flight: Gauge,
    failed: Counter,
    sent_messages: Counter,
    received_messages: Counter,
    sent_bytes: Counter,
    received_bytes: Counter,
    /// By code.
    outcomes: [OnceLock<Arc<Outcome>>; Code::ALL.len()],
    /// By HTTP status; those that are not registered share one, and those without a response.
    http: RwLock<HashMap<u16, Arc<Outcome>>>,
}

/// The handles of one code of a method.
struct Outcome {
    duration: Durations,
    /// By ending; the last is for those cancelled with their parent.
    handled: [OnceLock<Counter>; Ending::ALL.len() + 1],
    slowest: Slowest,
}

impl Families {
    pub(super) fn new() -> Self {
        Self {
            started: Family::default(),
            handled: Family::default(),
            failed: Family::default(),
            in_flight: Family::default(),
            duration: Family::new_with_constructor(NewDurations),
            sent_messages: Family::default(),
            received_messages: Family::default(),
            sent_bytes: Family::default(),
            received_bytes: Family::default(),
            methods: RwLock::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let mut counter = |name: &str, help: &str, family: &Family<Labels, Counter>| {
            registry.register(name, help, family.clone());
        };
        counter("rpc_started", "RPCs that started", &self.started);
        counter(
            "rpc_handled",
            "RPCs that are over, however they ended",
            &self.handled,
        );
        counter("rpc_failed", "RPCs that are over and failed", &self.failed);
        counter(
            "rpc_sent_messages",
            "Messages that this side sent",
            &self.sent_messages,
        );
        counter(
            "rpc_received_messages",
            "Messages that this side received",
            &self.received_messages,
        );
        counter(
            "rpc_sent_message_bytes",
            "Bytes of the messages that this side sent",
            &self.sent_bytes,
        );
        counter(
            "rpc_received_message_bytes",
            "Bytes of the messages that this side received",
            &self.received_bytes,
        );
        registry.register(
            "rpc_in_flight",
            "RPCs that started and are not over",
            self.in_flight.clone(),
        );
        registry.register_with_unit(
            "rpc_duration",
            "Time from start to end of RPCs that are over",
            Unit::Seconds,
            self.duration.clone(),
        );
    }

    /// The handles of a method. The caller bounds the names.
    pub(super) fn method(&self, role: Role, name: &str) -> Arc<Method> {
        let known = self.methods.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(sides) = known.get(name) {
            return self.of_side(sides, role, name);
        }
        drop(known);
        let mut known = self.methods.write().unwrap_or_else(PoisonError::into_inner);
        let sides = known.entry(name.into()).or_default();
        self.of_side(sides, role, name)
    }

    fn of_side(&self, sides: &Sides, role: Role, name: &str) -> Arc<Method> {
        let [client, server] = sides;
        let side = match role {
            Role::Client => client,
            Role::Server => server,
        };
        Arc::clone(side.get_or_init(|| Arc::new(self.new_method(role, name))))
    }

    #[cold]
    fn new_method(&self, role: Role, name: &str) -> Method {
        let (service, method) = name.split_once('/').unwrap_or((name, name));
        let labels: Labels = vec![
            ("role", role.as_str().into()),
            ("rpc_service", service.to_owned().into()),
            ("rpc_method", method.to_owned().into()),
        ];
        let counter = |family: &Family<Labels, Counter>| family.get_or_create_owned(&labels);
        Method {
            started: counter(&self.started),
            in_flight: self.in_flight.get_or_create_owned(&labels),
            failed: counter(&self.failed),
            sent_messages: counter(&self.sent_messages),
            received_messages: counter(&self.received_messages),
            sent_bytes: counter(&self.sent_bytes),
            received_bytes: counter(&self.received_bytes),
            outcomes: [const { OnceLock::new() }; Code::ALL.len()],
            http: RwLock::default(),
            labels,
        }
    }

    /// Counts and measures an RPC that is over.
    pub(super) fn finished(
        &self,
        method: &Method,
        rpc: &RpcInfo,
        mut counted: Counted,
        trace: Option<TraceId>,
    ) {
        let stats = rpc.stats();
        method.count_messages(stats, &mut counted);
        let failed = stats.failed();
        if failed {
            method.failed.inc();
        }
        let (Some(duration), Some(ending)) = (stats.duration(), stats.ending_label()) else {
            return;
        };
        let outcome = self.outcome(method, stats.status());
        let (place, ending) = ending;
        if let Some(handled) = outcome.handled.get(place) {
            handled
                .get_or_init(|| self.new_handled(method, stats.status(), ending))
                .inc();
        }
        // A failure, or the slowest so far.
        let exemplar = trace.filter(|_| outcome.slowest.is_slower(duration) || failed);
        let exemplar = exemplar.map(|trace| vec![("trace_id", trace.as_str().to_owned())]);
        let time = exemplar.is_some().then(system_time);
        outcome
            .duration
            .observe(duration.as_secs_f64(), exemplar, time);
    }

    fn outcome(&self, method: &Method, status: Option<Status>) -> Arc<Outcome> {
        let make = || Arc::new(self.new_outcome(method, status));
        let of_http = match status {
            Some(Status::Grpc(code)) => match method.outcomes.get(code as usize) {
                Some(outcome) => return Arc::clone(outcome.get_or_init(make)),
                None => OTHERS,
            },
            Some(Status::Http(status)) if registered(status) => status,
            Some(Status::Http(_)) => OTHERS,
            None => NO_RESPONSE,
        };
        let known = method.http.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = known.get(&of_http) {
            return Arc::clone(outcome);
        }
        drop(known);
        let mut known = method.http.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(of_http).or_insert_with(make))
    }

    #[cold]
    fn new_outcome(&self, method: &Method, status: Option<Status>) -> Outcome {
        let mut labels = method.labels.clone();
        labels.push(("code", code(status)));
        Outcome {
            duration: self.duration.get_or_create_owned(&labels),
            handled: [const { OnceLock::new() }; Ending::ALL.len() + 1],
            slowest: Slowest::default(),
        }
    }

    #[cold]
    fn new_handled(
        &self,
        method: &Method,
        status: Option<Status>,
        ending: &'static str,
    ) -> Counter {
        let mut labels = method.labels.clone();
        labels.push(("code", code(status)));
        labels.push(("ending", ending.into()));
        self.handled.get_or_create_owned(&labels)
    }
}

/// In place of statuses: there are none below 100.
const OTHERS: u16 = 0;
const NO_RESPONSE: u16 = 1;

impl Method {
    /// Adds the messages and bytes that passed since the last time.
    pub(super) fn count_messages(&self, stats: &Stats, counted: &mut Counted) {
        let [sent, received] = &mut counted.0;
        add(stats.sent(), sent, &self.sent_messages, &self.sent_bytes);
        add(
            stats.received(),
            received,
            &self.received_messages,
            &self.received_bytes,
        );
    }
}

/// What of an RPC that runs is in the counters already: messages and bytes, sent and received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted([(u64, u64); 2]);

/// Adds what is known of one direction and not yet counted.
fn add(traffic: Traffic, counted: &mut (u64, u64), messages: &Counter, bytes: &Counter) {
    if let (Some(count), Some(size)) = (traffic.messages(), traffic.message_bytes()) {
        messages.inc_by(count.saturating_sub(counted.0));
        bytes.inc_by(size.saturating_sub(counted.1));
        *counted = (count, size);
    }
}

/// The slowest RPC of an interval of ten seconds.
#[derive(Debug, Default)]
struct Slowest {
    /// The number of the interval, since 1970.
    interval: AtomicU64,
    nanos: AtomicU64,
}

impl Slowest {
    const INTERVAL: u64 = 10;

    fn is_slower(&self, duration: Duration) -> bool {
        let now = system_time().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.is_slower_at(duration, now.as_secs() / Self::INTERVAL)
    }

    /// Two threads may both be the slowest for a moment: then there are two exemplars.
    fn is_slower_at(&self, duration: Duration, interval: u64) -> bool {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if self.interval.swap(interval, Relaxed) != interval {
            self.nanos.store(nanos, Relaxed);
            return true;
        }
        self.nanos.fetch_max(nanos, Relaxed) < nanos
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Slowest;

    #[test]
    fn slowest_of_each_interval_is_an_exemplar() {
        let slowest = Slowest::default();
        let at = |millis, interval| slowest.is_slower_at(Duration::from_millis(millis), interval);
        let seen = [
            (5, 1),
            (4, 1),
            (5, 1),
            (6, 1),
            (1, 2),
            (1, 2),
            (2, 2),
            (1, 1),
        ];
        let expected = [true, false, false, true, true, false, true, true];
        assert_eq!(
            seen.map(|(millis, interval)| at(millis, interval)),
            expected
        );
    }
}
