//! The layer and what it wraps: service, future, bodies, and the guard that makes `finish` happen.

mod body;
mod cause;
mod counter;
mod ending;
mod future;
mod http;
mod layer;
mod mark;
mod open;
mod response;

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    task::{Context, Poll},
};

pub use body::ResponseBody;
pub use future::ResponseFuture;
use layer::Shared;
pub use layer::{LevelHandle, TracerLayer};
pub use mark::{MarkFuture, MarkLayer, MarkService};
pub use open::OpenRpc;
pub use response::TracedResponse;
use tower_service::Service;

use self::ending::Cause;
use crate::{
    rpc::Level,
    tracer::{Candidate, TracedRequest, Tracer},
};

/// A service whose RPCs are traced; made by [`TracerLayer`].
pub struct TracerService<S, T> {
    inner: S,
    shared: Arc<Shared<T>>,
}

impl<S, T> TracerService<S, T> {
    /// The wrapped service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The wrapped service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The wrapped service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, T, Req, E> Service<Req> for TracerService<S, T>
where
    S: Service<Req, Error = E>,
    S::Response: TracedResponse,
    E: fmt::Display + 'static,
    Req: TracedRequest,
    T: Tracer,
{
    type Response = <S::Response as TracedResponse>::Traced<T>;
    type Error = E;
    type Future = ResponseFuture<S::Future, T>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let mut open = self.shared.open(&mut request);
        if !open.is_open() {
            let future = open.enter(|| self.inner.call(request));
            return ResponseFuture::new(future, open);
        }
        let inner = &mut self.inner;
        let mut future = None;
        let called = unwinding(|| future = Some(open.enter(|| inner.call(request))));
        match (called, future) {
            (Ok(()), Some(future)) => ResponseFuture::new(future, open),
            (Ok(()), None) => unreachable!("a call that does not panic returns"),
            (Err(panic), _) => {
                open.end(&Cause::Panic(&*panic));
                resume_unwind(panic)
            }
        }
    }
}

/// Runs code of the inner service and catches its panic for the record; the caller lets it go on.
///
/// What the code gives is put where it belongs by `f` itself: a result would be moved once more.
#[inline]
fn unwinding(f: impl FnOnce()) -> Result<(), Box<dyn Any + Send>> {
    // Nothing of the layer's is touched by the code; what the service leaves half done is its own,
    // as it would be without the layer.
    catch_unwind(AssertUnwindSafe(f))
}

impl<T: Tracer> Shared<T> {
    /// Starts the tracers on a request, and has it observed.
    fn open<Req: TracedRequest>(self: &Arc<Self>, request: &mut Req) -> OpenRpc<T> {
        let level = self.settings.level(request);
        if level == Level::Disabled {
            return OpenRpc::closed();
        }
        let role = self.settings.role(request);
        let describe =
            |request: &mut dyn TracedRequest| self.settings.describe(request, role, level);
        let mut candidate = Candidate::new(request, role, &describe);
        let tracer = &*self.tracer;
        let state =
            crate::tracer::contain::<T, _>("try_start", || tracer.try_start(&mut candidate))
                .flatten();
        let started = candidate.into_started();
        let Some(rpc) = started.rpc else {
            return OpenRpc::declined(started.draw.get());
        };
        let (open, observer) = OpenRpc::new(
            Arc::clone(self),
            rpc,
            state,
            started.scopes,
            started.wants_events,
        );
        if let (Some(sink), Some(headers)) = (&observer.sink, request.headers()) {
            let rpc = observer.rpc();
            let now = rpc.map_or(0, |rpc| rpc.stats().now());
            sink.emit(crate::tracer::WireEventKind::RequestHeaders(headers), now);
        }
        request.observe(observer);
        open
    }
}

#[cfg(feature = "tonic")]
impl<S: tonic::server::NamedService, T> tonic::server::NamedService for TracerService<S, T> {
    const NAME: &'static str = S::NAME;
}

impl<S: Clone, T> Clone for TracerService<S, T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S: fmt::Debug, T> fmt::Debug for TracerService<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracerService")
            .field("inner", &self.inner)
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}
