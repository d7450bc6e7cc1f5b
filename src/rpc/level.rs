use std::sync::atomic::{AtomicU8, Ordering};

/// How much is recorded about an RPC.
///
/// A layer has a [level](crate::TracerLayer::level), `Base` by default.
/// [`level_of`](crate::TracerLayer::level_of) chooses another one for a request. A tracer that
/// [wants more](crate::Tracer::level) raises it for the RPCs it takes part in.
///
/// ```
/// use tower_tracer::Level;
///
/// assert!(Level::Disabled < Level::Base && Level::Base < Level::Detailed);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Level {
    /// Nothing: the layer passes the request through, no tracer is asked.
    Disabled,
    /// Start and finish, status, how it ended, messages and bytes. Two clock readings per RPC.
    #[default]
    Base,
    /// Every event, with a clock reading at each.
    Detailed,
}

impl Level {
    #[inline]
    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Disabled,
            1 => Self::Base,
            _ => Self::Detailed,
        }
    }
}

/// A level that is read on every RPC and changed now and then.
#[derive(Debug)]
pub(crate) struct AtomicLevel(AtomicU8);

impl AtomicLevel {
    pub(crate) const fn new(level: Level) -> Self {
        Self(AtomicU8::new(level as u8))
    }

    #[inline]
    pub(crate) fn get(&self) -> Level {
        Level::from_u8(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn set(&self, level: Level) {
        self.0.store(level as u8, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn raise(&self, level: Level) {
        if level > self.get() {
            self.0.fetch_max(level as u8, Ordering::Relaxed);
        }
    }
}
