//! Which types of request bodies are counted, and how.

use std::{any::Any, fmt, sync::Arc};

use http::Uri;
use http_body::Body;

use super::request_body::RequestBody;
use crate::{
    protocol::BodyReader,
    rpc::Direction,
    tracer::{RequestObserver, TracedRequest},
};

/// The types of request bodies that the layer's user has named.
#[derive(Clone, Default)]
pub(crate) struct BodyTypes(Vec<Arc<Count>>);

/// Counts a body if it is of the type that this knows.
type Count = dyn Fn(&mut dyn Any, Counter) -> Result<(), Counter> + Send + Sync;

/// What counts a body.
pub(super) struct Counter {
    pub(super) reader: BodyReader,
    pub(super) observer: RequestObserver,
}

impl BodyTypes {
    pub(crate) fn push<B>(&mut self, box_again: fn(RequestBody<B>) -> B)
    where
        B: Body + Default + 'static,
        B::Error: fmt::Display + 'static,
    {
        self.0.push(Arc::new(move |body, counter| {
            count_as(body, counter, box_again)
        }));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Counts the request's body if its type was named. Else it returns the observer.
    #[inline]
    pub(super) fn observe(
        &self,
        request: &mut dyn TracedRequest,
        observer: RequestObserver,
    ) -> Option<RequestObserver> {
        match self.0.is_empty() {
            true => Some(observer),
            false => self.observe_named(request, observer),
        }
    }

    #[inline(never)]
    fn observe_named(
        &self,
        request: &mut dyn TracedRequest,
        observer: RequestObserver,
    ) -> Option<RequestObserver> {
        let (Some(rpc), Some(headers)) = (observer.rpc(), request.headers()) else {
            return Some(observer);
        };
        let query = || request.uri().and_then(Uri::query);
        let reader = BodyReader::of_request(rpc.protocol(), headers, request.http_method(), query);
        let Some(body) = request.body_mut() else {
            return Some(observer);
        };
        let mut counter = Counter { reader, observer };
        for count in &self.0 {
            match count(body, counter) {
                Ok(()) => return None,
                Err(unused) => counter = unused,
            }
        }
        Some(counter.observer)
    }
}

/// Counts a body if it is a `B`.
pub(super) fn count_as<B>(
    body: &mut dyn Any,
    counter: Counter,
    box_again: fn(RequestBody<B>) -> B,
) -> Result<(), Counter>
where
    B: Body + Default + 'static,
    B::Error: fmt::Display + 'static,
{
    match body.downcast_mut() {
        Some(body) => {
            count(body, counter, box_again);
            Ok(())
        }
        None => Err(counter),
    }
}

/// Wraps a body, and boxes it back into its own type.
#[inline(always)]
pub(super) fn count<B>(body: &mut B, counter: Counter, box_again: fn(RequestBody<B>) -> B)
where
    B: Body + Default,
    B::Error: fmt::Display + 'static,
{
    let Counter {
        mut reader,
        observer,
    } = counter;
    let Some(rpc) = observer.rpc() else { return };
    let cell = rpc.stats().cell(Direction::Request);
    cell.observe(reader.counts_messages());
    if body.is_end_stream() {
        if let Some(meter) = observer.meter() {
            meter.end(&reader, true);
        }
        return;
    }
    reader.hint(|| body.size_hint().exact());
    let inner = std::mem::take(body);
    *body = box_again(RequestBody::new(inner, reader, observer));
}

/// The types of bodies that come with `http-body-util`.
#[cfg(feature = "http-body-util")]
pub(super) mod known {
    use std::{
        any::Any,
        convert::Infallible,
        error::Error,
        fmt, io,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use bytes::Bytes;
    use http_body::Body as _;
    use http_body_util::{
        Empty, Full,
        combinators::{BoxBody, UnsyncBoxBody},
    };

    use super::{Counter, count_as};

    /// Counts a body if it is of a type of `http-body-util`.
    #[inline(never)]
    pub(in crate::service) fn count(body: &mut dyn Any, mut counter: Counter) {
        if let Some(full) = body.downcast_mut::<Full<Bytes>>() {
            return count_full(full, counter);
        }
        if body.is::<Empty<Bytes>>() {
            return counter.count_whole(&[]);
        }
        for count in BOXES {
            match count(body, counter) {
                Ok(()) => return,
                Err(unused) => counter = unused,
            }
        }
    }

    /// The errors that boxed bodies in use have. The type of a box names its error, so no list has all.
    const BOXES: &[CountBox] = &[
        count_box::<Infallible>,
        count_box::<Box<dyn Error + Send + Sync>>,
        count_box::<io::Error>,
        #[cfg(feature = "transport")]
        count_box::<hyper::Error>,
        #[cfg(feature = "tonic")]
        count_box::<tonic::Status>,
        #[cfg(feature = "axum")]
        count_box::<axum::Error>,
        #[cfg(feature = "reqwest")]
        count_box::<reqwest::Error>,
    ];

    type CountBox = fn(&mut dyn Any, Counter) -> Result<(), Counter>;

    fn count_box<E: fmt::Display + 'static>(
        body: &mut dyn Any,
        counter: Counter,
    ) -> Result<(), Counter> {
        count_as::<UnsyncBoxBody<Bytes, E>>(body, counter, UnsyncBoxBody::new)
            .or_else(|counter| count_as::<BoxBody<Bytes, E>>(body, counter, BoxBody::new))
    }

    /// Takes the bytes out, since nothing else shows them, and puts them back.
    fn count_full(full: &mut Full<Bytes>, counter: Counter) {
        let mut cx = Context::from_waker(Waker::noop());
        let bytes = match Pin::new(&mut *full).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            _ => Bytes::new(),
        };
        counter.count_whole(&bytes);
        *full = Full::new(bytes);
    }
}

#[cfg(feature = "http-body-util")]
impl Counter {
    /// Counts a body that is all in memory, as sent. Nothing could see it pass: its type has no room for more.
    pub(super) fn count_whole(mut self, bytes: &[u8]) {
        let Some(meter) = self.observer.meter() else {
            return;
        };
        meter.observe(self.reader.counts_messages());
        if !bytes.is_empty() {
            meter.read(&mut self.reader, &bytes);
        }
        meter.end(&self.reader, true);
    }
}

impl fmt::Debug for BodyTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BodyTypes").field(&self.len()).finish()
    }
}
