//! The body of a traced request.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{errors::is_stream_failure, fast_path};
use crate::{protocol::BodyReader, tracer::RequestObserver};

pin_project! {
    /// The body of a traced request. It is boxed back into the body type that it wraps; see
    /// [`TracerLayer::body_type`](crate::TracerLayer::body_type).
    pub struct RequestBody<B> {
        #[pin]
        inner: Option<B>,
        reader: BodyReader,
        observer: RequestObserver,
        done: bool,
    }

    impl<B> PinnedDrop for RequestBody<B> {
        #[inline]
        fn drop(this: Pin<&mut Self>) {
            if !this.done || this.observer.has_scopes() {
                this.drop_in_scope();
            }
        }
    }
}

impl<B> RequestBody<B> {
    /// Dropped before its end was seen, or while tracers have scopes.
    #[inline(never)]
    fn drop_in_scope(self: Pin<&mut Self>) {
        let mut this = self.project();
        if !*this.done
            && let Some(meter) = this.observer.meter()
        {
            meter.end(this.reader, this.reader.is_at_end());
        }
        this.observer.run(|| this.inner.set(None));
    }

    #[inline]
    pub(super) fn new(inner: B, reader: BodyReader, observer: RequestObserver) -> Self {
        Self {
            inner: Some(inner),
            reader,
            observer,
            done: false,
        }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body,
    B::Error: fmt::Display + 'static,
{
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let (observer, reader) = (this.observer, this.reader);
        let Some(mut inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        if *this.done {
            return match observer.has_scopes() {
                true => observer.run_poll(|| inner.poll_frame(cx)),
                false => inner.poll_frame(cx),
            };
        }
        reader.before_poll();
        let polled = observer.run_poll(|| inner.as_mut().poll_frame(cx));
        let cell = observer.quiet_cell();
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && fast_path::count_message(reader, cell, frame)
        {
            if let Some(cell) = cell.filter(|_| inner.is_end_stream()) {
                cell.complete();
                *this.done = true;
            }
            observer.progress();
            return polled;
        }
        *this.done = examine(&polled, &*inner, reader, observer);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            observer.progress();
        }
        polled
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

/// Counts what a poll returned. Returns whether that is the end of the body.
#[inline(never)]
fn examine<B>(
    polled: &Polled<B>,
    inner: &B,
    reader: &mut BodyReader,
    observer: &RequestObserver,
) -> bool
where
    B: Body,
    B::Error: fmt::Display + 'static,
{
    let Some(meter) = observer.meter() else {
        return false;
    };
    let complete = match polled {
        Poll::Pending => return false,
        Poll::Ready(Some(Ok(frame))) => {
            if let Some(data) = frame.data_ref() {
                meter.read(reader, data);
                if !inner.is_end_stream() {
                    return false;
                }
            }
            true
        }
        Poll::Ready(Some(Err(error))) => {
            if is_stream_failure(error) {
                meter.lose();
            }
            false
        }
        Poll::Ready(None) => true,
    };
    meter.end(reader, complete);
    true
}

impl<B: fmt::Debug> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("inner", &self.inner)
            .field("rpc", &self.observer.rpc())
            .finish_non_exhaustive()
    }
}
