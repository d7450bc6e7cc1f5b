use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::{OpenRpc, TracedResponse, cause::Failure, ending::Cause};
use crate::tracer::Tracer;

pin_project! {
    /// The future of a [`TracerService`](crate::TracerService).
    pub struct ResponseFuture<F, T: Tracer> {
        // Empty only in the drop, which has to happen within the scope.
        #[pin]
        inner: Option<F>,
        open: OpenRpc<T>,
    }

    impl<F, T: Tracer> PinnedDrop for ResponseFuture<F, T> {
        #[inline]
        fn drop(this: Pin<&mut Self>) {
            if this.open.is_open() {
                this.leave();
            }
        }
    }
}

impl<F, T: Tracer> ResponseFuture<F, T> {
    /// Dropped before the response was there.
    #[cold]
    fn leave(self: Pin<&mut Self>) {
        let mut this = self.project();
        this.open.abandon(|| this.inner.set(None));
    }

    /// Calls the service.
    #[inline]
    pub(super) fn new<S, Req>(service: &mut S, request: Req, open: OpenRpc<T>) -> Self
    where
        S: Service<Req, Future = F>,
    {
        if open.is_bare() {
            // A new guard: the given one was just written, and to move it would wait for that.
            return Self {
                inner: Some(service.call(request)),
                open: OpenRpc::closed(),
            };
        }
        let mut open = open;
        let mut inner = None;
        open.run(|| inner = Some(service.call(request)), |_| {});
        Self { inner, open }
    }
}

impl<F, T, R, E> Future for ResponseFuture<F, T>
where
    F: Future<Output = Result<R, E>>,
    R: TracedResponse,
    E: fmt::Display + 'static,
    T: Tracer,
{
    type Output = Result<R::Traced<T>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.open.is_bare() {
            return self.poll_traced(cx);
        }
        let Some(inner) = self.project().inner.as_pin_mut() else {
            return Poll::Pending;
        };
        match inner.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response.traced(OpenRpc::closed()))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

impl<F, T: Tracer> ResponseFuture<F, T> {
    /// Apart from the poll of a future that nobody looks at, which is to cost nothing.
    #[inline(never)]
    fn poll_traced<R, E>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<R::Traced<T>, E>>
    where
        F: Future<Output = Result<R, E>>,
        R: TracedResponse,
        E: fmt::Display + 'static,
    {
        let this = self.project();
        let open = this.open;
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Pending;
        };
        let mut polled = Poll::Pending;
        open.run(|| polled = inner.poll(cx), |_| {});
        if let Poll::Ready(Ok(response)) = &mut polled {
            open.tell_caller(response);
        }
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response.traced(open.take()))),
            Poll::Ready(Err(error)) => {
                open.end(&Cause::Service(Failure::new(&error)));
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<F, T: Tracer> fmt::Debug for ResponseFuture<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("rpc", &self.open.rpc())
            .finish_non_exhaustive()
    }
}
