//! One RPC in process, as tonic makes it, without a network: the caller's and the handler's part of
//! the work, which is the same whatever layers stand between them.

use std::{
    convert::Infallible,
    future::Future,
    hint::black_box,
    pin::{Pin, pin},
    sync::OnceLock,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use tonic::{
    body::Body,
    transport::server::{Connected as _, TcpConnectInfo},
};
use tower::Service;

/// A body of some equal messages, and trailers if it is a response's.
struct Messages {
    left: usize,
    frame: Bytes,
    trailers: Option<HeaderMap>,
}

impl HttpBody for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left > 0 {
            self.left -= 1;
            return Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))));
        }
        Poll::Ready(self.trailers.take().map(|t| Ok(Frame::trailers(t))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.trailers.is_none()
    }
}

/// What a body holds, each way.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub frames: usize,
    /// How many messages are in each frame.
    pub per_frame: usize,
}

impl From<usize> for Load {
    /// This many messages, in a frame each.
    fn from(frames: usize) -> Self {
        Self {
            frames,
            per_frame: 1,
        }
    }
}

/// A frame of a message of 32 bytes with its prefix, or of several small ones.
fn frame(load: Load) -> Bytes {
    const MESSAGE: &[u8; 37] = b"\0\0\0\0\x20abcdefghijklmnopqrstuvwxyz012345";
    static PACKED: OnceLock<Bytes> = OnceLock::new();
    match load.per_frame {
        1 => Bytes::from_static(MESSAGE),
        messages => PACKED
            .get_or_init(|| b"\0\0\0\0\x0aabcdefghij".repeat(messages).into())
            .clone(),
    }
}

/// The side of an RPC that a layer stands on.
#[derive(Clone, Debug)]
pub enum Side {
    /// A client's, below generated code.
    Client,
    /// A tonic server's, on this connection.
    #[allow(dead_code, reason = "not every benchmark has a server")]
    Server(TcpConnectInfo),
}

impl Side {
    /// A server's, on a real connection of this machine with itself.
    #[allow(dead_code, reason = "not every benchmark has a server")]
    pub fn server() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let peer = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
            let (accepted, _) = listener.accept().await?;
            let connection = accepted.connect_info();
            drop(peer);
            Ok(Self::Server(connection))
        })
    }
}

/// A request as a generated client makes it, or as tonic's transport hands it to a server.
pub fn request(side: &Side, load: impl Into<Load>) -> Request<Body> {
    let load = load.into();
    let mut request = Request::new(Body::new(Messages {
        left: load.frames,
        frame: frame(load),
        trailers: None,
    }));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static("/echo.Echo/UnaryEcho");
    let headers = request.headers_mut();
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    match side {
        Side::Client => {
            let method = tonic::GrpcMethod::new("echo.Echo", "UnaryEcho");
            request.extensions_mut().insert(method);
        }
        Side::Server(connection) => {
            request.extensions_mut().insert(connection.clone());
        }
    }
    request
}

/// A handler that reads the request and answers with as many messages.
#[derive(Clone, Debug)]
pub struct Handler(Load);

/// Answers with this.
pub fn handler(load: impl Into<Load>) -> Handler {
    Handler(load.into())
}

impl Service<Request<Body>> for Handler {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        Answer {
            request,
            load: self.0,
        }
    }
}

/// The handler's future: reads, then answers.
#[derive(Debug)]
pub struct Answer {
    request: Request<Body>,
    load: Load,
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let load = self.load;
        while let Some(frame) = ready!(Pin::new(self.request.body_mut()).poll_frame(cx)) {
            drop(black_box(frame));
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let mut response = Response::new(Body::new(Messages {
            left: load.frames,
            frame: frame(load),
            trailers: Some(trailers),
        }));
        let content_type = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", content_type);
        Poll::Ready(Ok(response))
    }
}

/// Makes the call, reads the response to its trailers, and drops everything.
pub fn call<S, B>(service: &mut S, side: &Side, load: impl Into<Load>)
where
    S: Service<Request<Body>, Response = Response<B>>,
    B: HttpBody,
{
    let mut cx = Context::from_waker(Waker::noop());
    let future = pin!(async {
        let future = service.call(request(side, load));
        if let Ok(response) = future.await {
            drain(pin!(response.into_body())).await;
        }
    });
    assert!(future.poll(&mut cx).is_ready(), "nothing here waits");
}

async fn drain<B: HttpBody>(mut body: Pin<&mut B>) {
    loop {
        let frame = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
        match frame {
            // As tonic's client and hyper's server do, not asked again after the trailers.
            Some(Ok(frame)) if frame.is_trailers() => break,
            Some(Ok(frame)) => drop(black_box(frame)),
            _ => break,
        }
    }
}
