//! Endings between a real tonic client and a real tonic server.

use std::{pin::Pin, time::Duration};

use tokio::net::{TcpListener, TcpStream};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Streaming,
    transport::{Channel, Endpoint, Server},
};
use tower::ServiceBuilder;
use tower_tracer::{
    Code, Ending, Status, TracerLayer, service::TracerService, testing::RecordingTracer,
};

use crate::{
    support::scripted::quiet,
    support::tcp::{
        connect,
        echo::{Echo, EchoClient, EchoRequest, EchoResponse, EchoServer, EchoService, listen, say},
        pair, serve, soon,
    },
};

/// A request whose answer takes longer than any test.
fn never() -> EchoRequest {
    EchoRequest {
        delay_ms: 600_000,
        ..say("never")
    }
}

/// Waits until this is so.
async fn until(so: impl Fn() -> bool) {
    soon(async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// What it saw of its one RPC, up to its end.
async fn one_log(recorder: &RecordingTracer) -> Vec<String> {
    soon(recorder.wait_finished(1)).await;
    recorder.log()
}

// Ending 3.
#[tokio::test]
async fn a_handler_that_panics_is_a_panic_on_the_server_and_a_failure_on_the_client() {
    quiet();
    let mut pair = pair().await;
    let request = EchoRequest {
        panic: true,
        ..say("")
    };
    let error = soon(pair.client.unary_echo(request)).await.unwrap_err();

    let server = soon(pair.server_side.wait_finished(1)).await.remove(0);
    assert_eq!(server.stats().ending(), Some(Ending::Panic));
    assert_eq!(server.stats().status(), Some(Status::Grpc(Code::Unknown)));
    assert_eq!(server.stats().panic(), Some("asked to panic"));
    let client = pair.client_side.only_finished();
    assert_eq!(
        client.stats().status(),
        Some(Status::Grpc(error.code().into()))
    );
    assert_eq!(client.stats().panic(), None);
}

// Ending 6.
#[tokio::test]
async fn a_call_dropped_while_pending_is_cancelled_on_both_sides() {
    let pair = pair().await;
    let mut client = pair.client.clone();
    let call = tokio::spawn(async move { client.unary_echo(never()).await });
    let server_side = pair.server_side.clone();
    until(|| server_side.log().contains(&"half_close".to_owned())).await;
    assert_eq!(pair.client_side.finished().len(), 0);
    call.abort();

    for side in [&pair.client_side, &pair.server_side] {
        let log = one_log(side).await;
        assert_eq!(log.last().unwrap(), "finish cancelled CANCELLED");
        let rpc = side.only_finished();
        assert_eq!(rpc.stats().request().messages(), Some(1));
        assert_eq!(rpc.stats().request().message_bytes(), Some(11));
        assert_eq!(rpc.stats().wire_status(), None);
    }
}

// Ending 7.
#[tokio::test]
async fn a_stream_dropped_by_its_reader_is_cancelled_on_both_sides() {
    let mut pair = pair().await;
    let request = EchoRequest {
        count: u32::MAX,
        ..say("one of many")
    };
    let responses = pair.client.server_streaming_echo(request).await.unwrap();
    let mut responses = responses.into_inner();
    assert!(responses.message().await.unwrap().is_some());
    drop(responses);
    for side in [&pair.client_side, &pair.server_side] {
        let log = one_log(side).await;
        assert_eq!(log.last().unwrap(), "finish cancelled CANCELLED");
        let response = side.only_finished().stats().response();
        let messages = response.messages().unwrap();
        assert!(messages >= 1);
        assert_eq!(response.message_bytes(), Some(13 * messages));
        assert!(!response.is_complete());
    }
}

// Ending 8.
#[tokio::test]
async fn an_error_in_the_headers_is_seen_by_both_sides() {
    let mut pair = pair().await;
    let request = EchoRequest {
        code: 5,
        ..say("nowhere")
    };
    let error = pair.client.unary_echo(request).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    for side in [&pair.client_side, &pair.server_side] {
        let log = one_log(side).await;
        assert_eq!(log.last().unwrap(), "finish headers_only NOT_FOUND");
        let rpc = side.only_finished();
        assert_eq!(
            rpc.stats().wire_status(),
            Some(Status::Grpc(Code::NotFound))
        );
        assert_eq!(rpc.stats().error(), Some("nowhere"));
    }
}

// Ending 17.
#[tokio::test]
async fn a_connection_lost_in_mid_stream_ends_the_rpc_once_on_both_sides() {
    let (client_side, server_side) = (RecordingTracer::new(), RecordingTracer::new());
    let server = serve(TracerLayer::new(server_side.clone())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let wire = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let address = server.strip_prefix("http://").unwrap();
        let mut far = TcpStream::connect(address).await.unwrap();
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    });
    let mut client = connect(&uri, TracerLayer::new(client_side.clone())).await;
    let requests = tokio_stream::iter([say("one")]).chain(tokio_stream::pending());
    let mut responses = client
        .bidirectional_streaming_echo(requests)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(responses.message().await.unwrap().unwrap().message, "one");
    wire.abort();

    let error = soon(responses.message()).await.unwrap_err();
    soon(client_side.wait_finished(1)).await;
    let rpc = client_side.only_finished();
    let code = rpc.stats().status().unwrap().code().unwrap();
    assert!(matches!(code, Code::Unavailable | Code::Unknown), "{code}");
    assert_eq!(code, error.code());
    assert_eq!(rpc.stats().ending(), Some(Ending::BodyError));
    assert!(rpc.stats().error().is_some());
    assert_eq!(rpc.stats().response().messages(), Some(1));

    let log = one_log(&server_side).await;
    assert_eq!(log.last().unwrap(), "finish cancelled CANCELLED");
    drop(responses);
    assert_eq!(client_side.finished().len(), 1);
    assert_eq!(server_side.finished().len(), 1);
}

// Ending 28.
#[tokio::test]
async fn each_of_300_streams_reset_at_once_finishes_once() {
    let pair = pair().await;
    let calls: Vec<_> = (0..300)
        .map(|_| {
            let mut client = pair.client.clone();
            tokio::spawn(async move { client.unary_echo(never()).await })
        })
        .collect();
    let (client_side, server_side) = (pair.client_side.clone(), pair.server_side.clone());
    until(|| client_side.started().len() == 300 && server_side.started().len() >= 100).await;
    for call in calls {
        call.abort();
    }
    soon(client_side.wait_finished(300)).await;
    // So many resets can cost the connection; the next call may have to wait for another one.
    let mut client = pair.client.clone();
    soon(async { while client.unary_echo(say("last")).await.is_err() {} }).await;
    until(|| server_side.finished().len() == server_side.started().len()).await;
    assert_eq!(client_side.finished().len(), client_side.started().len());
    for side in [client_side, server_side] {
        for rpc in side.started() {
            let log = side.log_of(&rpc);
            let finishes = log.iter().filter(|line| line.starts_with("finish")).count();
            assert_eq!(finishes, 1, "{log:?}");
        }
    }
}

/// Passes each unary call on to another server.
struct Forward(EchoClient<TracerService<Channel, RecordingTracer>>);

#[tonic::async_trait]
impl Echo for Forward {
    async fn unary_echo(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<EchoResponse>, tonic::Status> {
        // A new request: the record is not passed on.
        self.0.clone().unary_echo(request.into_inner()).await
    }

    type ServerStreamingEchoStream =
        Pin<Box<dyn Stream<Item = Result<EchoResponse, tonic::Status>> + Send>>;

    async fn server_streaming_echo(
        &self,
        _: Request<EchoRequest>,
    ) -> Result<Response<Self::ServerStreamingEchoStream>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }

    async fn client_streaming_echo(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }

    type BidirectionalStreamingEchoStream = Self::ServerStreamingEchoStream;

    async fn bidirectional_streaming_echo(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Self::BidirectionalStreamingEchoStream>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }
}

// Ending 34.
#[tokio::test]
async fn a_client_called_inside_a_handler_is_a_child_of_the_servers_record() {
    let far = RecordingTracer::new();
    let (inner_client, middle, outer_client) = (
        RecordingTracer::new(),
        RecordingTracer::new(),
        RecordingTracer::new(),
    );
    let far_uri = serve(TracerLayer::new(far.clone())).await;
    let client = connect(&far_uri, TracerLayer::new(inner_client.clone())).await;
    let (incoming, uri) = listen().await.unwrap();
    tokio::spawn(
        Server::builder()
            .layer(TracerLayer::new(middle.clone()))
            .add_service(EchoServer::new(Forward(client)))
            .serve_with_incoming(incoming),
    );
    let client = connect(&uri, TracerLayer::new(outer_client.clone())).await;

    // Several at once on the same threads: none takes another's record for its parent.
    let calls = (0..8).map(|number| {
        let mut client = client.clone();
        tokio::spawn(async move { client.unary_echo(say(number.to_string())).await })
    });
    for call in calls.collect::<Vec<_>>() {
        soon(call).await.unwrap().unwrap();
    }
    let served = soon(middle.wait_finished(8)).await;
    let called = inner_client.finished();
    assert_eq!(called.len(), 8);
    for server in &served {
        assert!(server.parent().is_none());
        let children = called
            .iter()
            .filter(|rpc| rpc.parent().unwrap().ptr_eq(server));
        assert_eq!(children.count(), 1);
    }
    for rpc in outer_client
        .finished()
        .iter()
        .chain(&soon(far.wait_finished(8)).await)
    {
        assert!(
            rpc.parent().is_none(),
            "what came over a connection has no parent here"
        );
    }
}

/// Starts an Echo server with a timeout of its own.
async fn serve_with_timeout(layer: TracerLayer<RecordingTracer>, timeout: Duration) -> String {
    let (incoming, uri) = listen().await.unwrap();
    let server = Server::builder()
        .timeout(timeout)
        .layer(layer)
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    uri
}

const SHORT: Duration = Duration::from_millis(30);

// Ending 36.
#[tokio::test]
async fn the_configured_timeout_of_a_tonic_server_is_a_deadline() {
    for configured in [true, false] {
        let (client_side, server_side) = (RecordingTracer::new(), RecordingTracer::new());
        let mut layer = TracerLayer::new(server_side.clone());
        if configured {
            layer = layer.server_timeout(SHORT);
        }
        let uri = serve_with_timeout(layer, SHORT).await;
        let mut client = connect(&uri, TracerLayer::new(client_side.clone())).await;
        let error = soon(client.unary_echo(never())).await.unwrap_err();

        let log = one_log(&server_side).await;
        let expected = match configured {
            true => "finish deadline DEADLINE_EXCEEDED",
            false => "finish cancelled CANCELLED",
        };
        assert_eq!(log.last().unwrap(), expected);
        // The client knows of no deadline, and reports what the server sent.
        let rpc = client_side.only_finished();
        let sent = Some(Status::Grpc(error.code().into()));
        assert_eq!(rpc.stats().status(), sent);
        assert_eq!(rpc.stats().wire_status(), sent);
        assert_eq!(rpc.stats().ending(), Some(Ending::HeadersOnly));
    }
}

// Ending 36.
#[tokio::test]
async fn a_deadline_in_the_request_is_exceeded_by_each_sides_own_clock() {
    let mut pair = pair().await;
    let mut request = Request::new(never());
    request.set_timeout(SHORT);
    let error = soon(pair.client.unary_echo(request)).await.unwrap_err();
    soon(pair.server_side.wait_finished(1)).await;
    let client = pair.client_side.only_finished();
    let server = pair.server_side.only_finished();
    let exceeded = Some(Status::Grpc(Code::DeadlineExceeded));
    assert_eq!(client.timeout(), Some(SHORT));
    assert_eq!(client.stats().status(), exceeded);
    assert!(client.stats().duration().unwrap() >= SHORT);
    // The first values that it was given stay readable.
    let wire = client.stats().wire_status();
    assert_eq!(wire, Some(Status::Grpc(error.code().into())));

    // The server's clock started later: the client's reset may arrive before its time is up.
    assert_eq!(server.timeout(), Some(SHORT));
    if server.stats().status() == exceeded {
        assert_eq!(server.stats().ending(), Some(Ending::Deadline));
        assert!(server.stats().duration().unwrap() >= SHORT);
    } else {
        assert_eq!(server.stats().status(), Some(Status::Grpc(Code::Cancelled)));
        assert_eq!(server.stats().ending(), Some(Ending::Cancelled));
    }
}

// Ending 36.
#[tokio::test]
async fn the_channels_own_timeout_is_a_deadline_on_the_client_and_a_cancellation_on_the_server() {
    let (client_side, server_side) = (RecordingTracer::new(), RecordingTracer::new());
    let uri = serve(TracerLayer::new(server_side.clone())).await;
    let channel = Endpoint::from_shared(uri)
        .unwrap()
        .timeout(SHORT)
        .connect()
        .await
        .unwrap();
    let layer = TracerLayer::new(client_side.clone());
    let mut client = EchoClient::new(ServiceBuilder::new().layer(layer).service(channel));
    let error = soon(client.unary_echo(never())).await.unwrap_err();

    let rpc = client_side.only_finished();
    assert_eq!(rpc.stats().ending(), Some(Ending::Deadline));
    assert_eq!(
        rpc.stats().status(),
        Some(Status::Grpc(Code::DeadlineExceeded))
    );
    assert_eq!(
        rpc.stats().wire_status(),
        Some(Status::Grpc(error.code().into()))
    );
    let log = one_log(&server_side).await;
    assert_eq!(log.last().unwrap(), "finish cancelled CANCELLED");
}

// Ending 36.
#[tokio::test]
async fn a_timeout_layer_around_the_clients_layer_cancels_on_both_sides() {
    let (client_side, server_side) = (RecordingTracer::new(), RecordingTracer::new());
    let uri = serve(TracerLayer::new(server_side.clone())).await;
    let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
    let service = ServiceBuilder::new()
        .timeout(SHORT)
        .layer(TracerLayer::new(client_side.clone()))
        .service(channel);
    assert!(
        soon(EchoClient::new(service).unary_echo(never()))
            .await
            .is_err()
    );
    for side in [&client_side, &server_side] {
        assert_eq!(
            one_log(side).await.last().unwrap(),
            "finish cancelled CANCELLED"
        );
    }
}

// Ending 37.
#[tokio::test]
async fn a_request_stream_cancelled_by_its_client_is_cancelled_though_the_handler_answers() {
    let pair = pair().await;
    let requests = tokio_stream::iter([say("one")]).chain(tokio_stream::pending());
    let mut client = pair.client.clone();
    let call = tokio::spawn(async move { client.client_streaming_echo(requests).await });
    let server_side = pair.server_side.clone();
    until(|| {
        server_side
            .log()
            .iter()
            .any(|line| line.starts_with("request_message"))
    })
    .await;
    call.abort();

    for side in [&pair.client_side, &pair.server_side] {
        let log = one_log(side).await;
        assert_eq!(log.last().unwrap(), "finish cancelled CANCELLED", "{log:?}");
        let rpc = side.only_finished();
        assert_eq!(rpc.stats().request().messages(), Some(1));
        assert!(!rpc.stats().request().is_complete());
    }
    // tonic shows the handler a clean end of the request, and it answers.
    let answered = pair
        .server_side
        .log()
        .contains(&"response_headers".to_owned());
    assert!(answered, "{:?}", pair.server_side.log());
}

// Ending 38.
#[tokio::test]
async fn trailers_before_the_end_of_the_request_end_the_rpc_for_good() {
    let mut pair = pair().await;
    let (requests, stream) = tokio::sync::mpsc::channel(4);
    requests
        .send(EchoRequest {
            code: 5,
            ..say("nowhere")
        })
        .await
        .unwrap();
    let mut responses = pair
        .client
        .bidirectional_streaming_echo(ReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    let error = soon(responses.message()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    for side in [&pair.client_side, &pair.server_side] {
        soon(side.wait_finished(1)).await;
    }
    let logs = (pair.client_side.log(), pair.server_side.log());
    assert_eq!(logs.0.last().unwrap(), "finish trailers NOT_FOUND");
    assert_eq!(logs.1.last().unwrap(), "finish trailers NOT_FOUND");

    // The client keeps sending until the server stops it.
    soon(async { while requests.send(say("more")).await.is_ok() {} }).await;
    assert_eq!((pair.client_side.log(), pair.server_side.log()), logs);
}
