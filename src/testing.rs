//! A tracer that keeps an ordered log of everything it saw, for tests.
//!
//! ```
//! use http::{Request, Response};
//! use tower::{ServiceBuilder, ServiceExt as _};
//! use tower_tracer::{Ending, Status, TracerLayer, testing::RecordingTracer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let recorder = RecordingTracer::new();
//! let service = ServiceBuilder::new()
//!     .layer(TracerLayer::new(recorder.clone()).server())
//!     .service_fn(async |_: Request<String>| {
//!         Ok::<_, std::convert::Infallible>(Response::new(String::new()))
//!     });
//!
//! service.oneshot(Request::new("hello".to_owned())).await.unwrap();
//!
//! assert_eq!(
//!     recorder.log(),
//!     ["start", "request_headers", "response_headers", "finish headers_only 200"],
//! );
//! let rpc = recorder.only_finished();
//! assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
//! assert_eq!(rpc.stats().ending(), Some(Ending::HeadersOnly));
//! # }
//! ```
//!
//! # A service without a network
//!
//! A generated client takes any service, so it can call a generated server directly:
//!
//! ```
//! # #[cfg(feature = "transport")]
//! # mod doc {
//! # mod echo { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/echo/generated.rs")); }
//! # use echo::{EchoRequest, EchoResponse, echo_client::EchoClient, echo_server::{Echo, EchoServer}};
//! # use std::pin::Pin;
//! # use tonic::{Request, Response, Status, Streaming};
//! # type Responses = Pin<Box<dyn tokio_stream::Stream<Item = Result<EchoResponse, Status>> + Send>>;
//! use tower::ServiceBuilder;
//! use tower_tracer::{Code, Ending, TracerLayer, testing::RecordingTracer};
//!
//! struct Shop;
//!
//! #[tonic::async_trait]
//! impl Echo for Shop {
//!     async fn unary_echo(&self, _: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
//!         Err(Status::not_found("no such item"))
//!     }
//! #   type ServerStreamingEchoStream = Responses;
//! #   async fn server_streaming_echo(&self, _: Request<EchoRequest>) -> Result<Response<Responses>, Status> { Err(Status::unimplemented("")) }
//! #   async fn client_streaming_echo(&self, _: Request<Streaming<EchoRequest>>) -> Result<Response<EchoResponse>, Status> { Err(Status::unimplemented("")) }
//! #   type BidirectionalStreamingEchoStream = Responses;
//! #   async fn bidirectional_streaming_echo(&self, _: Request<Streaming<EchoRequest>>) -> Result<Response<Responses>, Status> { Err(Status::unimplemented("")) }
//!     // … and the other methods.
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] pub(super) async fn run() {
//! let recorder = RecordingTracer::new();
//! let server = ServiceBuilder::new()
//!     .layer(TracerLayer::new(recorder.clone()).server())
//!     .service(EchoServer::new(Shop));
//!
//! let error = EchoClient::new(server).unary_echo(EchoRequest::default()).await.unwrap_err();
//! assert_eq!(error.code(), tonic::Code::NotFound);
//!
//! let rpc = recorder.wait_finished(1).await.remove(0);
//! assert_eq!(rpc.full_method(), Some("echo.Echo/UnaryEcho"));
//! assert_eq!(rpc.stats().code(), Some(Code::NotFound));
//! assert_eq!(rpc.stats().ending(), Some(Ending::HeadersOnly));
//! assert_eq!(rpc.stats().received().messages(), Some(1));
//! # } }
//! # fn main() {
//! #     #[cfg(feature = "transport")]
//! #     doc::run();
//! # }
//! ```

#[cfg(feature = "connection")]
mod connections;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use crate::{
    Ending, Level, RequestParts, RpcInfo, Status, Tracer,
    tracer::{Message, Scope, StreamEvent, StreamEventKind},
};

/// Records what it saw. Clones share one log.
///
/// It wants everything: level Detailed, every event, and a scope.
#[derive(Clone, Default)]
pub struct RecordingTracer(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    entries: Vec<Entry>,
    scopes_entered: usize,
    #[cfg(feature = "connection")]
    connections: Vec<connections::Line>,
    waiting: Vec<Waker>,
}

/// One thing a [`RecordingTracer`] saw, and of which RPC.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// The RPC.
    pub rpc: RpcInfo,
    /// What happened.
    pub what: EntryKind,
}

/// What a [`RecordingTracer`] saw.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryKind {
    /// `start` was called.
    Start,
    /// The request's headers passed.
    RequestHeaders,
    /// A message of the request passed.
    RequestMessage(Message),
    /// The client sends no more.
    HalfClose,
    /// The response's headers passed.
    ResponseHeaders,
    /// A message of the response passed.
    ResponseMessage(Message),
    /// The response's trailers passed.
    Trailers,
    /// `progress` was called: how many messages of the request and of the response had passed.
    Progress(Option<u64>, Option<u64>),
    /// `finish` was called: how the RPC ended, and with which status.
    Finish(Option<Ending>, Option<Status>),
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = |f: &mut fmt::Formatter<'_>, name, message: &Message| {
            let compressed = if message.compressed {
                " compressed"
            } else {
                ""
            };
            let Message { sequence, size, .. } = message;
            write!(f, "{name} #{sequence} {size}B{compressed}")
        };
        match self {
            Self::Start => f.write_str("start"),
            Self::RequestHeaders => f.write_str("request_headers"),
            Self::RequestMessage(m) => message(f, "request_message", m),
            Self::HalfClose => f.write_str("half_close"),
            Self::ResponseHeaders => f.write_str("response_headers"),
            Self::ResponseMessage(m) => message(f, "response_message", m),
            Self::Trailers => f.write_str("trailers"),
            Self::Progress(request, response) => {
                let count = |messages: &Option<u64>| match messages {
                    Some(messages) => messages.to_string(),
                    None => "?".to_owned(),
                };
                write!(f, "progress {}/{}", count(request), count(response))
            }
            Self::Finish(ending, status) => {
                f.write_str("finish")?;
                if let Some(ending) = ending {
                    write!(f, " {ending}")?;
                }
                if let Some(status) = status {
                    write!(f, " {status}")?;
                }
                Ok(())
            }
        }
    }
}

impl RecordingTracer {
    /// A recorder with an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All it saw, in order.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.seen().entries.clone()
    }

    /// All it saw, in order, a short line each.
    ///
    /// `start`, `request_headers`, `request_message #0 5B`, `half_close`, `response_headers`,
    /// `response_message #0 5B compressed`, `progress 1/5`, `trailers`, `finish trailers OK`.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        let seen = self.seen();
        seen.entries.iter().map(|e| e.what.to_string()).collect()
    }

    /// EntryKind it saw of one RPC, a short line each.
    #[must_use]
    pub fn log_of(&self, rpc: &RpcInfo) -> Vec<String> {
        let seen = self.seen();
        let of_rpc = seen.entries.iter().filter(|entry| entry.rpc.ptr_eq(rpc));
        of_rpc.map(|entry| entry.what.to_string()).collect()
    }

    /// The RPCs that started, in the order of their starts.
    #[must_use]
    pub fn started(&self) -> Vec<RpcInfo> {
        self.rpcs(|what| matches!(what, EntryKind::Start))
    }

    /// The RPCs that finished, in the order of their ends. One that finished twice is here
    /// twice.
    #[must_use]
    pub fn finished(&self) -> Vec<RpcInfo> {
        self.rpcs(|what| matches!(what, EntryKind::Finish(..)))
    }

    /// The RPCs of a method, `pkg.Svc/Method`, that started, in the order of their starts.
    #[must_use]
    pub fn started_of(&self, full_method: &str) -> Vec<RpcInfo> {
        let mut rpcs = self.started();
        rpcs.retain(|rpc| rpc.full_method() == Some(full_method));
        rpcs
    }

    /// The one RPC that finished.
    ///
    /// # Panics
    ///
    /// Where none finished, or more than one.
    #[must_use]
    #[track_caller]
    pub fn only_finished(&self) -> RpcInfo {
        let mut finished = self.finished();
        assert_eq!(finished.len(), 1, "RPCs finished: {finished:?}");
        finished.remove(0)
    }

    /// Asserts that the log has these lines in this order, possibly with others before, between and
    /// after them. Of each, the beginning is enough: `finish` is any end.
    ///
    /// ```
    /// # let recorder = tower_tracer::testing::RecordingTracer::new();
    /// # let call = |recorder: &tower_tracer::testing::RecordingTracer| {
    /// #     use tower::{Layer as _, ServiceExt as _};
    /// #     let service = tower::service_fn(async |_: http::Request<String>| {
    /// #         Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    /// #     });
    /// #     let service = tower_tracer::TracerLayer::new(recorder.clone()).layer(service);
    /// #     let call = service.oneshot(http::Request::new(String::new()));
    /// #     tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(call).unwrap();
    /// # };
    /// call(&recorder);
    /// recorder.assert_in_order(["start", "response_headers", "finish headers_only"]);
    /// ```
    ///
    /// # Panics
    ///
    /// Where one of them is not there; the message says which, and has the log.
    #[track_caller]
    pub fn assert_in_order<'a>(&self, lines: impl IntoIterator<Item = &'a str>) {
        let log = self.log();
        let mut rest = log.iter();
        for line in lines {
            assert!(
                rest.any(|seen| seen.starts_with(line)),
                "no {line:?} (any more) in the log {log:#?}"
            );
        }
    }

    /// Waits until this many RPCs have finished, and returns them. Without a timeout of its own.
    pub fn wait_finished(&self, count: usize) -> impl Future<Output = Vec<RpcInfo>> + Send + use<> {
        WaitFinished {
            recorder: self.clone(),
            count,
        }
    }

    /// How often its scope was entered.
    #[must_use]
    pub fn scopes_entered(&self) -> usize {
        self.seen().scopes_entered
    }

    /// Forgets all it saw.
    pub fn clear(&self) {
        let mut seen = self.seen();
        seen.entries.clear();
        seen.scopes_entered = 0;
        #[cfg(feature = "connection")]
        seen.connections.clear();
    }

    fn rpcs(&self, pick: impl Fn(&EntryKind) -> bool) -> Vec<RpcInfo> {
        let seen = self.seen();
        let picked = seen.entries.iter().filter(|entry| pick(&entry.what));
        picked.map(|entry| entry.rpc.clone()).collect()
    }

    fn push(&self, rpc: &RpcInfo, what: EntryKind) {
        let rpc = rpc.clone();
        let mut seen = self.seen();
        seen.entries.push(Entry { rpc, what });
        let waiting = std::mem::take(&mut seen.waiting);
        drop(seen);
        for waker in waiting {
            waker.wake();
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracer for RecordingTracer {
    type State = ();

    fn start(&self, rpc: &RpcInfo, _: &mut RequestParts<'_>) {
        self.push(rpc, EntryKind::Start);
    }

    fn finish(&self, (): (), rpc: &RpcInfo) {
        let stats = rpc.stats();
        self.push(rpc, EntryKind::Finish(stats.ending(), stats.status()));
    }

    fn level(&self) -> Level {
        Level::Detailed
    }

    fn wants_events(&self) -> bool {
        true
    }

    fn on_event(&self, (): &mut (), rpc: &RpcInfo, event: &StreamEvent<'_>) {
        let what = match event.kind {
            StreamEventKind::RequestHeaders(_) => EntryKind::RequestHeaders,
            StreamEventKind::RequestMessage(message) => EntryKind::RequestMessage(message),
            StreamEventKind::HalfClose => EntryKind::HalfClose,
            StreamEventKind::ResponseHeaders(_) => EntryKind::ResponseHeaders,
            StreamEventKind::ResponseMessage(message) => EntryKind::ResponseMessage(message),
            StreamEventKind::Trailers(_) => EntryKind::Trailers,
        };
        self.push(rpc, what);
    }

    fn progress(&self, (): &mut (), rpc: &RpcInfo) {
        let stats = rpc.stats();
        let messages = (stats.request().messages(), stats.response().messages());
        self.push(rpc, EntryKind::Progress(messages.0, messages.1));
    }

    fn scope(&self, (): &(), _: &RpcInfo) -> Option<Arc<dyn Scope>> {
        Some(Arc::new(Counting(self.clone())))
    }
}

impl fmt::Debug for RecordingTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecordingTracer").field(&self.log()).finish()
    }
}

struct Counting(RecordingTracer);

impl Scope for Counting {
    fn run(&self, f: &mut dyn FnMut()) {
        self.0.seen().scopes_entered += 1;
        f();
    }
}

struct WaitFinished {
    recorder: RecordingTracer,
    count: usize,
}

impl Future for WaitFinished {
    type Output = Vec<RpcInfo>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let finished = self.recorder.finished();
        if finished.len() >= self.count {
            return Poll::Ready(finished);
        }
        let mut seen = self.recorder.seen();
        if !seen.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            seen.waiting.push(cx.waker().clone());
        }
        drop(seen);
        // One more look: the last one may have finished in between.
        let finished = self.recorder.finished();
        if finished.len() >= self.count {
            return Poll::Ready(finished);
        }
        Poll::Pending
    }
}

/// Turns the layer's shortcuts for the common case off, or on again. They change no record; a test of
/// this crate compares.
#[doc(hidden)]
pub fn set_fast_path(on: bool) {
    crate::service::fast_path::OFF.store(!on, std::sync::atomic::Ordering::Relaxed);
}
