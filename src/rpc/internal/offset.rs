use std::time::Duration;

use crate::sync::atomic::{AtomicU64, Ordering};

/// A time in nanoseconds from the start of the RPC or the connection, plus one; 0 is "not yet".
#[derive(Debug, Default)]
pub(crate) struct AtomicOffset(AtomicU64);

impl AtomicOffset {
    #[inline]
    pub(crate) fn get(&self) -> Option<Duration> {
        let nanos = self.0.load(Ordering::Acquire).checked_sub(1)?;
        Some(Duration::from_nanos(nanos))
    }

    /// First write wins; whether this was the first.
    pub(crate) fn set(&self, now: u64) -> bool {
        let now = now.saturating_add(1);
        self.0.load(Ordering::Relaxed) == 0
            && self
                .0
                .compare_exchange(0, now, Ordering::Release, Ordering::Relaxed)
                .is_ok()
    }

    #[inline]
    pub(crate) fn move_to(&self, now: u64) {
        self.0.store(now.saturating_add(1), Ordering::Release);
    }
}
