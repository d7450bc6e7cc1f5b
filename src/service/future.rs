use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::{OpenRpc, TracedResponse, cause::Failure, ending::Cause};
use crate::{rpc::RpcInfo, tracer::Tracer};

pin_project! {
    /// The future of a [`TracerService`](crate::TracerService).
    pub struct ResponseFuture<F, T: Tracer> {
        #[pin]
        state: State<F, T>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, T: Tracer> {
        // Nobody looks at it, which is to cost nothing.
        Bare {
            #[pin]
            inner: F,
        },
        Traced {
            #[pin]
            inner: TracedFuture<F, T>,
        },
    }
}

pin_project! {
    struct TracedFuture<F, T: Tracer> {
        // Empty only in the drop, which has to happen within the scope.
        #[pin]
        inner: Option<F>,
        open: OpenRpc<T>,
    }

    impl<F, T: Tracer> PinnedDrop for TracedFuture<F, T> {
        #[inline]
        fn drop(this: Pin<&mut Self>) {
            if !this.open.is_closed() {
                this.leave();
            }
        }
    }
}

impl<F, T: Tracer> ResponseFuture<F, T> {
    #[inline]
    pub(super) fn bare(inner: F) -> Self {
        Self {
            state: State::Bare { inner },
        }
    }

    /// Calls the service.
    #[inline]
    pub(super) fn new<S, Req>(service: &mut S, request: Req, mut open: OpenRpc<T>) -> Self
    where
        S: Service<Req, Future = F>,
    {
        if open.is_bare() {
            return Self::bare(service.call(request));
        }
        let mut inner = None;
        open.run(|| inner = Some(service.call(request)), |_| {});
        let inner = TracedFuture { inner, open };
        Self {
            state: State::Traced { inner },
        }
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
        match self.project().state.project() {
            StateProjection::Bare { inner } => match inner.poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response.traced(OpenRpc::closed()))),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            },
            StateProjection::Traced { inner } => inner.poll_traced(cx),
        }
    }
}

impl<F, T: Tracer> TracedFuture<F, T> {
    /// Apart from the poll of a future that nobody looks at.
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
                let failure = Failure::new(&error, open.error_types());
                open.end(&Cause::Service(failure));
                Poll::Ready(Err(error))
            }
        }
    }

    /// Dropped before the response was there, or after an error.
    #[cold]
    fn leave(self: Pin<&mut Self>) {
        let mut this = self.project();
        this.open.leave(|| this.inner.set(None));
    }
}

impl<F, T: Tracer> ResponseFuture<F, T> {
    fn rpc(&self) -> Option<&RpcInfo> {
        match &self.state {
            State::Bare { .. } => None,
            State::Traced { inner } => inner.open.rpc(),
        }
    }
}

impl<F, T: Tracer> fmt::Debug for ResponseFuture<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("rpc", &self.rpc())
            .finish_non_exhaustive()
    }
}
