use std::sync::Arc;

use crate::{
    rpc::{Level, RpcInfo, Scope},
    tracer::{Candidate, RequestParts, StreamEvent, Tracer},
};

/// One of two tracers, chosen when the layer is made. Its state, too, is one of two.
///
/// ```
/// use tower_tracer::{TracerLayer, on_finish, tracer::Either};
///
/// # let verbose = true;
/// let tracer = if verbose {
///     Either::Left(on_finish(|rpc| println!("{:?}", rpc.stats())))
/// } else {
///     Either::Right(on_finish(|rpc| println!("{:?}", rpc.stats().status())))
/// };
/// let layer = TracerLayer::new(tracer);
/// # let _ = layer;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The one.
    Left(A),
    /// The other.
    Right(B),
}

impl<A: Tracer, B: Tracer> Tracer for Either<A, B> {
    type State = Either<A::State, B::State>;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State {
        match self {
            Self::Left(a) => Either::Left(a.start(rpc, request)),
            Self::Right(b) => Either::Right(b.start(rpc, request)),
        }
    }

    fn finish(&self, state: Self::State, rpc: &RpcInfo) {
        match (self, state) {
            (Self::Left(a), Either::Left(state)) => a.finish(state, rpc),
            (Self::Right(b), Either::Right(state)) => b.finish(state, rpc),
            // The state of another tracer.
            _ => {}
        }
    }

    fn discard(&self, state: Self::State) {
        match (self, state) {
            (Self::Left(a), Either::Left(state)) => a.discard(state),
            (Self::Right(b), Either::Right(state)) => b.discard(state),
            _ => {}
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::Left(a) => a.level(),
            Self::Right(b) => b.level(),
        }
    }

    fn wants_events(&self) -> bool {
        match self {
            Self::Left(a) => a.wants_events(),
            Self::Right(b) => b.wants_events(),
        }
    }

    fn on_event(&self, state: &mut Self::State, rpc: &RpcInfo, event: &StreamEvent<'_>) {
        match (self, state) {
            (Self::Left(a), Either::Left(state)) => a.on_event(state, rpc, event),
            (Self::Right(b), Either::Right(state)) => b.on_event(state, rpc, event),
            _ => {}
        }
    }

    fn progress(&self, state: &mut Self::State, rpc: &RpcInfo) {
        match (self, state) {
            (Self::Left(a), Either::Left(state)) => a.progress(state, rpc),
            (Self::Right(b), Either::Right(state)) => b.progress(state, rpc),
            _ => {}
        }
    }

    fn scope(&self, state: &Self::State, rpc: &RpcInfo) -> Option<Arc<dyn Scope>> {
        match (self, state) {
            (Self::Left(a), Either::Left(state)) => a.scope(state, rpc),
            (Self::Right(b), Either::Right(state)) => b.scope(state, rpc),
            _ => None,
        }
    }

    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Self::State> {
        match self {
            Self::Left(a) => a.try_start(candidate).map(Either::Left),
            Self::Right(b) => b.try_start(candidate).map(Either::Right),
        }
    }
}
