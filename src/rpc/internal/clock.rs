//! The monotonic clock that an RPC's times are read from.

use std::time::{Duration, Instant};

/// A reading of the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick(Raw);

#[cfg(feature = "quanta")]
type Raw = u64;
#[cfg(not(feature = "quanta"))]
type Raw = Instant;

/// The processor's time-stamp counter if that is safe, calibrated once; else the system's clock.
#[cfg(feature = "quanta")]
static CLOCK: std::sync::LazyLock<quanta::Clock> = std::sync::LazyLock::new(quanta::Clock::new);

/// Makes the clock ready, so that no RPC waits for it.
pub(crate) fn prepare() {
    Tick::now();
}

impl Tick {
    #[inline]
    pub(crate) fn now() -> Self {
        #[cfg(feature = "quanta")]
        return Self(CLOCK.raw());
        #[cfg(not(feature = "quanta"))]
        return Self(Instant::now());
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

/// The moment after this timeout from now; `None` if the clock cannot represent it.
pub(crate) fn deadline_after(timeout: Duration) -> Option<Instant> {
    now().checked_add(timeout)
}

/// Whether a deadline has passed.
pub(crate) fn is_past(deadline: Instant) -> bool {
    deadline <= now()
}

/// The clock that timeouts use. It is the system's, except in a test with paused time.
fn now() -> Instant {
    #[cfg(feature = "transport")]
    return tokio::time::Instant::now().into_std();
    #[cfg(not(feature = "transport"))]
    return Instant::now();
}
