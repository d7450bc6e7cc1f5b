//! The types of request bodies that are counted, each on its own.

use std::{
    convert::Infallible,
    error::Error,
    fmt::{self, Display},
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{
    BodyExt as _, Empty, Full, StreamBody,
    combinators::{BoxBody, UnsyncBoxBody},
};
use tower::{BoxError, Layer as _, service_fn};
use tower_tracer::{Event, RpcInfo, TracerLayer, service::RequestBody, testing::RecordingTracer};

type Layer = TracerLayer<RecordingTracer>;

/// Two messages of gRPC, 3 and 4 bytes long, in 17 bytes.
const MESSAGES: [&[u8]; 3] = [b"\0\0\0\0\x03ab", b"c\0\0\0\0", b"\x04defg"];

fn in_pieces<E: Send + Sync + 'static>() -> impl Body<Data = Bytes, Error = E> + Send + Sync {
    let frames = MESSAGES.map(|piece| Ok(Frame::data(Bytes::from_static(piece))));
    StreamBody::new(futures_util::stream::iter(frames))
}

/// What the service does with a request.
#[derive(Clone, Copy, PartialEq)]
enum Service {
    Reads,
    Drops,
}

/// Sends a body through a layer. Returns the record and its log.
async fn send<B>(
    configure: impl FnOnce(Layer) -> Layer,
    service: Service,
    body: B,
) -> (RpcInfo, Vec<String>)
where
    B: Body<Data = Bytes> + 'static,
    B::Error: fmt::Debug + Display,
{
    let recorder = RecordingTracer::new();
    let layer = configure(TracerLayer::new(recorder.clone()));
    let traced = layer.layer(service_fn(async |request: Request<B>| {
        if service == Service::Reads {
            let read = request.into_body().collect().await.unwrap().to_bytes();
            assert!(
                read.is_empty() || read == MESSAGES.concat(),
                "the service gets what was sent"
            );
        }
        let response = Response::builder().header("grpc-status", "0");
        Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
    }));
    let request = Request::post("/echo.Echo/UnaryEcho")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    traced.oneshot(request).await.unwrap();
    (recorder.only_finished(), recorder.log())
}

fn as_it_is(layer: Layer) -> Layer {
    layer
}

/// A body of this type is counted as it passes: all of it if it is read, nothing if it is not.
async fn assert_counted<B>(configure: impl Fn(Layer) -> Layer, body: impl Fn() -> B)
where
    B: Body<Data = Bytes> + 'static,
    B::Error: fmt::Debug + Display,
{
    let name = std::any::type_name::<B>();
    let (rpc, _) = send(&configure, Service::Reads, body()).await;
    let traffic = rpc.stats().request();
    assert_eq!(traffic.body_bytes(), Some(17), "{name}");
    assert_eq!(traffic.messages(), Some(2), "{name}");
    assert_eq!(traffic.message_bytes(), Some(7), "{name}");
    assert!(traffic.is_complete(), "{name}");

    let (rpc, _) = send(&configure, Service::Drops, body()).await;
    let traffic = rpc.stats().request();
    assert_eq!(traffic.body_bytes(), Some(0), "{name}");
    assert!(!traffic.is_complete(), "{name}");
}

async fn assert_unknown<B>(configure: impl Fn(Layer) -> Layer, body: B)
where
    B: Body<Data = Bytes> + 'static,
    B::Error: fmt::Debug + Display,
{
    let (rpc, _) = send(configure, Service::Reads, body).await;
    let traffic = rpc.stats().request();
    assert_eq!(traffic.body_bytes(), None);
    assert_eq!(traffic.messages(), None);
    assert!(!traffic.is_complete());
    assert_eq!(rpc.stats().at(Event::HALF_CLOSE), None);
}

#[tokio::test]
async fn boxes_with_a_known_error_are_counted() {
    async fn assert_boxes_counted<E: fmt::Debug + Display + Send + Sync + 'static>() {
        assert_counted(as_it_is, || BoxBody::<_, E>::new(in_pieces())).await;
        assert_counted(as_it_is, || UnsyncBoxBody::<_, E>::new(in_pieces())).await;
    }
    assert_boxes_counted::<Infallible>().await;
    assert_boxes_counted::<BoxError>().await;
    assert_boxes_counted::<io::Error>().await;
    assert_boxes_counted::<hyper::Error>().await;
    assert_boxes_counted::<tonic::Status>().await;
    assert_boxes_counted::<axum::Error>().await;
}

#[tokio::test]
async fn the_bodies_of_tonic_and_axum_are_counted() {
    assert_counted(as_it_is, || tonic::body::Body::new(in_pieces::<BoxError>())).await;
    assert_counted(as_it_is, || axum::body::Body::new(in_pieces::<BoxError>())).await;
}

#[derive(Debug)]
struct CustomError;

impl Display for CustomError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a custom error")
    }
}

impl Error for CustomError {}

#[tokio::test]
async fn a_box_with_a_custom_error_is_counted_once_it_is_named() {
    type Boxed = BoxBody<Bytes, CustomError>;
    type Unsync = UnsyncBoxBody<Bytes, CustomError>;

    let both = |layer: Layer| {
        layer
            .body_type::<Unsync>(Unsync::new)
            .body_type::<Boxed>(Boxed::new)
    };
    assert_counted(both, || Boxed::new(in_pieces())).await;
    assert_counted(both, || Unsync::new(in_pieces())).await;
    let only_unsync = |layer: Layer| layer.body_type::<Unsync>(Unsync::new);
    assert_unknown(only_unsync, Boxed::new(in_pieces())).await;
    assert_unknown(as_it_is, Boxed::new(in_pieces())).await;
}

/// A body that a user wrote, which can hold a counted one.
#[derive(Default)]
struct Custom(BoxBody<Bytes, CustomError>);

impl Custom {
    fn counted(body: RequestBody<Self>) -> Self {
        Self(BoxBody::new(body))
    }
}

impl Body for Custom {
    type Data = Bytes;
    type Error = CustomError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CustomError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

#[tokio::test]
async fn a_custom_body_is_counted_once_it_is_named() {
    let named = |layer: Layer| layer.body_type(Custom::counted);
    let body = || Custom(BoxBody::new(in_pieces()));
    assert_counted(named, body).await;
    assert_unknown(as_it_is, body()).await;

    let (rpc, log) = send(named, Service::Reads, Custom::default()).await;
    assert_eq!(rpc.stats().request().body_bytes(), Some(0));
    assert!(rpc.stats().request().is_complete());
    let expected = ["start", "request_headers", "half_close"];
    assert_eq!(log[..3], expected);
}

// The name counts before what the layer knows, and other bodies are counted as without it.
#[tokio::test]
async fn naming_a_type_leaves_the_others_as_they_were() {
    type Boxed = BoxBody<Bytes, io::Error>;

    let named = |layer: Layer| {
        layer
            .body_type(Custom::counted)
            .body_type::<Boxed>(Boxed::new)
    };
    assert_counted(named, || Boxed::new(in_pieces())).await;
    assert_counted(named, || UnsyncBoxBody::<_, io::Error>::new(in_pieces())).await;
    assert_counted(named, || tonic::body::Body::new(in_pieces::<BoxError>())).await;
    let (rpc, _) = send(
        named,
        Service::Reads,
        Full::new(Bytes::from(MESSAGES.concat())),
    )
    .await;
    assert_eq!(rpc.stats().request().messages(), Some(2));
}

#[tokio::test]
async fn a_full_body_is_counted_when_the_request_goes_to_the_service() {
    for service in [Service::Reads, Service::Drops] {
        let (rpc, log) = send(as_it_is, service, Full::new(Bytes::from(MESSAGES.concat()))).await;
        let traffic = rpc.stats().request();
        assert_eq!(traffic.body_bytes(), Some(17));
        assert_eq!(traffic.messages(), Some(2));
        assert_eq!(traffic.message_bytes(), Some(7));
        assert!(traffic.is_complete() && !traffic.truncated());
        let expected = [
            "start",
            "request_headers",
            "request_message #0 3B",
            "request_message #1 4B",
            "half_close",
            "response_headers",
            "finish headers_only OK",
        ];
        assert_eq!(log, expected);
    }
}

#[tokio::test]
async fn a_full_body_that_ends_inside_a_message_is_truncated() {
    let body = Full::new(Bytes::from_static(&MESSAGES[0][..6]));
    let (rpc, _) = send(as_it_is, Service::Drops, body).await;
    let traffic = rpc.stats().request();
    assert_eq!(traffic.body_bytes(), Some(6));
    assert_eq!(traffic.messages(), Some(0));
    assert!(traffic.truncated());
}

#[tokio::test]
async fn an_empty_body_is_known_to_be_empty() {
    let (empty, _) = send(as_it_is, Service::Drops, Empty::<Bytes>::new()).await;
    let (full, _) = send(as_it_is, Service::Drops, Full::<Bytes>::default()).await;
    let boxed = BoxBody::<Bytes, Infallible>::default();
    let (boxed, _) = send(as_it_is, Service::Drops, boxed).await;
    for rpc in [empty, full, boxed] {
        let traffic = rpc.stats().request();
        assert_eq!(traffic.body_bytes(), Some(0));
        assert_eq!(traffic.messages(), Some(0));
        assert!(traffic.is_complete());
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_wrapped_is_unknown() {
    assert_unknown(as_it_is, String::from_utf8(MESSAGES.concat()).unwrap()).await;
    assert_unknown(as_it_is, Box::pin(in_pieces::<Infallible>())).await;
}
