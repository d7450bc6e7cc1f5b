use std::{fmt, sync::Arc};

use crate::{
    panics::contain,
    rpc::{Level, RpcInfo, Scope},
    tracer::{Candidate, RequestParts, StreamEvent, Tracer},
};

/// Is finished for some RPCs only; made by [`Tracer::finish_if`], [`Tracer::slower_than`] and
/// [`Tracer::only_failed`].
#[derive(Clone)]
pub struct FinishIf<T, P> {
    inner: T,
    wanted: P,
}

impl<T, P> FinishIf<T, P> {
    pub(in crate::tracer) fn new(inner: T, wanted: P) -> Self {
        Self { inner, wanted }
    }
}

impl<T, P> Tracer for FinishIf<T, P>
where
    T: Tracer,
    P: Fn(&RpcInfo) -> bool + Send + Sync + 'static,
{
    type State = T::State;

    inner! { start rest }

    fn finish(&self, state: Self::State, rpc: &RpcInfo) {
        // A panic here must not unwind through the state, whose drop may panic too.
        if contain::<Self, _>("finish", || (self.wanted)(rpc)) == Some(true) {
            self.inner.finish(state, rpc);
        } else {
            self.inner.discard(state);
        }
    }

    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Self::State> {
        self.inner.try_start(candidate)
    }
}

impl<T: fmt::Debug, P> fmt::Debug for FinishIf<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinishIf")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
