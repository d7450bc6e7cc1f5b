use std::{
    fmt,
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;

use super::{OpenRpc, TracedResponse, cause::Failure, ending::Cause, unwinding};
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
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.open.is_open() {
                this.open.enter(|| this.inner.set(None));
            }
        }
    }
}

impl<F, T: Tracer> ResponseFuture<F, T> {
    pub(super) fn new(inner: F, open: OpenRpc<T>) -> Self {
        Self {
            inner: Some(inner),
            open,
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

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let open = this.open;
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Pending;
        };
        if !open.is_open() {
            // Nobody traces this one, or it is over.
            let response = ready!(open.enter(|| inner.poll(cx)))?;
            return Poll::Ready(Ok(response.traced(open.take())));
        }
        let mut polled = Poll::Pending;
        if let Err(panic) = unwinding(|| polled = open.enter(|| inner.poll(cx))) {
            open.end(&Cause::Panic(&*panic));
            resume_unwind(panic)
        }
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(mut response)) => {
                if let (Some(settings), Some(rpc)) = (open.settings(), open.rpc())
                    && settings.tell_caller
                {
                    response.carry(rpc);
                }
                Poll::Ready(Ok(response.traced(open.take())))
            }
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
