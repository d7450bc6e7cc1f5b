//! The traced service: its future and bodies, what it needs of requests and responses, and the guard that
//! calls `finish`.

mod errors;
pub(crate) mod fast_path;
mod future;
mod guard;
mod http;
pub(crate) mod layer;
mod outcome;
mod request_body;
mod response;
mod response_body;
mod stage;

use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

pub use future::ResponseFuture;
pub use guard::RpcGuard;
pub use layer::LevelHandle;
use layer::Shared;
pub use response::TracedResponse;
pub use response_body::ResponseBody;
pub use stage::{Stage, StageFuture, StageLayer};
use tower_service::Service;

pub use crate::tracer::request::{RequestObserver, TracedRequest};
use crate::{
    panics::contain,
    rpc::{Level, Slot},
    tracer::{Candidate, Known, Started, Tracer},
};

/// A service whose RPCs are traced; made by [`TracerLayer`](crate::TracerLayer).
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

    /// Waits until the service is ready, and calls it once.
    ///
    /// It does what tower's `ServiceExt::oneshot` does, and comes before it, so that a compile error
    /// names the trait that a request, response or error type lacks.
    ///
    /// # Errors
    ///
    /// Returns the service's own error.
    pub async fn oneshot<Req>(mut self, request: Req) -> OutputOf<Self, Req>
    where
        Self: Service<Req>,
    {
        poll_fn(|cx| self.poll_ready(cx)).await?;
        let response = self.call(request);
        drop(self);
        response.await
    }
}

type OutputOf<S, Req> = Result<<S as Service<Req>>::Response, <S as Service<Req>>::Error>;

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

    #[inline]
    fn call(&mut self, mut request: Req) -> Self::Future {
        let level = self.shared.settings.level(&mut request);
        if level == Level::Disabled {
            return ResponseFuture::bare(self.inner.call(request));
        }
        let open = self.shared.open(level, &mut request);
        ResponseFuture::new(&mut self.inner, request, open)
    }
}

impl<T: Tracer> Shared<T> {
    /// Starts the tracers on a request, and has it observed.
    #[inline]
    fn open<Req: TracedRequest>(self: &Arc<Self>, level: Level, request: &mut Req) -> RpcGuard<T> {
        let mut started = Started::default();
        let known = Known {
            level,
            told: &self.settings.told,
        };
        let mut candidate = Candidate::new(request, known, &mut started);
        let start = || self.tracer.as_ref()?.try_start(&mut candidate);
        let state = contain::<T, _>("try_start", start).flatten();
        let Some(rpc) = started.rpc else {
            if let (Some(state), Some(tracer)) = (state, &self.tracer) {
                // A state that was made without a record is of no RPC.
                contain::<T, _>("discard", || tracer.discard(state));
            }
            return RpcGuard::declined(started.draw.get());
        };
        started.scopes.tell(&rpc);
        let mut observer = RequestObserver {
            slot: Slot::new(rpc.clone()),
            scopes: started.scopes.clone(),
            sink: None,
        };
        let mut open = RpcGuard::new(Arc::clone(self), rpc, state, started.scopes);
        if started.wants_events {
            observer.sink = open.watch();
            observer.headers(request.headers());
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
