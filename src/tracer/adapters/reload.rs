use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    panics::contain,
    rpc::{Level, RpcInfo, Scope},
    tracer::{Candidate, RequestParts, StreamEvent, Tracer},
};

/// A tracer that can be replaced while it is in use; made by [`Tracer::reloadable`].
///
/// Clones are handles of the same tracer: give one to the layer and keep one.
pub struct Reload<T>(Arc<RwLock<Arc<T>>>);

impl<T> Reload<T> {
    pub(in crate::tracer) fn new(tracer: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(tracer))))
    }

    /// Replaces the tracer: RPCs that start from now on get the new one. Those that run keep the
    /// one they started with, which is dropped when the last of them is over.
    pub fn set(&self, tracer: T) {
        let tracer = Arc::new(tracer);
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, tracer);
        // The old one's drop may flush, so it must not happen under the lock.
        drop(current);
        drop(old);
    }

    /// The tracer that RPCs get now.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }
}

impl<T: Tracer> Tracer for Reload<T> {
    /// The tracer that was started, and its state.
    type State = (Arc<T>, T::State);

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State {
        let tracer = self.get();
        let state = tracer.start(rpc, request);
        (tracer, state)
    }

    fn finish(&self, (tracer, state): Self::State, rpc: &RpcInfo) {
        // If it was replaced, this may be its last handle, and its drop may panic too.
        contain::<T, _>("finish", || tracer.finish(state, rpc));
        contain::<T, _>("drop", || drop(tracer));
    }

    fn discard(&self, (tracer, state): Self::State) {
        contain::<T, _>("discard", || tracer.discard(state));
        contain::<T, _>("drop", || drop(tracer));
    }

    fn level(&self) -> Level {
        self.get().level()
    }

    /// True: only the tracer that an RPC started with can say, and is asked in `event`.
    fn wants_events(&self) -> bool {
        true
    }

    fn on_event(&self, (tracer, state): &mut Self::State, rpc: &RpcInfo, event: &StreamEvent<'_>) {
        if tracer.wants_events() {
            tracer.on_event(state, rpc, event);
        }
    }

    fn progress(&self, (tracer, state): &mut Self::State, rpc: &RpcInfo) {
        tracer.progress(state, rpc);
    }

    fn scope(&self, (tracer, state): &Self::State, rpc: &RpcInfo) -> Option<Arc<dyn Scope>> {
        tracer.scope(state, rpc)
    }

    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Self::State> {
        let tracer = self.get();
        match contain::<T, _>("try_start", || tracer.try_start(candidate)).flatten() {
            Some(state) => Some((tracer, state)),
            None => {
                contain::<T, _>("drop", || drop(tracer));
                None
            }
        }
    }
}

impl<T> Clone for Reload<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for Reload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reload").field(&self.get()).finish()
    }
}
