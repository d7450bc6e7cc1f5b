//! What a layer is configured with.

use std::{any::Any, error::Error, fmt, sync::Arc, time::Duration};

use crate::methods::KnownMethods;
use crate::rpc::{AtomicLevel, Endpoints, Failures, Level, Role};

/// What a layer is configured with, but for its tracer.
#[derive(Clone, Default)]
pub(crate) struct Config {
    pub(crate) level: LevelHandle,
    /// `None`: it is inferred from each request.
    pub(crate) role: Option<Role>,
    /// `None`: no kind of a method is known.
    pub(crate) methods: Option<KnownMethods>,
    pub(crate) endpoints: Option<Arc<Endpoints>>,
    /// `None`: the default rule decides.
    pub(crate) failures: Option<Failures>,
    pub(crate) server_timeout: Option<Duration>,
    /// `None`: progress is not reported.
    pub(crate) progress_every: Option<Duration>,
    pub(crate) finish_at_response: bool,
    pub(crate) insert_into_response: bool,
    pub(crate) error_types: Vec<AsError>,
}

/// Views a value as the error that it is, if it is of one type.
pub(crate) type AsError = fn(&dyn Any) -> Option<&(dyn Error + 'static)>;

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("role", &self.role)
            .field("level", &self.level)
            .field("methods", &self.methods)
            .field("endpoints", &self.endpoints)
            .field("failures", &self.failures)
            .field("server_timeout", &self.server_timeout)
            .field("progress_every", &self.progress_every)
            .field("finish_at_response", &self.finish_at_response)
            .field("insert_into_response", &self.insert_into_response)
            .field("error_types", &self.error_types.len())
            .finish()
    }
}

/// Changes the level of a layer and of all its clones and services, at any time; a request that has
/// started keeps its own. Where [`level_of`](crate::TracerLayer::level_of) chooses, this has no say. Made
/// by [`TracerLayer::level_handle`](crate::TracerLayer::level_handle).
#[derive(Clone, Debug)]
pub struct LevelHandle(Arc<AtomicLevel>);

impl Default for LevelHandle {
    fn default() -> Self {
        Self::new(Level::Base)
    }
}

impl LevelHandle {
    pub(crate) fn new(level: Level) -> Self {
        Self(Arc::new(AtomicLevel::new(level)))
    }

    /// The level that requests start with.
    #[must_use]
    #[inline]
    pub fn get(&self) -> Level {
        self.0.get()
    }

    /// Sets the level of the requests to come.
    pub fn set(&self, level: Level) {
        self.0.set(level);
    }
}
