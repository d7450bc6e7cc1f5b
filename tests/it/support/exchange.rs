//! One scripted exchange, without a runtime: a traced service that ends in a given way.

#![allow(dead_code, unreachable_pub)]

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::{Future, pending},
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    pin::{Pin, pin},
    sync::Once,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use tower::{Layer as _, Service};
use tower_tracer::{Tracer, TracerLayer};

pub const METHOD: &str = "test.Script/Run";
/// What scripted panics say; they are not printed.
pub const SCRIPTED: &str = "scripted";

/// How an exchange ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    Trailers(u16),
    HeadersOnly(u16),
    BodyEnd,
    BodyError,
    BodyDropped,
    BodyPanic,
    FutureError,
    FutureDropped,
    FuturePanic,
    CallPanic,
}

impl Ends {
    pub const ALL: [Self; 12] = [
        Self::Trailers(0),
        Self::Trailers(13),
        Self::HeadersOnly(0),
        Self::HeadersOnly(5),
        Self::BodyEnd,
        Self::BodyError,
        Self::BodyDropped,
        Self::BodyPanic,
        Self::FutureError,
        Self::FutureDropped,
        Self::FuturePanic,
        Self::CallPanic,
    ];

    /// Whether it is a failure of the server: what its caller asked for or gave up is not.
    pub fn is_failure(self) -> bool {
        let is_success = matches!(self, Self::Trailers(0) | Self::HeadersOnly(0));
        let is_of_caller = matches!(
            self,
            Self::HeadersOnly(5) | Self::BodyDropped | Self::FutureDropped
        );
        !is_success && !is_of_caller
    }
}

/// A script: the sizes of the response's messages, then the end.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub messages: Vec<u8>,
    pub ends: Ends,
}

impl Exchange {
    pub fn new(messages: impl Into<Vec<u8>>, ends: Ends) -> Self {
        Self {
            messages: messages.into(),
            ends,
        }
    }

    /// Runs it under a tracer, to its end or until the caller gives up. Returns what the caller
    /// saw, a line each.
    pub fn run(&self, tracer: impl Tracer) -> Vec<String> {
        silence_scripted_panics();
        let mut service = TracerLayer::new(tracer).server().layer(self.clone());
        let mut saw = Vec::new();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let future = pin!(service.call(request()));
            let Poll::Ready(response) = poll(future) else {
                return saw.push("gives up on the response".to_owned());
            };
            let body = match response {
                Ok(response) => {
                    saw.push(format!("response {:?}", response.headers()));
                    response.into_body()
                }
                Err(error) => return saw.push(format!("error {error}")),
            };
            let mut body = pin!(body);
            loop {
                match poll(body.frame()) {
                    Poll::Pending => return saw.push("gives up on the body".to_owned()),
                    Poll::Ready(None) => return saw.push("end".to_owned()),
                    Poll::Ready(Some(frame)) => saw.push(format!("{frame:?}")),
                }
            }
        }));
        if ran.is_err() {
            saw.push("panic".to_owned());
        }
        saw
    }
}

/// A gRPC request with one message of 3 bytes.
pub fn request() -> Request<tonic::body::Body> {
    Request::post(format!("http://localhost/{METHOD}"))
        .header(CONTENT_TYPE, "application/grpc")
        .body(tonic::body::Body::new(
            Full::new(message(3)).map_err(|error: Infallible| match error {}),
        ))
        .unwrap()
}

/// A gRPC message of this size, with its prefix.
fn message(size: u8) -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, size];
    bytes.resize(5 + usize::from(size), 7);
    bytes.into()
}

pub fn poll<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// The result of a future that never waits.
pub fn now<F: Future>(future: F) -> F::Output {
    match poll(future) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

fn silence_scripted_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref() != Some(&SCRIPTED) {
                print(panic);
            }
        }));
    });
}

pub fn scripted_panic() -> ! {
    std::panic::panic_any(SCRIPTED)
}

#[derive(Debug)]
pub struct Failure;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failure")
    }
}

impl std::error::Error for Failure {}

impl Service<Request<tonic::body::Body>> for Exchange {
    type Response = Response<ScriptedBody>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        if self.ends == Ends::CallPanic {
            scripted_panic();
        }
        let Self { messages, ends } = self.clone();
        Box::pin(async move {
            request.into_body().collect().await.unwrap();
            match ends {
                Ends::FutureError => return Err(Failure),
                Ends::FutureDropped => pending().await,
                Ends::FuturePanic => scripted_panic(),
                _ => {}
            }
            let mut messages = VecDeque::from(messages);
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            if let Ends::HeadersOnly(code) = ends {
                headers.insert("grpc-status", code.into());
                messages.clear();
            }
            let mut response = Response::new(ScriptedBody {
                messages,
                end: Some(ends),
            });
            *response.headers_mut() = headers;
            Ok(response)
        })
    }
}

#[derive(Debug)]
pub struct ScriptedBody {
    messages: VecDeque<u8>,
    end: Option<Ends>,
}

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Some(size) = self.messages.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(message(size)))));
        }
        match self.end.take() {
            Some(Ends::Trailers(code)) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", code.into());
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Some(Ends::BodyError) => Poll::Ready(Some(Err(Failure))),
            Some(Ends::BodyDropped) => Poll::Pending,
            Some(Ends::BodyPanic) => scripted_panic(),
            _ => Poll::Ready(None),
        }
    }
}
