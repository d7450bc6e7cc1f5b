//! The attempts of a call, for gRPC's metrics of retries (A96).

use std::time::Duration;

use crate::{
    RpcInfo,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// What the layer outside of the retries keeps of the attempts that start inside. Each attempt has a
/// layer of its own, which finds this through the record of the call.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    running: AtomicU32,
    /// When the last one ended, in nanoseconds from the start of the call.
    last_end: AtomicU64,
    delay: AtomicU64,
    hedges: AtomicU32,
}

impl Attempts {
    /// An attempt starts: while another one runs it is a hedge, else a retry after a delay.
    pub(super) fn started(&self, at: u64, is_first: bool) {
        let others = self.running.fetch_add(1, Acquire);
        if others > 0 {
            self.hedges.fetch_add(1, Relaxed);
        } else if !is_first {
            let delay = at.saturating_sub(self.last_end.load(Relaxed));
            self.delay.fetch_add(delay, Relaxed);
        }
    }

    pub(super) fn ended(&self, at: u64) {
        // In this order: an attempt that finds no other running needs the time at which the last one ended.
        self.last_end.fetch_max(at, Relaxed);
        self.running.fetch_sub(1, Release);
    }

    /// How long the call waited between its attempts.
    pub(super) fn delay(&self) -> Duration {
        Duration::from_nanos(self.delay.load(Relaxed))
    }

    /// How many attempts started while another one ran.
    pub(super) fn hedges(&self) -> u32 {
        self.hedges.load(Relaxed)
    }
}

/// How many attempts of its call were made before this one.
pub(super) fn earlier_attempts(rpc: &RpcInfo) -> i64 {
    rpc.attempt().saturating_sub(1).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Attempts;

    #[test]
    fn delay_is_time_without_attempt_and_hedges_overlap() {
        let attempts = Attempts::default();
        attempts.started(10, true);
        attempts.ended(100);
        assert_eq!((attempts.delay(), attempts.hedges()), (Duration::ZERO, 0));
        attempts.started(150, false);
        attempts.started(160, false);
        attempts.ended(200);
        attempts.ended(210);
        attempts.started(240, false);
        assert_eq!(
            (attempts.delay(), attempts.hedges()),
            (Duration::from_nanos(80), 1)
        );
    }
}
