//! What the metrics of RPCs and gRPC's own have in common.

use opentelemetry::{KeyValue, metrics::Meter};

/// Of gRPC's own metrics (A66), in bytes.
pub(super) const BYTES: [f64; 14] = [
    0.0,
    1024.0,
    2048.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];

/// What a user adds to the metrics of one RPC.
#[derive(Debug, Default)]
pub(super) struct Added {
    pub(super) attributes: Vec<KeyValue>,
    pub(super) grpc: Option<KeyValue>,
}

pub(super) fn with(attributes: &[KeyValue], added: &[KeyValue]) -> Vec<KeyValue> {
    sorted([attributes, added].concat())
}

/// A meter for each metric: one that does nothing for those that are left out.
pub(super) struct Meters<'a> {
    pub(super) meter: &'a Meter,
    pub(super) none: Meter,
    pub(super) left_out: &'a [&'static str],
}

impl Meters<'_> {
    pub(super) fn of(&self, name: &str) -> &Meter {
        match self.left_out.contains(&name) {
            true => &self.none,
            false => self.meter,
        }
    }
}

/// The SDK finds a series at once if the attributes come sorted.
pub(super) fn sorted(mut attributes: Vec<KeyValue>) -> Vec<KeyValue> {
    attributes.sort_by(|a, b| a.key.cmp(&b.key));
    attributes
}
