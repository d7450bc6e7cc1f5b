use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{RpcGuard, fast_path, outcome::Cause};
use crate::{
    protocol::{BodyReader, EndOfBody},
    rpc::{Event, RpcInfo},
    tracer::{StreamEventKind, Tracer},
};

pin_project! {
    /// The body of a traced response. Its RPC is over when it ends or is dropped.
    pub struct ResponseBody<B, T: Tracer> {
        #[pin]
        state: State<B, T>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<B, T: Tracer> {
        // Untraced: must add no overhead.
        Bare {
            #[pin]
            inner: B,
        },
        Traced {
            #[pin]
            inner: TracedBody<B, T>,
        },
    }
}

pin_project! {
    struct TracedBody<B, T: Tracer> {
        // Empty only in the drop, which runs within the scopes.
        #[pin]
        inner: Option<B>,
        reader: BodyReader,
        guard: RpcGuard<T>,
    }

    impl<B, T: Tracer> PinnedDrop for TracedBody<B, T> {
        #[inline]
        fn drop(this: Pin<&mut Self>) {
            if !this.guard.is_untraced() {
                this.drop_in_scope();
            }
        }
    }
}

impl<B, T: Tracer> ResponseBody<B, T> {
    #[inline]
    pub(super) fn bare(inner: B) -> Self {
        Self {
            state: State::Bare { inner },
        }
    }

    #[inline]
    pub(super) fn new(inner: B, reader: BodyReader, guard: RpcGuard<T>) -> Self {
        let inner = Some(inner);
        Self {
            state: State::Traced {
                inner: TracedBody {
                    inner,
                    reader,
                    guard,
                },
            },
        }
    }

    #[inline]
    fn inner(&self) -> Option<&B> {
        match &self.state {
            State::Bare { inner } => Some(inner),
            State::Traced { inner } => inner.inner.as_ref(),
        }
    }

    fn rpc(&self) -> Option<&RpcInfo> {
        match &self.state {
            State::Bare { .. } => None,
            State::Traced { inner } => inner.guard.rpc(),
        }
    }
}

impl<B, T: Tracer> TracedBody<B, T> {
    /// Dropped before its end was seen, or while tracers have scopes.
    #[inline(never)]
    fn drop_in_scope(self: Pin<&mut Self>) {
        let mut this = self.project();
        if let Some(meter) = this.guard.meter() {
            let at_end = this.reader.is_at_end();
            meter.end(this.reader, at_end);
            if at_end && meter.is_empty() {
                this.guard.finish_with(Cause::Headers(None));
            } else if at_end {
                let end = this.reader.body_end();
                this.guard.finish_with(Cause::BodyEnd(end));
            }
        }
        this.guard.drop_in_scope(|| this.inner.set(None));
        let after_ok = this.reader.has_ok();
        this.guard.finish_with(Cause::Dropped { after_ok });
    }
}

type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

impl<B, T> TracedBody<B, T>
where
    B: Body,
    B::Error: fmt::Display + 'static,
    T: Tracer,
{
    /// Apart from the poll of an untraced body, which must add no overhead.
    #[inline(never)]
    fn poll_traced(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B> {
        let this = self.project();
        let (guard, reader) = (this.guard, this.reader);
        let Some(mut inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        reader.before_poll();
        let mut polled = Poll::Pending;
        guard.run_body(
            || polled = inner.as_mut().poll_frame(cx),
            |meter| meter.end(reader, false),
        );
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            if let Some(trailers) = frame.trailers_ref() {
                if fast_path::ends_ok(reader, guard, trailers) {
                    guard.finish_ok();
                    return polled;
                }
            } else if !inner.is_end_stream()
                && fast_path::count_message(reader, guard.quiet_cell(), frame)
            {
                guard.progress();
                return polled;
            }
        }
        examine(&polled, &*inner, reader, guard);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            guard.progress();
        }
        polled
    }
}

/// Counts what a poll returned, and finishes the RPC if that is its end.
#[inline(never)]
fn examine<B, T>(polled: &Polled<B>, inner: &B, reader: &mut BodyReader, guard: &mut RpcGuard<T>)
where
    B: Body,
    B::Error: fmt::Display + 'static,
    T: Tracer,
{
    let Some(meter) = guard.meter() else { return };
    match polled {
        Poll::Pending => {}
        Poll::Ready(Some(Ok(frame))) => {
            if let Some(data) = frame.data_ref() {
                meter.read(reader, data);
                if let Some(end) = reader.end_of_body() {
                    meter.end(reader, true);
                    return finish_by_end_frame(guard, reader, end);
                }
                // The peer may not poll again.
                let at_end = inner.is_end_stream() || reader.is_full();
                if at_end && !reader.awaits_trailers() {
                    meter.end(reader, true);
                    guard.finish_with(Cause::BodyEnd(reader.body_end()));
                }
            } else if let Some(trailers) = frame.trailers_ref() {
                meter.end(reader, true);
                meter.event(Event::TRAILERS, StreamEventKind::Trailers(trailers));
                guard.finish_with(Cause::BodyEnd(reader.trailers_end(trailers)));
            }
        }
        Poll::Ready(Some(Err(error))) => {
            meter.end(reader, false);
            guard.finish_with_error(error, Cause::BodyError);
        }
        Poll::Ready(None) => {
            meter.end(reader, true);
            guard.finish_with(Cause::BodyEnd(reader.body_end()));
        }
    }
}

/// The last frame of the body says how the RPC ended.
fn finish_by_end_frame<T: Tracer>(guard: &mut RpcGuard<T>, reader: &BodyReader, end: EndOfBody) {
    match end {
        EndOfBody::Trailers(trailers) => {
            if let Some(meter) = guard.meter() {
                meter.event(Event::TRAILERS, StreamEventKind::Trailers(&trailers));
            }
            guard.finish_with(Cause::BodyEnd(reader.trailers_end(&trailers)));
        }
        EndOfBody::Status(end) => guard.finish_with(Cause::BodyEnd(end)),
    }
}

impl<B, T> Body for ResponseBody<B, T>
where
    B: Body,
    B::Error: fmt::Display + 'static,
    T: Tracer,
{
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.project().state.project() {
            StateProjection::Bare { inner } => inner.poll_frame(cx),
            StateProjection::Traced { inner } => inner.poll_traced(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner().is_none_or(Body::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The default is `B`'s, and belongs to no RPC. tonic asks for it where a client has an interceptor.
impl<B: Default, T: Tracer> Default for ResponseBody<B, T> {
    fn default() -> Self {
        Self::bare(B::default())
    }
}

impl<B: fmt::Debug, T: Tracer> fmt::Debug for ResponseBody<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("inner", &self.inner())
            .field("rpc", &self.rpc())
            .finish_non_exhaustive()
    }
}
