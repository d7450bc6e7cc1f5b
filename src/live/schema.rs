//! The overview in all its forms: the schema of its JSON is this.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rpc::Rpc;

/// The overview. Times are seconds.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    pub(super) schema: u32,
    pub(super) name: String,
    pub(super) version: &'static str,
    pub(super) access: &'static str,
    /// Unix time.
    pub(super) now: f64,
    pub(super) uptime: f64,
    pub(super) peers: Vec<Peer>,
    /// Of all methods, over the window.
    pub(super) figures: BTreeMap<&'static str, WindowFigures>,
    pub(super) in_flight: InFlight,
    pub(super) methods: Methods,
    pub(super) samples: Kept,
}

/// Another page.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) url: String,
}

/// RPCs in flight, the oldest first.
#[derive(Debug, Serialize)]
pub(super) struct InFlight {
    /// All of them.
    pub(super) total: u64,
    /// Those that were too many to be tracked.
    pub(super) untracked: u64,
    pub(super) matching: usize,
    /// Matching ones that are not listed.
    pub(super) left_out: usize,
    pub(super) rpcs: Vec<Rpc>,
}

/// Figures by method.
#[derive(Debug, Serialize)]
pub(super) struct Methods {
    pub(super) total: usize,
    pub(super) matching: usize,
    pub(super) rows: Vec<MethodRow>,
}

/// The figures of one method on one side.
#[derive(Debug, Serialize)]
pub(super) struct MethodRow {
    pub(super) role: &'static str,
    pub(super) method: String,
    pub(super) in_flight: u64,
    pub(super) started: u64,
    /// Ended with OK, and for HTTP with a status below 400.
    pub(super) ok: u64,
    /// Failed, as the layer decides. Not each RPC that is not OK did.
    pub(super) failed: u64,
    /// Ended without the page hearing how, by a filter around its tracer.
    pub(super) discarded: u64,
    /// Those that are not OK, by their code.
    pub(super) codes: BTreeMap<String, u64>,
    pub(super) endings: BTreeMap<&'static str, u64>,
    pub(super) sent_messages: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_messages: u64,
    pub(super) received_bytes: u64,
    pub(super) windows: BTreeMap<&'static str, WindowFigures>,
    /// Ended RPCs in a second, for each two seconds of the last minute, the oldest first.
    pub(super) trend: Vec<f64>,
    /// How many samples are kept: no totals.
    pub(super) samples: SampleCounts,
    /// The slowest of the last minute.
    pub(super) slowest: Option<String>,
}

/// Figures over a window.
#[derive(Debug, Clone, Serialize)]
pub(super) struct WindowFigures {
    /// How long the window is: shorter than its name says when the page is young.
    pub(super) seconds: f64,
    pub(super) started: u64,
    pub(super) finished: u64,
    pub(super) failed: u64,
    /// Ended RPCs in a second.
    pub(super) rate: f64,
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) max: Option<f64>,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
}

/// How many samples a method has.
#[derive(Debug, Serialize)]
pub(super) struct SampleCounts {
    pub(super) latency: Vec<Bucket>,
    pub(super) failed: usize,
}

/// Samples of one bucket of latency.
#[derive(Debug, Serialize)]
pub(super) struct Bucket {
    pub(super) from: f64,
    pub(super) samples: usize,
}

/// Finished RPCs that were kept.
#[derive(Debug, Serialize)]
pub(super) struct Kept {
    pub(super) total: usize,
    pub(super) bytes: usize,
    pub(super) most_bytes: usize,
    /// Not kept for want of room.
    pub(super) left_out: u64,
    pub(super) matching: usize,
    /// The newest that match.
    pub(super) rpcs: Vec<Rpc>,
}
