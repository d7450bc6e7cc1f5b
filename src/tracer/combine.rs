//! What the combinators of [`Tracer`] return, and other tracers made from tracers.
//!
//! They nest as they are written: `tracer.failed().filter(wanted)` asks the filter first.

use std::{
    error::Error,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use super::{Candidate, RequestParts, Tracer, WireEvent, contain};
use crate::rpc::{Level, RpcInfo, Scope};

/// Hooks that are the inner tracer's.
macro_rules! inner {
    ($($hook:ident)*) => {$(inner!(@ $hook);)*};
    (@ start) => {
        fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State {
            self.inner.start(rpc, request)
        }
    };
    (@ finish) => {
        fn finish(&self, state: Self::State, rpc: &RpcInfo) {
            self.inner.finish(state, rpc);
        }
    };
    (@ rest) => {
        fn discard(&self, state: Self::State) {
            self.inner.discard(state);
        }

        fn level(&self) -> Level {
            self.inner.level()
        }

        fn wants_events(&self) -> bool {
            self.inner.wants_events()
        }

        fn event(&self, state: &mut Self::State, rpc: &RpcInfo, event: &WireEvent<'_>) {
            self.inner.event(state, rpc, event);
        }

        fn scope(&self, state: &Self::State, rpc: &RpcInfo) -> Option<Arc<dyn Scope>> {
            self.inner.scope(state, rpc)
        }
    };
}

/// A tracer from a closure, which is called once with each RPC, when it is over.
///
/// ```
/// use std::sync::mpsc;
/// use tower_tracer::on_finish;
///
/// let (costs, all_costs) = mpsc::channel();
/// let tracer = on_finish(move |rpc| {
///     let _ = costs.send((rpc.path().to_owned(), rpc.stats().cost()));
/// });
/// # mod doc { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/call.rs")); }
/// # doc::call(tracer, ["/shop.Cart/Add"]);
///
/// // A call of the cart later:
/// let (path, cost) = all_costs.recv().unwrap();
/// assert_eq!(path, "/shop.Cart/Add");
/// assert!(cost.is_some());
/// ```
pub fn on_finish<F>(finish: F) -> OnFinish<F>
where
    F: Fn(&RpcInfo) + Send + Sync + 'static,
{
    OnFinish(finish)
}

/// A closure as a tracer; made by [`on_finish`](crate::on_finish).
#[derive(Clone)]
pub struct OnFinish<F>(F);

impl<F> Tracer for OnFinish<F>
where
    F: Fn(&RpcInfo) + Send + Sync + 'static,
{
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        (self.0)(rpc);
    }
}

impl<F> fmt::Debug for OnFinish<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnFinish").finish_non_exhaustive()
    }
}

/// Takes part in some RPCs only; made by [`Tracer::filter`] and [`Tracer::sample`].
#[derive(Clone)]
pub struct Filter<T, P> {
    inner: T,
    wanted: P,
}

impl<T, P> Filter<T, P> {
    pub(super) fn new(inner: T, wanted: P) -> Self {
        Self { inner, wanted }
    }
}

impl<T, P> Tracer for Filter<T, P>
where
    T: Tracer,
    P: Fn(&Candidate<'_>) -> bool + Send + Sync + 'static,
{
    type State = T::State;

    inner! { start finish rest }

    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Self::State> {
        if !(self.wanted)(candidate) {
            return None;
        }
        self.inner.try_start(candidate)
    }
}

impl<T: fmt::Debug, P> fmt::Debug for Filter<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// A ratio that is not from 0 to 1, given to [`Tracer::sample`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InvalidRatio(f64);

impl InvalidRatio {
    pub(super) fn check(ratio: f64) -> Result<(), Self> {
        // False for NaN too.
        if (0.0..=1.0).contains(&ratio) {
            Ok(())
        } else {
            Err(Self(ratio))
        }
    }
}

impl fmt::Display for InvalidRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a sampling ratio is a number from 0 to 1, not {}",
            self.0
        )
    }
}

impl Error for InvalidRatio {}

/// Is finished for some RPCs only; made by [`Tracer::finish_if`], [`Tracer::slow`] and
/// [`Tracer::failed`].
#[derive(Clone)]
pub struct FinishIf<T, P> {
    inner: T,
    wanted: P,
}

impl<T, P> FinishIf<T, P> {
    pub(super) fn new(inner: T, wanted: P) -> Self {
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

/// A tracer that can be replaced while it is in use; made by [`Tracer::reload`].
///
/// Clones are handles of the same tracer: give one to the layer and keep one.
pub struct Reload<T>(Arc<RwLock<Arc<T>>>);

impl<T> Reload<T> {
    pub(super) fn new(tracer: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(tracer))))
    }

    /// Replaces the tracer: RPCs that start from now on get the new one. Those that run keep the
    /// one they started with, which is dropped when the last of them is over.
    pub fn set(&self, tracer: T) {
        let tracer = Arc::new(tracer);
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, tracer);
        // The old one's drop is not ours to time: it may flush.
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
        // Where it was replaced, this may be the last of it, whose drop may panic too.
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

    fn event(&self, (tracer, state): &mut Self::State, rpc: &RpcInfo, event: &WireEvent<'_>) {
        if tracer.wants_events() {
            tracer.event(state, rpc, event);
        }
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

/// One of two tracers, chosen when the layer is made. Its state, too, is one of two.
///
/// ```
/// use tower_tracer::{TracerLayer, combine::Either, on_finish};
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

    fn event(&self, state: &mut Self::State, rpc: &RpcInfo, event: &WireEvent<'_>) {
        match (self, state) {
            (Self::Left(a), Either::Left(state)) => a.event(state, rpc, event),
            (Self::Right(b), Either::Right(state)) => b.event(state, rpc, event),
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
