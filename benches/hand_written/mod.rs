//! The least that a layer can do that sees how an RPC ended and what it moved, written by hand: one
//! shared record, two clock readings, the extension, a request body that counts, a response body
//! that sees the trailers. It knows no cancellation, no panic, no messages, no second tracer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, uri::PathAndQuery};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::body::Body;
use tower::{Layer, Service};

/// What is kept of an RPC.
#[derive(Debug)]
pub struct Record {
    start: Instant,
    path: Option<PathAndQuery>,
    sent: AtomicU64,
    received: AtomicU64,
}

/// What is read at the end.
pub type Report = fn(method: &str, status: u16, cost: Duration, sent: u64, received: u64);

/// With none it looks at nothing: the least that a layer costs which can be off.
#[derive(Clone, Debug)]
pub struct HandWrittenLayer(pub Option<Report>);

#[derive(Clone, Debug)]
pub struct HandWritten<S> {
    inner: S,
    report: Option<Report>,
}

impl<S> Layer<S> for HandWrittenLayer {
    type Service = HandWritten<S>;

    fn layer(&self, inner: S) -> HandWritten<S> {
        HandWritten {
            inner,
            report: self.0,
        }
    }
}

impl<S> Service<Request<Body>> for HandWritten<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<ResponseBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(report) = self.report else {
            return ResponseFuture {
                inner: self.inner.call(request),
                rpc: None,
            };
        };
        let record = Arc::new(Record {
            start: Instant::now(),
            path: request.uri().path_and_query().cloned(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        request.extensions_mut().insert(Arc::clone(&record));
        let request = request.map(|inner| {
            Body::new(RequestBody {
                inner,
                record: Arc::clone(&record),
            })
        });
        ResponseFuture {
            inner: self.inner.call(request),
            rpc: Some((record, report)),
        }
    }
}

pin_project! {
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        rpc: Option<(Arc<Record>, Report)>,
    }
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<ResponseBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let rpc = this.rpc.take();
        Poll::Ready(Ok(response.map(|inner| ResponseBody { inner, rpc })))
    }
}

struct RequestBody {
    inner: Body,
    record: Arc<Record>,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.record.sent.fetch_add(data.len() as u64, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pub struct ResponseBody {
    inner: Body,
    rpc: Option<(Arc<Record>, Report)>,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            if let Some(data) = frame.data_ref() {
                if let Some((record, _)) = &self.rpc {
                    record.received.fetch_add(data.len() as u64, Relaxed);
                }
            } else if let Some(trailers) = frame.trailers_ref()
                && let Some((record, report)) = self.rpc.take()
            {
                let status = trailers.get("grpc-status");
                let status = status.and_then(|s| s.to_str().ok()?.parse().ok());
                report(
                    record.path.as_ref().map_or("", |path| path.path()),
                    status.unwrap_or(2),
                    record.start.elapsed(),
                    record.sent.load(Relaxed),
                    record.received.load(Relaxed),
                );
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
