//! A series of a histogram of durations.

#[cfg(feature = "otel-bound")]
use std::sync::OnceLock;

#[cfg(feature = "otel-bound")]
use opentelemetry::metrics::BoundHistogram;
use opentelemetry::{KeyValue, metrics::Histogram};

use super::meters::with;

/// A series of a duration.
#[derive(Debug)]
pub(super) struct Measured {
    attributes: Vec<KeyValue>,
    #[cfg(feature = "otel-bound")]
    bound: OnceLock<BoundHistogram<f64>>,
}

impl Measured {
    /// The attributes come sorted.
    pub(super) fn new(attributes: Vec<KeyValue>) -> Self {
        Self {
            attributes,
            #[cfg(feature = "otel-bound")]
            bound: OnceLock::new(),
        }
    }

    /// It is always the same histogram.
    pub(super) fn record(
        &self,
        histogram: &Histogram<f64>,
        value: f64,
        bound: bool,
        added: &[KeyValue],
    ) {
        if !added.is_empty() {
            return histogram.record(value, &with(&self.attributes, added));
        }
        #[cfg(feature = "otel-bound")]
        if bound {
            let bind = || histogram.bind(&self.attributes);
            return self.bound.get_or_init(bind).record(value);
        }
        let _ = bound;
        histogram.record(value, &self.attributes);
    }
}
