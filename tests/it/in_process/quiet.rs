//! An RPC without a listener is counted by a shortcut, which must give the same figures.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use tonic::body::Body;
use tower::{Layer as _, service_fn};
use tower_tracer::{RequestParts, RpcInfo, Tracer, TracerLayer, tracer::StreamEvent};

/// A body of these pieces, which knows its end if `knows_end`.
#[derive(Clone)]
struct Pieces {
    data: VecDeque<&'static [u8]>,
    trailers: Option<HeaderMap>,
    knows_end: bool,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.data.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(data)))));
        }
        Poll::Ready(self.trailers.take().map(|t| Ok(Frame::trailers(t))))
    }

    fn is_end_stream(&self) -> bool {
        self.knows_end && self.data.is_empty() && self.trailers.is_none()
    }
}

/// Keeps the record of its RPC, and maybe listens to it.
#[derive(Clone)]
struct Keep {
    listens: bool,
    kept: Arc<Mutex<Option<RpcInfo>>>,
}

impl Tracer for Keep {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        *self.kept.lock().unwrap() = Some(rpc.clone());
    }

    fn wants_events(&self) -> bool {
        self.listens
    }

    fn on_event(&self, (): &mut (), _: &RpcInfo, _: &StreamEvent<'_>) {}
}

/// The record of an RPC with these bodies, read to their ends or `dropped` after the first piece.
async fn traced(listens: bool, pieces: &Pieces, dropped: bool) -> RpcInfo {
    let kept = Arc::default();
    let tracer = Keep {
        listens,
        kept: Arc::clone(&kept),
    };
    let answer = pieces.clone();
    let handler = service_fn(move |request: Request<Body>| {
        let mut answer = answer.clone();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        answer.trailers = answer.trailers.map(|_| trailers);
        async move {
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                frame.unwrap();
            }
            let mut response = Response::new(Body::new(answer));
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", grpc);
            Ok::<_, Infallible>(response)
        }
    });
    let sent = Pieces {
        trailers: None,
        ..pieces.clone()
    };
    let request = Request::post("/echo.Echo/UnaryEcho")
        .header("content-type", "application/grpc")
        .body(Body::new(sent))
        .unwrap();
    let service = TracerLayer::new(tracer).server().layer(handler);
    let mut body = service.oneshot(request).await.unwrap().into_body();
    while let Some(frame) = body.frame().await {
        frame.unwrap();
        if dropped {
            break;
        }
    }
    drop(body);
    let rpc = kept.lock().unwrap().take();
    rpc.expect("finish was called")
}

fn pieces(data: &[&'static [u8]], trailers: bool, knows_end: bool) -> Pieces {
    Pieces {
        data: data.iter().copied().collect(),
        trailers: trailers.then(HeaderMap::new),
        knows_end,
    }
}

const PLAIN: &[u8] = b"\0\0\0\0\x03abc";
const COMPRESSED: &[u8] = b"\x01\0\0\0\x02ab";
const EMPTY: &[u8] = b"\0\0\0\0\0";

#[tokio::test]
async fn an_rpc_without_a_listener_has_the_same_figures() {
    let bodies: [&[&[u8]]; 8] = [
        &[],
        &[PLAIN],
        &[PLAIN, COMPRESSED, EMPTY],
        &[b"\0\0\0", b"\0\x03a", b"bc", COMPRESSED],
        &[b"\0\0\0\0\x01a\x01\0\0\0\x01b"],
        &[PLAIN, b""],
        &[PLAIN, b"\0\0\0\0\x09cut"],
        &[b"\0\xff\xff\xff\xffab"],
    ];
    for data in bodies {
        for (trailers, knows_end, dropped) in [
            (true, false, false),
            (true, true, false),
            (false, false, false),
            (false, true, false),
            (true, false, true),
            (false, true, true),
        ] {
            let body = pieces(data, trailers, knows_end);
            let (quiet, heard) = (
                traced(false, &body, dropped).await,
                traced(true, &body, dropped).await,
            );
            let case = format!("{data:?}, {trailers}, {knows_end}, {dropped}");
            let (quiet, heard) = (quiet.stats(), heard.stats());
            assert_eq!(quiet.request(), heard.request(), "{case}");
            assert_eq!(quiet.response(), heard.response(), "{case}");
            assert_eq!(quiet.ending(), heard.ending(), "{case}");
            assert_eq!(quiet.status(), heard.status(), "{case}");
        }
    }
}

#[tokio::test]
async fn and_they_are_the_right_ones() {
    for knows_end in [false, true] {
        let body = pieces(&[PLAIN, COMPRESSED, EMPTY], true, knows_end);
        let rpc = traced(false, &body, false).await;
        for traffic in [rpc.stats().request(), rpc.stats().response()] {
            assert_eq!(traffic.messages(), Some(3));
            assert_eq!(traffic.compressed_messages(), Some(1));
            assert_eq!(traffic.message_bytes(), Some(5));
            assert_eq!(traffic.last_message_bytes(), Some(0));
            assert_eq!(traffic.body_bytes(), Some(20));
            assert!(traffic.is_complete() && !traffic.truncated());
        }
    }
}
