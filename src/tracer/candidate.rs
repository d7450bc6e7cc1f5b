use std::fmt;

use super::{Describe, RequestParts, Scopes, Tracer};
use crate::{
    config::Config,
    panics::contain,
    rpc::{Level, RpcInfo, SampleKey},
};

/// A request that may become a traced RPC, as [`Tracer::try_start`] sees it.
///
/// Its record is made when the first tracer starts. So an RPC that all tracers decline costs almost
/// nothing.
pub struct Candidate<'a> {
    parts: RequestParts<'a>,
    level: Level,
    scopes: Scopes,
    wants_events: bool,
}

impl<'a> Candidate<'a> {
    #[inline]
    pub(crate) fn new(request: &'a mut dyn Describe, config: &'a Config, level: Level) -> Self {
        Self {
            parts: RequestParts::new(request, config),
            level,
            scopes: Scopes::default(),
            wants_events: false,
        }
    }

    /// Starts a tracer on this request: makes the record if it is the first, calls its `start`, and
    /// takes note of the level, events and scope it wants. `None` if one of these hooks panicked.
    ///
    /// This is what [`Tracer::try_start`] does unless overridden. Decline before it: the record and
    /// the scope that it makes stay for the whole RPC.
    #[inline]
    pub fn start<T: Tracer + ?Sized>(&mut self, tracer: &T) -> Option<T::State> {
        let rpc = self.parts.take_rpc(self.level);
        let state = self.start_on(&rpc, tracer);
        self.parts.rpc = Some(rpc);
        state
    }

    #[inline]
    fn start_on<T: Tracer + ?Sized>(&mut self, rpc: &RpcInfo, tracer: &T) -> Option<T::State> {
        let level = contain::<T, _>("level", || tracer.level())?;
        let wants_events = contain::<T, _>("wants_events", || tracer.wants_events())?;
        rpc.stats().raise_level(level);
        self.wants_events |= wants_events;
        let state = contain::<T, _>("start", || tracer.start(rpc, &mut self.parts))?;
        self.scopes.push_from(tracer, Some(&state), rpc);
        Some(state)
    }

    /// The request.
    #[must_use]
    pub fn request(&self) -> &RequestParts<'a> {
        &self.parts
    }

    /// The sample key, if a tracer asked for it.
    #[inline]
    pub(crate) fn sample_key(&self) -> Option<SampleKey> {
        self.parts.sample_key()
    }

    /// What the tracers that started have made: the record, their scopes, and whether one wants events.
    #[inline]
    pub(crate) fn into_started(self) -> (Option<RpcInfo>, Scopes, bool) {
        (self.parts.rpc, self.scopes, self.wants_events)
    }
}

impl fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("request", &self.parts)
            .finish_non_exhaustive()
    }
}
