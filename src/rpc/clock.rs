//! The monotonic clock that an RPC's times are read from.

use std::time::{Duration, Instant};

/// A reading of the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading(Raw);

#[cfg(feature = "quanta")]
type Raw = u64;
#[cfg(not(feature = "quanta"))]
type Raw = Instant;

/// The processor's time-stamp counter where that is safe, calibrated once; else the system's clock.
#[cfg(feature = "quanta")]
static CLOCK: std::sync::LazyLock<quanta::Clock> = std::sync::LazyLock::new(quanta::Clock::new);

/// Makes the clock ready, so that no RPC waits for it.
pub(crate) fn prepare() {
    Reading::now();
}

impl Reading {
    #[inline]
    pub(crate) fn now() -> Self {
        #[cfg(feature = "quanta")]
        return Self(CLOCK.raw());
        #[cfg(not(feature = "quanta"))]
        return Self(Instant::now());
    }

    /// When so much time has passed since this reading, made just now; `None` where the clock cannot
    /// hold it.
    #[inline]
    pub(crate) fn deadline(self, timeout: Duration) -> Option<Instant> {
        #[cfg(feature = "quanta")]
        return Instant::now().checked_add(timeout);
        #[cfg(not(feature = "quanta"))]
        return self.0.checked_add(timeout);
    }

    /// Nanoseconds since this reading.
    #[inline]
    pub(crate) fn elapsed(self) -> u64 {
        #[cfg(feature = "quanta")]
        return CLOCK.delta_as_nanos(self.0, CLOCK.raw());
        #[cfg(not(feature = "quanta"))]
        return u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX);
    }
}
