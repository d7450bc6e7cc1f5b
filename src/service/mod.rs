//! The traced service: its future and bodies, what it needs of requests and responses, and the guard that
//! calls `finish`.

mod body_types;
pub(crate) mod errors;
pub(crate) mod fast_path;
mod future;
mod guard;
mod http;
mod outcome;
mod request_body;
#[cfg(feature = "reqwest")]
mod reqwest;
mod response;
mod response_body;
mod stage;
mod start;

use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

pub(crate) use body_types::BodyTypes;
pub(crate) use errors::view_as;
pub use future::ResponseFuture;
pub use guard::RpcGuard;
pub use request_body::RequestBody;
pub use response::TracedResponse;
pub use response_body::ResponseBody;
pub use stage::{Stage, StageFuture, StageLayer};
pub(crate) use start::{LevelOf, Shared};
use tower_service::Service;

pub use crate::{
    config::LevelHandle,
    tracer::request::{RequestObserver, TracedRequest},
};
use crate::{rpc::Level, tracer::Tracer};

/// A service whose RPCs are traced; made by [`TracerLayer`](crate::TracerLayer).
pub struct TracerService<S, T> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared<T>>,
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
        let level = self.shared.level(&mut request);
        if level == Level::Disabled {
            return ResponseFuture::bare(self.inner.call(request));
        }
        let guard = self.shared.start(level, &mut request);
        ResponseFuture::new(&mut self.inner, request, guard)
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
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}
