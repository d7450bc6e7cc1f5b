//! The attributes of an RPC: prebuilt for each method and code, sorted.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
};

use opentelemetry::KeyValue;

use super::{
    Conventions,
    address::{server, shared},
    measured::Measured,
    meters::sorted,
};
use crate::{
    Code, Ending, Role,
    address::{Target, canonical},
    method_names::OTHER,
    panics::contain,
    semconv::System,
};

/// Of a method that may turn out to be known when its RPC ends.
pub(super) const UNDECIDED: &str = "";

/// The settings that attributes depend on.
#[derive(Clone, Debug)]
pub(super) struct Wording {
    pub(super) conventions: Conventions,
    pub(super) status_code: &'static str,
    pub(super) grpc_targets: Option<TargetFilter>,
}

impl Wording {
    /// The value of `grpc.target`.
    pub(super) fn target<'a>(&self, target: &'a str) -> Cow<'a, str> {
        let target = canonical(target);
        match &self.grpc_targets {
            Some(named) if !named.has(&target) => "other".into(),
            _ => target,
        }
    }
}

/// Which targets gRPC's own metrics name.
#[derive(Clone)]
pub(super) struct TargetFilter(pub(super) Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl TargetFilter {
    /// A target is not named if the function panics.
    fn has(&self, target: &str) -> bool {
        contain::<Self, _>("grpc_targets", || self.0(target)).unwrap_or(false)
    }
}

impl fmt::Debug for TargetFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TargetFilter")
    }
}

/// What else than the method tells series apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    pub(super) role: Role,
    pub(super) system: System,
    pub(super) address: Option<Target<'a>>,
}

impl Key<'_> {
    pub(super) fn without_address(self) -> Key<'static> {
        Key {
            role: self.role,
            system: self.system,
            address: None,
        }
    }
}

/// All RPCs of one method, on one side, by one protocol, to one address.
#[derive(Debug)]
pub(super) struct Series {
    role: Role,
    system: System,
    /// The server's, and whether the layer is configured with it.
    address: Option<(Box<str>, bool)>,
    wording: Wording,
    method: &'static str,
    pub(super) span_name: &'static str,
    /// What a span has from its start.
    pub(super) at_start: Vec<KeyValue>,
    /// Of the RPCs in flight.
    pub(super) in_flight: Vec<KeyValue>,
    /// Of gRPC's own metrics, before the status is known.
    pub(super) grpc_at_start: Vec<KeyValue>,
    /// By whether the RPC failed, then by code. Most methods need one place of each.
    outcomes: [OnceLock<Box<OfCode<Outcome>>>; 2],
}

/// One for each code, made when it is first needed.
type OfCode<V> = [OnceLock<V>; Code::ALL.len()];

/// What is known when an RPC has ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) failed: bool,
    /// What a span has besides what it had from its start.
    pub(super) at_end: Vec<KeyValue>,
    /// Of the duration.
    pub(super) measured: Measured,
    /// Of the duration by the old conventions.
    pub(super) measured_old: Measured,
    /// Of gRPC's own metrics.
    pub(super) grpc: Vec<KeyValue>,
}

impl Series {
    pub(super) fn new(wording: &Wording, method: &'static str, key: Key<'_>) -> Self {
        let mut series = Self {
            role: key.role,
            system: key.system,
            address: key.address.map(|target| match target {
                Target::Configured(name) => (name.into(), true),
                Target::Authority(name) => (name.into(), false),
            }),
            wording: wording.clone(),
            method,
            span_name: if matches!(method, OTHER | UNDECIDED) {
                key.system.span_name()
            } else {
                method
            },
            at_start: Vec::new(),
            in_flight: Vec::new(),
            grpc_at_start: Vec::new(),
            outcomes: [const { OnceLock::new() }; 2],
        };
        series.at_start = series.common(method != UNDECIDED);
        series.in_flight = sorted(match wording.conventions.has_new() {
            true => vec![
                KeyValue::new("rpc.system.name", key.system.name()),
                KeyValue::new("rpc.method", series.label()),
            ],
            false => series.old(),
        });
        series.grpc_at_start = series.grpc(None);
        series
    }

    pub(super) fn is_for(&self, key: &Key<'_>) -> bool {
        self.role == key.role && self.system == key.system && self.target() == key.address
    }

    pub(super) fn key(&self) -> Key<'_> {
        Key {
            role: self.role,
            system: self.system,
            address: self.target(),
        }
    }

    fn target(&self) -> Option<Target<'_>> {
        let (name, is_configured) = self.address.as_ref()?;
        Some(match is_configured {
            true => Target::Configured(name),
            false => Target::Authority(name),
        })
    }

    /// What the span of an RPC gets whose method was decided at its end; `original` as the peer
    /// named it.
    pub(super) fn method_attributes(&self, original: impl FnOnce() -> KeyValue) -> Vec<KeyValue> {
        let conventions = self.wording.conventions;
        let mut attributes = Vec::new();
        if conventions.has_new() {
            attributes.push(KeyValue::new("rpc.method", self.label()));
            attributes.extend((!self.is_known()).then(original));
        }
        if conventions.has_old() {
            let old = self.old().into_iter().filter(|a| match a.key.as_str() {
                "rpc.service" => true,
                "rpc.method" => !conventions.has_new(),
                _ => false,
            });
            attributes.extend(old);
        }
        attributes
    }

    pub(super) fn is_undecided(&self) -> bool {
        self.method == UNDECIDED
    }

    /// Whether the caller named a method that is not known, by the conventions that have a name for that.
    pub(super) fn is_other(&self) -> bool {
        self.method == OTHER && self.wording.conventions.has_new()
    }

    pub(super) fn is_known(&self) -> bool {
        !matches!(self.method, OTHER | UNDECIDED)
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.system == System::Grpc
    }

    /// What the end of an RPC with this code adds; built the first time it is asked for.
    pub(super) fn outcome(&self, code: Code, failed: bool) -> &Outcome {
        let make = || Box::new([const { OnceLock::new() }; Code::ALL.len()]);
        let of_code = self.outcomes[usize::from(failed)].get_or_init(make);
        // The array has a place for each code.
        of_code[code as usize].get_or_init(|| {
            let error = failed.then(|| self.system.error_type(code));
            self.end(Some(code), error)
        })
    }

    /// The same for an RPC that has no code: a custom protocol.
    pub(super) fn outcome_without_code(&self, failed: Option<Ending>) -> Outcome {
        self.end(None, failed.map(Ending::as_str))
    }

    fn end(&self, code: Option<Code>, error: Option<&'static str>) -> Outcome {
        let status = code.and_then(|code| self.system.code(code));
        let conventions = self.wording.conventions;
        let mut at_end = Vec::new();
        let mut measured = self.common(true);
        let mut measured_old = Vec::new();
        if conventions.has_new() {
            if let Some(status) = status {
                at_end.push(KeyValue::new(self.wording.status_code, status));
            }
            if let Some(error) = error {
                at_end.push(KeyValue::new("error.type", error));
            }
            measured.retain(|a| !matches!(a.key.as_str(), "rpc.system" | "rpc.service"));
            measured.extend(at_end.iter().cloned());
        }
        if conventions.has_old() {
            measured_old = self.old();
            measured_old.extend(self.server());
            let code = match (self.system, code) {
                (System::Grpc, Some(code)) => {
                    let number = i64::from(code as u8);
                    Some(KeyValue::new("rpc.grpc.status_code", number))
                }
                (System::Connect, Some(_)) => {
                    status.map(|error| KeyValue::new("rpc.connect_rpc.error_code", error))
                }
                _ => None,
            };
            at_end.extend(code.clone());
            measured_old.extend(code);
        }
        Outcome {
            failed: error.is_some(),
            at_end,
            measured: Measured::new(sorted(measured)),
            measured_old: Measured::new(sorted(measured_old)),
            grpc: self.grpc(code),
        }
    }

    /// What spans and durations have in common.
    fn common(&self, with_method: bool) -> Vec<KeyValue> {
        let conventions = self.wording.conventions;
        let mut attributes = Vec::with_capacity(8);
        if conventions.has_new() {
            attributes.push(KeyValue::new("rpc.system.name", self.system.name()));
            if with_method {
                attributes.push(KeyValue::new("rpc.method", self.label()));
            }
        }
        if conventions.has_old() {
            let old = self.old().into_iter();
            // The two conventions give this name two meanings: the new one wins.
            attributes
                .extend(old.filter(|a| !(conventions.has_new() && a.key.as_str() == "rpc.method")));
        }
        attributes.extend(self.server());
        attributes
    }

    fn old(&self) -> Vec<KeyValue> {
        let system = match self.system {
            System::Connect => "connect_rpc",
            system => system.name(),
        };
        let mut attributes = vec![KeyValue::new("rpc.system", system)];
        if self.is_known()
            && let Some((service, method)) = self.method.split_once('/')
        {
            attributes.push(KeyValue::new("rpc.service", service));
            attributes.push(KeyValue::new("rpc.method", method));
        }
        attributes
    }

    fn server(&self) -> Vec<KeyValue> {
        self.target().map(server).unwrap_or_default()
    }

    fn grpc(&self, code: Option<Code>) -> Vec<KeyValue> {
        let method = if self.is_known() {
            self.method
        } else {
            "other"
        };
        let mut attributes = vec![KeyValue::new("grpc.method", method)];
        if let Some(code) = code {
            attributes.push(KeyValue::new("grpc.status", code.as_str()));
        }
        if let (Role::Client, Some((target, _))) = (self.role, &self.address) {
            let target = KeyValue::new("grpc.target", shared(&self.wording.target(target)));
            attributes.push(target);
        }
        attributes
    }

    fn label(&self) -> &'static str {
        if self.is_known() { self.method } else { OTHER }
    }
}
