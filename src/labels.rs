//! The values of labels, and bounds on those that users make.

use std::{
    collections::HashSet,
    sync::{PoisonError, RwLock},
};
#[cfg(any(feature = "metrics", feature = "prometheus"))]
use {
    crate::{Status, methods::OTHER},
    http::StatusCode,
    std::borrow::Cow,
};

use crate::text::bounded;

/// How many bytes of a label's value are kept.
const VALUE: usize = 128;

/// How many combinations of values a tracer keeps apart unless configured otherwise.
const COMBINATIONS: usize = 1000;

/// The combinations of values that a tracer has seen. Only the first ones get a series.
#[derive(Debug)]
pub(crate) struct Combinations {
    most: usize,
    seen: RwLock<HashSet<Box<str>>>,
}

impl Default for Combinations {
    fn default() -> Self {
        Self::new(COMBINATIONS)
    }
}

impl Combinations {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            seen: RwLock::default(),
        }
    }

    /// Whether this combination has a series: it is one of the first.
    pub(crate) fn admits(&self, combination: &str) -> bool {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(combination) {
            return true;
        }
        if seen.len() >= self.most {
            return false;
        }
        drop(seen);
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        // Another RPC may have come first.
        if seen.len() < self.most {
            seen.insert(combination.into());
        }
        seen.contains(combination)
    }
}

/// A value as a label has it: at most 128 bytes.
pub(crate) fn value(text: &str) -> &str {
    bounded(text, VALUE)
}

/// Bounds for `rpc_duration_seconds`, in seconds: those of gRPC's own latency metrics
/// ([A66](https://github.com/grpc/proposal/blob/master/A66-otel-stats.md)) without the bound 0.
#[cfg(any(feature = "metrics", feature = "prometheus"))]
#[rustfmt::skip]
pub const DURATION_BUCKETS: [f64; 40] = [
    0.000_01, 0.000_05, 0.000_1, 0.000_3, 0.000_6, 0.000_8, 0.001, 0.002, 0.003, 0.004, 0.005,
    0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16,
    0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];

/// The code of an RPC that is over, as a label has it.
#[cfg(any(feature = "metrics", feature = "prometheus"))]
pub(crate) fn code(status: Option<Status>) -> Cow<'static, str> {
    match status {
        Some(Status::Grpc(code)) => code.as_str().into(),
        Some(Status::Http(status)) if registered(status) => status.to_string().into(),
        Some(Status::Http(_)) => OTHER.into(),
        None => "none".into(),
    }
}

/// Whether an HTTP status is one that is registered, and no peer's invention.
#[cfg(any(feature = "metrics", feature = "prometheus"))]
pub(crate) fn registered(status: u16) -> bool {
    let status = StatusCode::from_u16(status);
    status.is_ok_and(|status| status.canonical_reason().is_some())
}

#[cfg(test)]
mod tests {
    use super::{Combinations, value};

    #[test]
    fn only_the_first_combinations_get_a_series() {
        let combinations = Combinations::new(2);
        assert!(combinations.admits("a") && combinations.admits("b"));
        assert!(!combinations.admits("c"));
        assert!(combinations.admits("a") && combinations.admits("b"));
        assert!(!Combinations::new(0).admits("a"));
    }

    #[test]
    fn values_are_cut_where_a_character_ends() {
        assert_eq!(value("short"), "short");
        let long = "ü".repeat(100);
        assert_eq!(value(&long), "ü".repeat(64));
        assert_eq!(value(&format!("x{long}")).len(), 127);
    }
}
