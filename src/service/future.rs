use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::{RpcGuard, TracedResponse, outcome::Cause};
use crate::{rpc::RpcInfo, tracer::Tracer};

pin_project! {
    /// The future of a [`TracerService`](crate::service::TracerService).
    pub struct ResponseFuture<F, T: Tracer> {
        #[pin]
        state: State<F, T>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, T: Tracer> {
        // Untraced: must add no overhead.
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
        // Empty only in the drop, which runs within the scopes.
        #[pin]
        inner: Option<F>,
        guard: RpcGuard<T>,
    }

    impl<F, T: Tracer> PinnedDrop for TracedFuture<F, T> {
        #[inline]
        fn drop(this: Pin<&mut Self>) {
            if !this.guard.is_untraced() {
                this.drop_in_scope();
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
    pub(super) fn new<S, Req>(service: &mut S, request: Req, mut guard: RpcGuard<T>) -> Self
    where
        S: Service<Req, Future = F>,
    {
        if guard.is_bare() {
            return Self::bare(service.call(request));
        }
        let mut inner = None;
        guard.run(|| inner = Some(service.call(request)), |_| {});
        let inner = TracedFuture { inner, guard };
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
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response.attach(RpcGuard::untraced()))),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            },
            StateProjection::Traced { inner } => inner.poll_traced(cx),
        }
    }
}

impl<F, T: Tracer> TracedFuture<F, T> {
    /// Apart from the poll of an untraced future, which must add no overhead.
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
        let guard = this.guard;
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Pending;
        };
        let mut polled = Poll::Pending;
        guard.run(|| polled = inner.poll(cx), |_| {});
        if let Poll::Ready(Ok(response)) = &mut polled {
            guard.insert_into_response(response);
        }
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response.attach(guard.take()))),
            Poll::Ready(Err(error)) => {
                guard.finish_with_error(&error, Cause::ServiceError);
                Poll::Ready(Err(error))
            }
        }
    }

    /// Dropped before the response was there, or after an error.
    #[cold]
    fn drop_in_scope(self: Pin<&mut Self>) {
        let mut this = self.project();
        this.guard.drop_in_scope(|| this.inner.set(None));
    }
}

impl<F, T: Tracer> ResponseFuture<F, T> {
    fn rpc(&self) -> Option<&RpcInfo> {
        match &self.state {
            State::Bare { .. } => None,
            State::Traced { inner } => inner.guard.rpc(),
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
