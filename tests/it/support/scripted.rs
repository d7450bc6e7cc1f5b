//! The script of an exchange: what a body does in each poll ([`Step`]), how an RPC ends ([`Course`]), a service
//! that does so ([`Handler`]), and a caller that logs what it sees ([`drive`]).
//!
//! Beside it, `two_sides` has exchanges of which headers and bytes are the point, and `model` says what a record
//! should say of any exchange. Their bodies are scripted here.

#![allow(dead_code, unreachable_pub)]

use std::{
    collections::VecDeque,
    error::Error,
    fmt::{self, Display},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, Once},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tower::{BoxError, Layer as _, Service};
use tower_tracer::{Tracer, TracerLayer};

/// What a [`Scripted`] body does in one poll.
#[derive(Clone, Debug)]
pub enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    /// Fails: with a code as a `tonic::Status`, without as some other error.
    Error(Option<tonic::Code>),
    /// Fails with an error that has this cause.
    Fail(Arc<dyn Error + Send + Sync>),
    /// Not yet; asks to be polled again.
    Pending,
    Panic,
}

/// An error that says nothing but its cause.
#[derive(Debug)]
struct Caused(Arc<dyn Error + Send + Sync>);

impl Display for Caused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scripted")
    }
}

impl Error for Caused {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// A body that does one step of its script in each poll, and is at its end after the last.
#[derive(Clone, Debug, Default)]
pub struct Scripted {
    steps: VecDeque<Step>,
    tells: bool,
}

impl Scripted {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            tells: false,
        }
    }

    /// Tells its size, and its end before it is polled for it.
    pub fn telling(mut self) -> Self {
        self.tells = true;
        self
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(match self.steps.pop_front() {
            None => None,
            Some(Step::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Step::Error(code)) => Some(Err(error(code))),
            Some(Step::Fail(cause)) => Some(Err(Caused(cause).into())),
            Some(Step::Pending) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Panic) => panic_on_purpose(),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.tells && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if !self.tells {
            return SizeHint::default();
        }
        let sizes = self.steps.iter().map(|step| match step {
            Step::Data(data) => data.len() as u64,
            _ => 0,
        });
        SizeHint::with_exact(sizes.sum())
    }
}

fn error(code: Option<tonic::Code>) -> BoxError {
    match code {
        Some(code) => tonic::Status::new(code, "scripted").into(),
        None => "scripted".into(),
    }
}

/// A gRPC message of this size, with its prefix.
pub fn message(size: u8) -> Bytes {
    let mut message = vec![0, 0, 0, 0, size];
    message.resize(5 + usize::from(size), 0xaa);
    message.into()
}

pub fn data(size: u8) -> Step {
    Step::Data(message(size))
}

pub fn grpc_status(value: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from_static(value));
    headers
}

pub fn trailers(status: &'static str) -> Step {
    Step::Trailers(grpc_status(status))
}

pub const METHOD: &str = "echo.Echo/UnaryEcho";

/// A gRPC request with this body.
pub fn request(body: Scripted) -> Request<tonic::body::Body> {
    Request::post(format!("/{METHOD}"))
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(body))
        .unwrap()
}

/// A gRPC request without a message.
pub fn bare_request() -> Request<tonic::body::Body> {
    request(Scripted::default().telling())
}

/// A gRPC response with this body.
pub fn response(steps: impl IntoIterator<Item = Step>) -> Response<Scripted> {
    Response::builder()
        .header("content-type", "application/grpc")
        .body(Scripted::new(steps))
        .unwrap()
}

/// Polls once, with a waker that does nothing.
pub fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// What a poll of a body gives.
pub type Polled<D, E> = Poll<Option<Result<Frame<D>, E>>>;

/// Polls a body once, with a waker that does nothing.
pub fn poll_body<B: Body + Unpin>(body: &mut B) -> Polled<B::Data, B::Error> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// Polls until it is done; for futures that wait for nothing but to be polled again.
pub fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..10_000 {
        if let Poll::Ready(output) = poll_once(&mut future) {
            return output;
        }
    }
    panic!("it waits for something else");
}

/// One line for what a poll of a body gave.
pub fn show<E: Display>(polled: &Polled<Bytes, E>) -> String {
    match polled {
        Poll::Pending => "pending".to_owned(),
        Poll::Ready(None) => "end".to_owned(),
        Poll::Ready(Some(Err(error))) => format!("error {error}"),
        Poll::Ready(Some(Ok(frame))) => match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => format!("data {data:?}"),
            (_, Some(trailers)) => format!("trailers {trailers:?}"),
            _ => "unknown frame".to_owned(),
        },
    }
}

const ON_PURPOSE: &str = "on purpose";

/// Panics; the panic hook prints nothing of it.
pub fn panic_on_purpose() -> ! {
    quiet();
    panic!("{ON_PURPOSE}")
}

/// Keeps the panic hook from printing panics that are made on purpose.
pub fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // A payload that is not a text is also one of ours.
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            let is_ours = |text: &str| text.contains(ON_PURPOSE) || text == "asked to panic";
            if text.is_some_and(|text| !is_ours(text)) {
                loud(info);
            }
        }));
    });
}

/// A course that an RPC takes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// With this code in the trailers.
    Trailers(u16),
    /// With this code in the headers, and without a message.
    HeadersOnly(u16),
    BodyEnd,
    /// With a code as a `tonic::Status`, without as some other error.
    ServiceError(Option<tonic::Code>),
    BodyError(Option<tonic::Code>),
    /// The future is dropped before its first poll.
    DropUnpolled,
    /// The future is dropped while it is pending.
    DropPending,
    /// The response's body is dropped inside its last message.
    DropBody,
    PanicInCall,
    PanicInFuture,
    /// The response's body panics inside its last message.
    PanicInBody,
}

impl Course {
    pub const OK: Self = Self::Trailers(0);

    pub const ALL: [Self; 15] = [
        Self::OK,
        Self::Trailers(13),
        Self::HeadersOnly(0),
        Self::HeadersOnly(5),
        Self::BodyEnd,
        Self::ServiceError(Some(tonic::Code::Aborted)),
        Self::ServiceError(None),
        Self::BodyError(Some(tonic::Code::DataLoss)),
        Self::BodyError(None),
        Self::DropUnpolled,
        Self::DropPending,
        Self::DropBody,
        Self::PanicInCall,
        Self::PanicInFuture,
        Self::PanicInBody,
    ];

    /// How a [`RecordingTracer`](tower_tracer::testing::RecordingTracer) writes its end down.
    pub fn finish(self) -> &'static str {
        match self {
            Self::Trailers(0) => "finish trailers OK",
            Self::Trailers(_) => "finish trailers INTERNAL",
            Self::HeadersOnly(0) => "finish headers_only OK",
            Self::HeadersOnly(_) => "finish headers_only NOT_FOUND",
            Self::BodyEnd => "finish body_end UNKNOWN",
            Self::ServiceError(None) => "finish service_error UNKNOWN",
            Self::ServiceError(Some(_)) => "finish service_error ABORTED",
            Self::BodyError(None) => "finish body_error UNKNOWN",
            Self::BodyError(Some(_)) => "finish body_error DATA_LOSS",
            Self::DropUnpolled | Self::DropPending | Self::DropBody => "finish cancelled CANCELLED",
            Self::PanicInCall | Self::PanicInFuture | Self::PanicInBody => "finish panic UNKNOWN",
        }
    }

    /// Whether it is a failure of the server: what its caller asked for or gave up is not.
    pub fn is_failure(self) -> bool {
        let codes = ["UNKNOWN", "INTERNAL", "DATA_LOSS"];
        codes.iter().any(|code| self.finish().ends_with(code))
    }

    fn polls_future(self) -> bool {
        self != Self::DropUnpolled
    }
}

/// A service that reads the complete request, sends messages of these sizes and takes its course.
#[derive(Clone, Debug)]
pub struct Handler {
    messages: Vec<u8>,
    pub course: Course,
}

impl Handler {
    pub fn new(messages: impl Into<Vec<u8>>, course: Course) -> Self {
        Self {
            messages: messages.into(),
            course,
        }
    }

    /// With two messages.
    pub fn of(course: Course) -> Self {
        Self::new([1, 2], course)
    }

    /// What a caller sees of it without a layer.
    pub fn untraced(&self) -> Vec<String> {
        drive(&mut self.clone(), self.course)
    }

    /// What a caller sees of it on a server with this tracer.
    pub fn trace(&self, tracer: impl Tracer) -> Vec<String> {
        let mut service = TracerLayer::new(tracer).server().layer(self.clone());
        drive(&mut service, self.course)
    }

    fn answer(self) -> Result<Response<Scripted>, BoxError> {
        let mut steps: Vec<_> = self.messages.iter().copied().map(data).collect();
        match self.course {
            Course::HeadersOnly(code) => {
                let mut response = response([]);
                response.headers_mut().insert("grpc-status", code.into());
                *response.body_mut() = Scripted::default().telling();
                return Ok(response);
            }
            Course::ServiceError(code) => return Err(error(code)),
            Course::PanicInFuture => panic_on_purpose(),
            Course::DropBody | Course::PanicInBody => {
                if let Some(Step::Data(last)) = steps.last_mut() {
                    last.truncate(last.len() - 1);
                }
                steps.push(match self.course {
                    Course::DropBody => Step::Pending,
                    _ => Step::Panic,
                });
                return Ok(response(steps));
            }
            Course::Trailers(code) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", code.into());
                steps.push(Step::Trailers(trailers));
            }
            Course::BodyError(code) => steps.push(Step::Error(code)),
            _ => {}
        }
        steps.insert(usize::from(steps.len() > 1), Step::Pending);
        Ok(response(steps))
    }
}

impl Service<Request<tonic::body::Body>> for Handler {
    type Response = Response<Scripted>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Scripted>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        if self.course == Course::PanicInCall {
            panic_on_purpose();
        }
        let handler = self.clone();
        Box::pin(async move {
            request.into_body().collect().await?;
            if handler.course == Course::DropPending {
                std::future::pending::<()>().await;
            }
            handler.answer()
        })
    }
}

/// Calls a service and goes with the RPC to its end; returns all that a caller can see of it, panics
/// included.
pub fn drive<S, B>(service: &mut S, course: Course) -> Vec<String>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>>,
    S::Error: Display,
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    let mut seen = Vec::new();
    let driven = catch_unwind(AssertUnwindSafe(|| go(service, course, &mut seen)));
    if let Err(panic) = driven {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        seen.push(format!("panic {text:?}"));
    }
    seen
}

fn go<S, B>(service: &mut S, course: Course, seen: &mut Vec<String>)
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>>,
    S::Error: Display,
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    let cx = &mut Context::from_waker(Waker::noop());
    let body = Scripted::new([data(3), Step::Pending, data(4)]);
    let mut future = Box::pin(service.call(request(body)));
    if !course.polls_future() {
        return;
    }
    let response = loop {
        match future.as_mut().poll(cx) {
            Poll::Ready(response) => break response,
            Poll::Pending => seen.push("pending".to_owned()),
        }
        if course == Course::DropPending && seen.len() > 3 {
            return;
        }
    };
    let response = match response {
        Ok(response) => response,
        Err(error) => return seen.push(format!("service error {error}")),
    };
    seen.push(format!("{} {:?}", response.status(), response.headers()));
    let mut body = pin!(response.into_body());
    while !body.is_end_stream() {
        seen.push(format!("{:?}", body.size_hint()));
        let polled = body.as_mut().poll_frame(cx);
        seen.push(show(&polled));
        let over = match polled {
            Poll::Pending => course == Course::DropBody,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(_) => true,
        };
        if over {
            break;
        }
    }
}
