//! The monotonic clock that an RPC's times are read from.

use std::time::Duration;

use crate::time::Instant;

/// A reading of the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick(raw::Raw);

/// Makes the clock ready, so that no RPC waits for it.
pub(crate) fn prepare() {
    Tick::now();
}

impl Tick {
    #[inline]
    pub(crate) fn now() -> Self {
        Self(raw::now())
    }

    /// Nanoseconds since this reading.
    #[inline]
    pub(crate) fn elapsed(self) -> u64 {
        raw::nanos_since(self.0)
    }
}

/// The processor's time-stamp counter if that is safe, calibrated once; else the system's clock.
#[cfg(all(
    feature = "quanta",
    not(all(target_family = "wasm", target_os = "unknown"))
))]
mod raw {
    use std::sync::LazyLock;

    pub(super) type Raw = u64;

    static CLOCK: LazyLock<quanta::Clock> = LazyLock::new(quanta::Clock::new);

    #[inline]
    pub(super) fn now() -> Raw {
        CLOCK.raw()
    }

    #[inline]
    pub(super) fn nanos_since(start: Raw) -> u64 {
        CLOCK.delta_as_nanos(start, CLOCK.raw())
    }
}

/// The system's clock. In a browser also with feature `quanta`, which asks for a window: a worker has none.
#[cfg(not(all(
    feature = "quanta",
    not(all(target_family = "wasm", target_os = "unknown"))
)))]
mod raw {
    pub(super) type Raw = crate::time::Instant;

    #[inline]
    pub(super) fn now() -> Raw {
        Raw::now()
    }

    #[inline]
    pub(super) fn nanos_since(start: Raw) -> u64 {
        u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
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
