use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    rpc::{Event, RpcInfo},
    tracer::TracedRequest,
};

/// Records a pair of events around a service inside of a [`TracerLayer`](crate::TracerLayer): one
/// when it is called, one when its future resolves or is dropped.
///
/// Around a handler, inside of all middleware, the time between them is the handler's own,
/// including its waits for the request's messages. For a handler that streams its answer, it ends
/// when the handler returns the stream, not when the stream ends. Below a buffer or a pool, the
/// time from [`Event::RPC_START`] to the first of them is what it made the request wait; below a
/// retry, the pair is the first attempt's.
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_tracer::{Event, Level, TracerLayer, service::StageLayer};
///
/// static STORE_START: Event = Event::new("store_start", Level::Base);
/// static STORE_FINISH: Event = Event::new("store_finish", Level::Base);
///
/// # use {http::{Request, Response}, tower::ServiceExt as _, tower_tracer::RpcInfo};
/// # async fn store(_: Request<String>) -> Result<Response<String>, std::io::Error> {
/// #     Ok(Response::default())
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let service = ServiceBuilder::new()
///     .layer(TracerLayer::new(()).insert_into_response())
///     .concurrency_limit(100)
///     .layer(StageLayer::new(STORE_START, STORE_FINISH))
///     .service_fn(store);
///
/// let response = service.oneshot(Request::default()).await.unwrap();
/// let stats = response.extensions().get::<RpcInfo>().unwrap().stats();
/// assert!(stats.between(STORE_START, STORE_FINISH) <= stats.duration());
/// assert!(stats.at(STORE_FINISH).is_some());
/// # }
/// ```
///
/// On a tonic server it goes around the generated service:
/// `.add_service(StageLayer::server_handle().layer(EchoServer::new(handler)))`.
#[derive(Clone, Copy, Debug)]
pub struct StageLayer {
    start: Event,
    finish: Event,
}

impl StageLayer {
    /// Records these events.
    #[must_use]
    pub const fn new(start: Event, finish: Event) -> Self {
        Self { start, finish }
    }

    /// Records [`Event::SERVER_HANDLE_START`] and [`Event::SERVER_HANDLE_FINISH`].
    #[must_use]
    pub const fn server_handle() -> Self {
        Self::new(Event::SERVER_HANDLE_START, Event::SERVER_HANDLE_FINISH)
    }
}

impl<S> Layer<S> for StageLayer {
    type Service = Stage<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Stage { inner, mark: *self }
    }
}

/// A service that records a pair of events; made by [`StageLayer`].
#[derive(Clone, Debug)]
pub struct Stage<S> {
    inner: S,
    mark: StageLayer,
}

impl<S, Req> Service<Req> for Stage<S>
where
    S: Service<Req>,
    Req: TracedRequest,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = StageFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let rpc = request.rpc().cloned().or_else(RpcInfo::current);
        if let Some(rpc) = &rpc {
            rpc.record(self.mark.start);
        }
        let finish = Finish {
            rpc,
            event: self.mark.finish,
        };
        StageFuture {
            inner: self.inner.call(request),
            finish,
        }
    }
}

#[cfg(feature = "tonic")]
impl<S: tonic::server::NamedService> tonic::server::NamedService for Stage<S> {
    const NAME: &'static str = S::NAME;
}

pin_project! {
    /// The future of a [`Stage`].
    pub struct StageFuture<F> {
        #[pin]
        inner: F,
        finish: Finish,
    }
}

struct Finish {
    rpc: Option<RpcInfo>,
    event: Event,
}

impl Drop for Finish {
    fn drop(&mut self) {
        if let Some(rpc) = self.rpc.take() {
            rpc.record(self.event);
        }
    }
}

impl<F: Future> Future for StageFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Here while it is polled: a panic ends the RPC before the future is dropped.
        let mut finish = Finish {
            rpc: this.finish.rpc.take(),
            event: this.finish.event,
        };
        let polled = this.inner.poll(cx);
        if polled.is_pending() {
            this.finish.rpc = finish.rpc.take();
        }
        polled
    }
}

impl<F> fmt::Debug for StageFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageFuture").finish_non_exhaustive()
    }
}
