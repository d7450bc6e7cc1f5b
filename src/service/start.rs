//! The start of an RPC: its level, its tracers, its guard, and the count of its request.

use std::{any::type_name, sync::Arc};

use super::{RpcGuard, body_types::BodyTypes};
use crate::{
    config::Config,
    panics::{contain, contain_as},
    rpc::Level,
    tracer::{Candidate, Context, Describe, RequestObserver, RequestParts, TracedRequest, Tracer},
};

/// What the services of one layer share.
pub(crate) struct Shared<T> {
    // Empty only in the drop.
    pub(crate) tracer: Option<Arc<T>>,
    pub(crate) level_of: Option<Arc<LevelOf>>,
    pub(crate) body_types: BodyTypes,
    pub(crate) config: Config,
}

/// Chooses the level of a request.
pub(crate) type LevelOf = dyn Fn(&RequestParts<'_>) -> Level + Send + Sync;

impl<T> Shared<T> {
    /// The level of a request.
    #[inline]
    pub(super) fn level(&self, request: &mut dyn Describe) -> Level {
        let level = self.config.level.get();
        match &self.level_of {
            None => level,
            Some(choose) => {
                let parts = RequestParts::new(request, &self.config);
                contain::<LevelOf, _>("level_of", || choose(&parts)).unwrap_or(level)
            }
        }
    }
}

impl<T: Tracer> Shared<T> {
    /// Starts the tracers on a request, and observes it.
    #[inline]
    pub(super) fn start<R: TracedRequest>(
        self: &Arc<Self>,
        level: Level,
        request: &mut R,
    ) -> RpcGuard<T> {
        let mut candidate = Candidate::new(request, &self.config, level);
        let start = || self.tracer.as_ref()?.try_start(&mut candidate);
        let state = contain::<T, _>("try_start", start).flatten();
        let sample_key = candidate.sample_key();
        let (rpc, scopes, wants_events) = candidate.into_started();
        let Some(rpc) = rpc else {
            if let (Some(state), Some(tracer)) = (state, &self.tracer) {
                // A state that was made without a record belongs to no RPC.
                contain::<T, _>("discard", || tracer.discard(state));
            }
            return RpcGuard::declined(sample_key);
        };
        scopes.publish(&rpc);
        let mut observer = RequestObserver {
            context: Context::new(rpc.clone(), scopes.clone()),
            sink: None,
        };
        let mut guard = RpcGuard::new(Arc::clone(self), rpc, state, scopes);
        if wants_events || self.config.progress_every.is_some() {
            observer.sink = guard.watch(wants_events);
            observer.headers(request.headers());
        }
        if let Some(observer) = self.body_types.observe(request, observer) {
            request.observe(observer);
        }
        guard
    }
}

/// An RPC that outlives its service may be the last holder of a user's tracer, whose drop can panic as its
/// hooks can.
impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        contain_as("drop", type_name::<T>, || self.tracer = None);
        contain::<LevelOf, _>("drop", || self.level_of = None);
    }
}
