//! What is counted while a connection is open.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Nanoseconds from the opening, plus one; 0 is "not yet".
#[derive(Default)]
pub(super) struct AtomicOffset(AtomicU64);

impl AtomicOffset {
    pub(super) fn get(&self) -> Option<Duration> {
        let nanos = self.0.load(Relaxed).checked_sub(1)?;
        Some(Duration::from_nanos(nanos))
    }

    pub(super) fn move_to(&self, nanos: u64) {
        self.0.store(nanos.saturating_add(1), Relaxed);
    }

    /// Whether this was the first.
    pub(super) fn set(&self, nanos: u64) -> bool {
        let nanos = nanos.saturating_add(1);
        self.0.compare_exchange(0, nanos, Relaxed, Relaxed).is_ok()
    }
}

/// One direction. Only its reader or writer counts, one at a time.
#[derive(Default)]
pub(super) struct Counters {
    bytes: AtomicU64,
    calls: AtomicU64,
}

impl Counters {
    pub(super) fn add(&self, bytes: usize) {
        let sum = self.bytes.load(Relaxed).saturating_add(bytes as u64);
        self.bytes.store(sum, Relaxed);
        self.calls.store(self.calls.load(Relaxed) + 1, Relaxed);
    }

    pub(super) fn get(&self) -> Transfer {
        Transfer {
            bytes: self.bytes.load(Relaxed),
            calls: self.calls.load(Relaxed),
        }
    }
}

/// What passed a connection in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    pub(super) bytes: u64,
    calls: u64,
}

impl Transfer {
    /// Bytes, as they passed the wrapper: under tonic's TLS these are encrypted.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// How many reads or writes moved them.
    #[must_use]
    pub fn calls(self) -> u64 {
        self.calls
    }
}
