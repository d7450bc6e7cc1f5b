//! What is counted while a connection is open.

use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
