//! As the crate's module `rpc`, with the files that have atomics.

#[path = "../../src/rpc/internal/offset.rs"]
pub(crate) mod offset;
#[path = "../../src/rpc/internal/sample.rs"]
pub(crate) mod sample;
#[path = "../../src/rpc/traffic.rs"]
pub(crate) mod traffic;

use traffic::{Traffic, TrafficCell};

pub(crate) fn snapshot(cell: &TrafficCell) -> Traffic {
    cell.snapshot(None)
}

mod internal {
    use super::offset::AtomicOffset;

    /// As in the crate.
    pub(super) struct MessagesAt {
        pub(super) first: AtomicOffset,
        pub(super) last: AtomicOffset,
    }
}
