use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{OpenRpc, cause::Failure, counter::Counter, ending::Cause};
use crate::{
    protocol::{EndStatus, grpc},
    rpc::{Ending, Event, RpcInfo},
    tracer::{RequestObserver, Tracer, WireEventKind},
};

pin_project! {
    /// The body of a traced response: when it ends, or is dropped, its RPC is over.
    pub struct ResponseBody<B, T: Tracer> {
        #[pin]
        state: State<B, T>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<B, T: Tracer> {
        // Nobody looks at it, which is to cost nothing.
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
        // Empty only in the drop, which has to happen within the scope.
        #[pin]
        inner: Option<B>,
        counter: Counter,
        open: OpenRpc<T>,
    }

    impl<B, T: Tracer> PinnedDrop for TracedBody<B, T> {
        #[inline]
        fn drop(this: Pin<&mut Self>) {
            if !this.open.is_closed() {
                this.leave();
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
    pub(super) fn new(inner: B, counter: Counter, open: OpenRpc<T>) -> Self {
        let inner = Some(inner);
        Self {
            state: State::Traced {
                inner: TracedBody {
                    inner,
                    counter,
                    open,
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
            State::Traced { inner } => inner.open.rpc(),
        }
    }
}

impl<B, T: Tracer> TracedBody<B, T> {
    /// Dropped before its end was seen, or where tracers have scopes.
    #[inline(never)]
    fn leave(self: Pin<&mut Self>) {
        let mut this = self.project();
        if let Some(meter) = this.open.meter() {
            let at_end = this.counter.is_at_end();
            this.counter.end(&meter, at_end);
            if at_end && meter.is_empty() {
                this.open.end(&Cause::Headers(&HeaderMap::new()));
            } else if at_end {
                this.open.end(&body_end(this.counter));
            }
        }
        this.open.leave(|| this.inner.set(None));
        if this.counter.has_ok() {
            this.open.end(&Cause::DroppedAfterOk);
        }
    }
}

type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

impl<B, T> TracedBody<B, T>
where
    B: Body,
    B::Error: fmt::Display + 'static,
    T: Tracer,
{
    /// Apart from the poll of a body that nobody looks at, which is to cost nothing.
    #[inline(never)]
    fn poll_traced(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B> {
        let this = self.project();
        let (open, counter) = (this.open, this.counter);
        let Some(mut inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        counter.ask();
        let mut polled = Poll::Pending;
        open.run(
            || polled = inner.as_mut().poll_frame(cx),
            |meter| counter.end(meter, false),
        );
        // The common case, at once: a message of gRPC, or the trailers after one.
        if let Some(cell) = open.quiet_cell()
            && let Poll::Ready(Some(Ok(frame))) = &polled
        {
            if let Some(data) = frame.data_ref() {
                if !inner.is_end_stream() && counter.whole_message(cell, data) {
                    return polled;
                }
            } else if let Some(trailers) = frame.trailers_ref()
                && counter.end_between(cell)
            {
                open.end(&Cause::Trailers(trailers));
                return polled;
            }
        }
        examine_response(&polled, &*inner, counter, open);
        polled
    }
}

/// Counts what came of a poll, and ends the RPC where that is its end.
#[inline(never)]
fn examine_response<B, T>(
    polled: &Polled<B>,
    inner: &B,
    counter: &mut Counter,
    open: &mut OpenRpc<T>,
) where
    B: Body,
    B::Error: fmt::Display + 'static,
    T: Tracer,
{
    let Some(meter) = open.meter() else { return };
    let cause = match polled {
        Poll::Pending => return,
        Poll::Ready(Some(Ok(frame))) => {
            if let Some(data) = frame.data_ref() {
                counter.data(&meter, data);
                if let Some(status) = counter.end_status() {
                    counter.end(&meter, true);
                    return end_by_status(open, status, counter);
                }
                // The peer may not poll again.
                if !inner.is_end_stream() && !counter.is_full() {
                    return;
                }
                if counter.waits() {
                    return;
                }
                counter.end(&meter, true);
                body_end(counter)
            } else if let Some(trailers) = frame.trailers_ref() {
                counter.end(&meter, true);
                meter.event(Event::TRAILERS, WireEventKind::Trailers(trailers));
                trailers_end(counter, trailers)
            } else {
                return;
            }
        }
        Poll::Ready(Some(Err(error))) => {
            counter.end(&meter, false);
            Cause::Body(Failure::new(error, open.error_types()))
        }
        Poll::Ready(None) => {
            counter.end(&meter, true);
            body_end(counter)
        }
    };
    open.end(&cause);
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

/// The end of a body without trailers.
fn body_end(counter: &mut Counter) -> Cause<'static> {
    #[cfg(feature = "connect")]
    if let Some(error) = counter.error() {
        return Cause::Connect(Ending::BodyEnd, Some(error));
    }
    match counter.has_ok() {
        true => Cause::Ok(Ending::BodyEnd),
        false => Cause::BodyEnd,
    }
}

/// Trailers, of which the status counts, and else the one in the headers.
fn trailers_end<'a>(counter: &Counter, trailers: &'a HeaderMap) -> Cause<'a> {
    match counter.has_ok() && grpc::status(trailers).is_none() {
        true => Cause::Ok(Ending::Trailers),
        false => Cause::Trailers(trailers),
    }
}

/// The body itself has said how the RPC ended.
fn end_by_status<T: Tracer>(open: &mut OpenRpc<T>, status: EndStatus, counter: &Counter) {
    match status {
        EndStatus::Trailers(trailers) => {
            if let Some(meter) = open.meter() {
                meter.event(Event::TRAILERS, WireEventKind::Trailers(&trailers));
            }
            open.end(&trailers_end(counter, &trailers));
        }
        #[cfg(feature = "connect")]
        EndStatus::Connect(Ok(error)) => {
            open.end(&Cause::Connect(Ending::Trailers, error));
        }
        // Garbage is no status.
        #[cfg(feature = "connect")]
        EndStatus::Connect(Err(_)) => open.end(&Cause::BodyEnd),
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

pin_project! {
    /// The body of a traced request; erased again into the body type that it wraps.
    pub(super) struct RequestBody<B> {
        #[pin]
        inner: Option<B>,
        counter: Counter,
        observer: RequestObserver,
        over: bool,
    }

    impl<B> PinnedDrop for RequestBody<B> {
        #[inline]
        fn drop(this: Pin<&mut Self>) {
            if !this.over || this.observer.has_scopes() {
                this.leave();
            }
        }
    }
}

impl<B> RequestBody<B> {
    /// Dropped before its end was seen, or where tracers have scopes.
    #[inline(never)]
    fn leave(self: Pin<&mut Self>) {
        let mut this = self.project();
        if !*this.over
            && let Some(meter) = this.observer.meter()
        {
            this.counter.end(&meter, this.counter.is_at_end());
        }
        this.observer.enter(|| this.inner.set(None));
    }

    #[inline]
    pub(super) fn new(inner: B, counter: Counter, observer: RequestObserver) -> Self {
        Self {
            inner: Some(inner),
            counter,
            observer,
            over: false,
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
        let (observer, counter) = (this.observer, this.counter);
        let Some(mut inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        if *this.over {
            return match observer.has_scopes() {
                true => observer.enter(|| inner.poll_frame(cx)),
                false => inner.poll_frame(cx),
            };
        }
        counter.ask();
        let polled = observer.enter(|| inner.as_mut().poll_frame(cx));
        // The common case, at once: a message of gRPC, maybe the last one.
        if let Some(cell) = observer.quiet_cell()
            && let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && counter.whole_message(cell, data)
        {
            if inner.is_end_stream() {
                cell.complete();
                *this.over = true;
            }
            return polled;
        }
        *this.over = examine_request(&polled, &*inner, counter, observer);
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

/// Counts what came of a poll of a request's body; whether that is its end.
#[inline(never)]
fn examine_request<B>(
    polled: &Polled<B>,
    inner: &B,
    counter: &mut Counter,
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
                counter.data(&meter, data);
                if !inner.is_end_stream() {
                    return false;
                }
            }
            true
        }
        Poll::Ready(Some(Err(error))) => {
            // This layer wraps bodies of known types alone, so their errors are known too.
            if Failure::new(error, &[]).is_of_stream() {
                meter.lose();
            }
            false
        }
        Poll::Ready(None) => true,
    };
    counter.end(&meter, complete);
    true
}
