//! `connectrpc`, the Rust implementation of Connect: its client and its service under the layer, over TCP. What
//! one side records, the other does.

use std::{net::SocketAddr, time::Duration};

use axum::Router as AxumRouter;
use buffa_types::google::protobuf::{__buffa::view::StringValueView, StringValue};
use connectrpc::{
    CompressionPolicy, CompressionRegistry, ConnectError, ConnectRpcService, ErrorCode,
    Protocol as Wire, Response, Router, Spec, StreamType,
    client::{self, CallOptions, ClientBody, ClientConfig, ServiceTransport},
    compression::ZstdProvider,
    handler_fn, streaming_handler_fn,
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_tracer::{
    Code, Ending, Role, RpcInfo, Status, TracerLayer, rpc::Protocol, testing::RecordingTracer,
};

const UNARY: Spec = Spec::client("/echo.Echo/Unary", StreamType::Unary);
const STREAM: Spec = Spec::client("/echo.Echo/Stream", StreamType::ServerStream);

/// What a client may ask for, in the text of its message.
fn answer(asked: &str) -> Result<String, ConnectError> {
    match asked {
        "fail" => Err(ConnectError::new(ErrorCode::NotFound, "no such thing")),
        "fail at length" => {
            let text = "no such thing ".repeat(500);
            Err(ConnectError::new(ErrorCode::NotFound, text))
        }
        asked => Ok(asked.to_owned()),
    }
}

fn router() -> Router {
    Router::new()
        .route(
            "echo.Echo",
            "Unary",
            handler_fn(async |_, request: StringValue| {
                Response::ok(StringValue::from(answer(&request.value)?))
            }),
        )
        .route_server_stream(
            "echo.Echo",
            "Stream",
            streaming_handler_fn(async |_, request: StringValue| {
                let last = answer(&request.value).map(StringValue::from);
                let messages = [Ok(StringValue::from("first")), last];
                Response::stream_ok(futures_util::stream::iter(messages))
            }),
        )
}

/// A server and a client, traced.
struct Pair {
    address: SocketAddr,
    server: RecordingTracer,
    client: RecordingTracer,
}

impl Pair {
    async fn new() -> Self {
        let server = RecordingTracer::new();
        let service = ConnectRpcService::new(router())
            .with_compression_policy(CompressionPolicy::default().with_min_size(0));
        let router = AxumRouter::new()
            .fallback_service(service)
            .layer(TracerLayer::new(server.clone()).server());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            address,
            server,
            client: RecordingTracer::new(),
        }
    }

    /// Calls the server. Returns the records of the client and of the server.
    async fn call(&self, protocol: Wire, spec: Spec, message: &str) -> [RpcInfo; 2] {
        self.call_as(spec, message, protocol, |config| config).await
    }

    /// The same with a client that is configured.
    async fn call_as(
        &self,
        spec: Spec,
        message: &str,
        protocol: Wire,
        configure: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> [RpcInfo; 2] {
        self.client.clear();
        self.server.clear();
        let http = Client::builder(TokioExecutor::new())
            .http2_only(protocol == Wire::Grpc)
            .build_http::<ClientBody>();
        // The line that a user writes: the body's type is the one of connectrpc's clients.
        let layer = TracerLayer::new(self.client.clone())
            .client()
            .body_type::<ClientBody>(ClientBody::new);
        let transport = ServiceTransport::new(ServiceBuilder::new().layer(layer).service(http));
        let base = format!("http://{}", self.address).parse().unwrap();
        let config = configure(ClientConfig::new(base).with_protocol(protocol));
        let request = StringValue::from(message);
        let options = CallOptions::default();
        if spec.stream_type == StreamType::Unary {
            let called = client::call_unary::<_, _, StringValueView<'static>>(
                &transport, &config, spec, request, options,
            );
            let answered = called.await.map(drop);
            assert_eq!(answered.is_ok(), !message.starts_with("fail"));
        } else {
            let called = client::call_server_stream::<_, _, StringValueView<'static>>(
                &transport, &config, spec, request, options,
            );
            let mut stream = called.await.unwrap();
            while let Ok(Some(_)) = stream.message::<StringValue>().await {}
        }
        [&self.client, &self.server].map(finished)
    }
}

/// The record, once the server is done too.
fn finished(recorder: &RecordingTracer) -> RpcInfo {
    let begin = std::time::Instant::now();
    while recorder.finished().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(10), "it finishes");
        std::thread::yield_now();
    }
    recorder.only_finished()
}

fn protocol_of(wire: Wire, spec: Spec) -> Protocol {
    match (wire, spec.stream_type) {
        (Wire::Connect, StreamType::Unary) => Protocol::ConnectUnary,
        (Wire::Connect, _) => Protocol::ConnectStreaming,
        (Wire::Grpc, _) => Protocol::Grpc,
        _ => Protocol::GrpcWeb,
    }
}

const WIRES: [Wire; 3] = [Wire::Connect, Wire::Grpc, Wire::GrpcWeb];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_knows_the_sizes_and_messages_of_each_protocol() {
    let pair = Pair::new().await;
    for wire in WIRES {
        for (spec, messages) in [(UNARY, 1), (STREAM, 2)] {
            let records = pair.call(wire, spec, "hello").await;
            for rpc in &records {
                assert_eq!(rpc.protocol(), protocol_of(wire, spec));
                assert_eq!(rpc.full_method(), spec.procedure.strip_prefix('/'));
                let stats = rpc.stats();
                assert_eq!(stats.status(), Some(Status::OK), "{rpc}");
                assert_eq!(stats.request().messages(), Some(1), "{rpc}");
                assert_eq!(stats.request().message_bytes(), Some(7), "{rpc}");
                assert_eq!(stats.response().messages(), Some(messages), "{rpc}");
                assert!(stats.request().is_complete() && stats.response().is_complete());
            }
            let [client, server] = records;
            assert_eq!([client.role(), server.role()], [Role::Client, Role::Server]);
            for (sent, received) in [
                (client.stats().request(), server.stats().request()),
                (client.stats().response(), server.stats().response()),
            ] {
                assert_eq!(sent.body_bytes(), received.body_bytes());
                assert_eq!(sent.message_bytes(), received.message_bytes());
                assert_eq!(sent.compressed_messages(), received.compressed_messages());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_knows_the_error_of_each_protocol() {
    let pair = Pair::new().await;
    for wire in WIRES {
        for spec in [UNARY, STREAM] {
            for message in ["fail", "fail at length"] {
                for rpc in pair.call(wire, spec, message).await {
                    let stats = rpc.stats();
                    let what = format!("{wire:?} {message}: {rpc}");
                    assert_eq!(stats.code(), Some(Code::NotFound), "{what}");
                    assert!(
                        stats.error().unwrap().starts_with("no such thing"),
                        "{what}"
                    );
                    assert_ne!(stats.ending(), Some(Ending::Cancelled), "{what}");
                }
            }
        }
    }
}

// connectrpc compresses messages, but neither the ends of streams nor errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_counts_the_messages_that_zstd_compressed() {
    let pair = Pair::new().await;
    for wire in WIRES {
        for (spec, message, status) in [
            (UNARY, "hello", Status::OK),
            (STREAM, "hello", Status::OK),
            (UNARY, "fail at length", Status::Grpc(Code::NotFound)),
            (STREAM, "fail at length", Status::Grpc(Code::NotFound)),
        ] {
            let zstd = CompressionRegistry::new().register(ZstdProvider::default());
            let configure = |config: ClientConfig| {
                config
                    .with_compression(zstd)
                    .with_compression_policy(CompressionPolicy::default().with_min_size(0))
                    .compress_requests("zstd")
            };
            for rpc in pair.call_as(spec, message, wire, configure).await {
                let what = format!("{wire:?} {message}: {rpc}");
                assert_eq!(rpc.stats().status(), Some(status), "{what}");
                let [request, response] = [rpc.stats().request(), rpc.stats().response()];
                assert_eq!(request.compressed_messages(), Some(1), "{what}");
                assert_eq!(
                    response.compressed_messages(),
                    response.messages(),
                    "{what}"
                );
            }
        }
    }
}

// Without the line that names it, a client's body is of a type that the layer does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_request_of_a_client_is_unknown_until_its_body_is_named() {
    let pair = Pair::new().await;
    let recorder = RecordingTracer::new();
    let layer = TracerLayer::new(recorder.clone()).client();
    let http = Client::builder(TokioExecutor::new()).build_http::<ClientBody>();
    let transport = ServiceTransport::new(ServiceBuilder::new().layer(layer).service(http));
    let base = format!("http://{}", pair.address).parse().unwrap();
    client::call_unary::<_, _, StringValueView<'static>>(
        &transport,
        &ClientConfig::new(base),
        UNARY,
        StringValue::from("hello"),
        CallOptions::default(),
    )
    .await
    .unwrap();
    let stats = recorder.only_finished();
    assert_eq!(stats.stats().request().body_bytes(), None);
    assert_eq!(stats.stats().response().messages(), Some(1));
}

#[test]
fn the_lines_of_the_guide_are_those_that_are_tested_here() {
    let without_spaces = |text: &str| text.split_whitespace().collect::<String>();
    let guide = include_str!("../../../src/guide/hosts.md");
    let tested = without_spaces(include_str!("connectrpc.rs"));
    let section = guide.split("# connectrpc").nth(1).unwrap();
    let code = section.split("```").nth(1).unwrap();
    let code = code.strip_prefix("ignore").unwrap();
    let code = without_spaces(code).replace("tracer)", "self.client.clone())");
    assert!(
        code.contains("ClientBody::new") && tested.contains(&code),
        "{code}"
    );
}
