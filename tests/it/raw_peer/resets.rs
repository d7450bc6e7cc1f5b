//! What is reported when a stream is reset or its connection is lost, at each point of an RPC: a
//! raw server does it to a traced tonic client, and a raw client to a traced tonic server.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use crate::support::raw_peer::{
    Kind::{ServerStreaming, Unary},
    Met, RawCall, RawClient, RawServer, Step, data, encoded, framed, meet, meet_with, message, ok,
    saw, serve_script, traced, trailers,
};
use crate::support::tcp::{
    echo::{EchoClient, EchoRequest, EchoServer, EchoService, listen, say},
    serve, soon,
};
use futures_util::StreamExt as _;
use h2::Reason;
use prost::Message as _;
use tokio::sync::Notify;
use tonic::transport::{Endpoint, Server};
use tower_tracer::{Code, Ending, RpcInfo, Status, TracerLayer, testing::RecordingTracer};

/// All reasons HTTP/2 knows, and the code gRPC gives each.
const REASONS: [(Reason, Code); 14] = [
    (Reason::NO_ERROR, Code::Internal),
    (Reason::PROTOCOL_ERROR, Code::Internal),
    (Reason::INTERNAL_ERROR, Code::Internal),
    (Reason::FLOW_CONTROL_ERROR, Code::Internal),
    (Reason::SETTINGS_TIMEOUT, Code::Internal),
    (Reason::STREAM_CLOSED, Code::Unknown),
    (Reason::FRAME_SIZE_ERROR, Code::Internal),
    (Reason::REFUSED_STREAM, Code::Unavailable),
    (Reason::CANCEL, Code::Cancelled),
    (Reason::COMPRESSION_ERROR, Code::Internal),
    (Reason::CONNECT_ERROR, Code::Internal),
    (Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
    (Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
    (Reason::HTTP_1_1_REQUIRED, Code::Unknown),
];

#[track_caller]
fn reports(rpc: &RpcInfo, ending: Ending, code: Code, wire: Option<Code>) {
    let stats = rpc.stats();
    assert_eq!(stats.ending(), Some(ending), "{rpc:?}");
    assert_eq!(stats.status(), Some(Status::Grpc(code)), "{rpc:?}");
    assert_eq!(stats.wire_status(), wire.map(Status::Grpc), "{rpc:?}");
}

/// The layer says what its caller got, and no more of the text than is bounded.
#[track_caller]
fn agrees(met: &Met, ending: Ending, code: Code) {
    reports(&met.rpc, ending, code, Some(code));
    assert_eq!(met.got.code(), Some(code.into()));
    let error = met.rpc.stats().error().unwrap();
    assert!(!error.is_empty() && error.len() <= 1024, "{error}");
}

// Ending 16.
#[tokio::test]
async fn a_reset_before_the_headers_has_the_code_of_its_reason() {
    for (reason, code) in REASONS {
        for kind in [Unary, ServerStreaming] {
            let met = meet(kind, [Step::Reset(reason)]).await;
            agrees(&met, Ending::Reset, code);
            assert_eq!(met.rpc.stats().http_status(), None);
            assert_eq!(met.log.last(), Some(&format!("finish reset {code}")));
        }
    }
}

// Ending 16.
#[tokio::test]
async fn a_reset_inside_the_response_has_the_code_of_its_reason() {
    let part = &framed(0, &encoded("two"))[..7];
    for (reason, code) in REASONS {
        for (steps, messages, truncated) in [
            (vec![ok()], 0, false),
            (vec![ok(), message("one"), data(part)], 1, true),
            (vec![ok(), message("one"), message("two")], 2, false),
        ] {
            let mut script = steps;
            script.push(Step::Reset(reason));
            let met = meet(ServerStreaming, script).await;
            if reason == Reason::NO_ERROR {
                // hyper makes this one a clean end of the body: neither the layer nor tonic can
                // distinguish it from a server that forgot its trailers.
                reports(&met.rpc, Ending::BodyEnd, Code::Unknown, None);
            } else {
                agrees(&met, Ending::Reset, code);
            }
            assert_eq!(met.got.messages.len(), messages);
            let response = met.rpc.stats().response();
            assert_eq!(response.messages(), Some(messages as u64));
            assert_eq!(response.truncated(), truncated);
            assert_eq!(met.rpc.stats().http_status(), Some(200));
        }
    }
}

// Ending 38.
#[tokio::test]
async fn trailers_end_the_call_while_the_request_still_streams() {
    for reset in [false, true] {
        let mut script = vec![ok(), message("early"), trailers(&[("grpc-status", "5")])];
        if reset {
            // As servers do that want no more of the request.
            script.push(Step::Reset(Reason::NO_ERROR));
        }
        let server = RawServer::start(script).await;
        let channel = Endpoint::from_shared(server.uri).unwrap();
        let channel = channel.connect().await.unwrap();
        let recorder = RecordingTracer::new();
        let mut client = EchoClient::new(traced(channel, &recorder));

        let (more, requests) = tokio::sync::mpsc::channel(1);
        more.send(say("first")).await.unwrap();
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let call = client.bidirectional_streaming_echo(requests);
        let mut responses = soon(call).await.unwrap().into_inner();
        let first = soon(responses.message()).await.unwrap().unwrap();
        assert_eq!(first.message, "early");
        let end = soon(responses.message()).await.unwrap_err();
        assert_eq!(end.code(), tonic::Code::NotFound);

        let rpc = recorder.only_finished();
        reports(&rpc, Ending::Trailers, Code::NotFound, Some(Code::NotFound));
        if reset {
            soon(more.closed()).await;
        } else {
            // When the third fits into the channel, the second has been taken.
            soon(more.send(say("second"))).await.unwrap();
            soon(more.send(say("third"))).await.unwrap();
        }
        reports(&rpc, Ending::Trailers, Code::NotFound, Some(Code::NotFound));
        let log = recorder.log();
        assert_eq!(log.last().unwrap(), "finish trailers NOT_FOUND", "{log:?}");
        assert_eq!(recorder.finished().len(), 1);
    }
}

// Ending 16.
#[tokio::test]
async fn a_cancel_when_the_deadline_has_passed_is_a_deadline() {
    let timeout = Duration::from_secs(2);
    let go_on = Arc::new(Notify::new());
    let server = RawServer::start([
        ok(),
        message("one"),
        Step::Wait(Arc::clone(&go_on)),
        Step::Reset(Reason::CANCEL),
    ])
    .await;
    let channel = Endpoint::from_shared(server.uri).unwrap();
    let channel = channel.connect().await.unwrap();
    let recorder = RecordingTracer::new();
    let mut client = EchoClient::new(traced(channel, &recorder));

    let mut request = tonic::Request::new(say("hello"));
    request.set_timeout(timeout);
    let call = client.server_streaming_echo(request);
    let mut responses = soon(call).await.unwrap().into_inner();
    let first = soon(responses.message()).await.unwrap().unwrap();
    assert_eq!(first.message, "one");
    // Once there are headers, nothing of tonic's ends the call at its deadline.
    tokio::time::sleep_until((recorder.started()[0].deadline().unwrap()).into()).await;
    go_on.notify_one();
    let end = soon(responses.message()).await.unwrap_err();
    assert_eq!(end.code(), tonic::Code::Cancelled);

    let rpc = recorder.only_finished();
    reports(
        &rpc,
        Ending::Deadline,
        Code::DeadlineExceeded,
        Some(Code::Cancelled),
    );
}

// Ending 7.
#[tokio::test]
async fn a_caller_that_drops_the_response_cancels_and_the_half_message_is_not_counted() {
    let half = framed(0, &encoded("two")).slice(..7);
    let server = RawServer::start([ok(), message("one"), Step::Data(half), Step::Forever]).await;
    let channel = Endpoint::from_shared(server.uri).unwrap();
    let channel = channel.connect().await.unwrap();
    let recorder = RecordingTracer::new();
    let mut client = EchoClient::new(traced(channel, &recorder));
    let call = client.server_streaming_echo(say("hello"));
    let mut responses = soon(call).await.unwrap().into_inner();
    soon(responses.message()).await.unwrap().unwrap();
    let rpc = recorder.started().remove(0);
    // The next message never comes, but half of it does.
    soon(poll_fn(|cx| {
        assert!(responses.poll_next_unpin(cx).is_pending());
        match rpc.stats().response().body_bytes() {
            Some(17) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }))
    .await;
    assert_eq!(rpc.stats().ending(), None);
    drop(responses);

    assert!(recorder.only_finished().ptr_eq(&rpc));
    reports(&rpc, Ending::Cancelled, Code::Cancelled, None);
    let response = rpc.stats().response();
    assert_eq!(response.messages(), Some(1));
    assert!(response.truncated());
    assert!(!response.is_complete());
}

// Ending 17.
#[tokio::test]
async fn a_lost_connection_ends_the_call_once() {
    let part = &framed(0, &encoded("two"))[..7];
    for (script, messages) in [
        (vec![Step::HangUp], None),
        (vec![ok(), Step::HangUp], Some(0)),
        (
            vec![ok(), message("one"), data(part), Step::HangUp],
            Some(1),
        ),
        (
            vec![ok(), message("one"), message("two"), Step::HangUp],
            Some(2),
        ),
    ] {
        let met = meet(ServerStreaming, script).await;
        is_lost(&met, messages);
    }
}

/// The connection failed: before the response, or after this many of its messages.
#[track_caller]
fn is_lost(met: &Met, messages: Option<u64>) {
    let stats = met.rpc.stats();
    let ending = match messages {
        None => Ending::ServiceError,
        Some(_) => Ending::BodyError,
    };
    assert_eq!(stats.ending(), Some(ending));
    assert_eq!(stats.status(), Some(Status::Grpc(Code::Unknown)));
    assert_eq!(met.got.code(), Some(tonic::Code::Unknown));
    assert!(stats.error().is_some_and(|error| !error.is_empty()));
    assert_eq!(stats.response().messages(), Some(messages.unwrap_or(0)));
}

// Ending 17.
#[tokio::test]
async fn a_connection_that_answers_no_ping_is_lost() {
    let impatient = |endpoint: Endpoint| {
        endpoint
            .http2_keep_alive_interval(Duration::from_millis(400))
            .keep_alive_timeout(Duration::from_millis(400))
    };
    let met = meet_with(ServerStreaming, [Step::Freeze], impatient).await;
    agrees(&met, Ending::ServiceError, Code::Unavailable);
    // Inside a response hyper reports what it reports for any lost connection.
    let script = [ok(), message("one"), Step::Freeze];
    let met = meet_with(ServerStreaming, script, impatient).await;
    is_lost(&met, Some(1));
}

// Ending 17.
#[tokio::test]
async fn a_goaway_that_closes_the_connection_is_a_lost_connection() {
    // h2 gives the reason to the streams the server has not seen, and none to those it has.
    for (reason, _) in REASONS.into_iter().skip(1) {
        let met = meet(ServerStreaming, [Step::GoAway(reason)]).await;
        is_lost(&met, None);
        let met = meet(
            ServerStreaming,
            [ok(), message("one"), Step::GoAway(reason)],
        )
        .await;
        is_lost(&met, Some(1));
    }
}

#[tokio::test]
async fn a_goaway_that_lets_streams_end_changes_nothing() {
    let go_away = Step::GoAway(Reason::NO_ERROR);
    let end = trailers(&[("grpc-status", "0")]);
    for script in [
        [go_away.clone(), ok(), message("one"), end.clone()],
        [ok(), go_away, message("one"), end],
    ] {
        let met = meet(ServerStreaming, script).await;
        reports(&met.rpc, Ending::Trailers, Code::Ok, Some(Code::Ok));
        assert_eq!(met.got.messages, ["one"]);
    }
}

const UNARY: &str = "/echo.Echo/UnaryEcho";
const SERVER_STREAMING: &str = "/echo.Echo/ServerStreamingEcho";
const CLIENT_STREAMING: &str = "/echo.Echo/ClientStreamingEcho";

/// How a client goes away.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Reset(Reason),
    Vanish,
}

impl Leave {
    fn all() -> impl Iterator<Item = Self> {
        let resets = REASONS.into_iter().map(|(reason, _)| Self::Reset(reason));
        resets.chain([Self::Vanish])
    }

    async fn leave(self, client: RawClient, call: &mut RawCall) {
        match self {
            Self::Reset(reason) => call.reset(reason),
            Self::Vanish => client.vanish().await,
        }
    }
}

/// The only RPC that a server served, once it is over.
async fn only(recorder: &RecordingTracer) -> RpcInfo {
    soon(recorder.wait_finished(1)).await;
    assert_eq!(recorder.started().len(), 1);
    recorder.only_finished()
}

/// A request whose handler takes longer than any test before each message, and asks for two.
fn endless() -> bytes::Bytes {
    let request = EchoRequest {
        delay_ms: 1_000_000,
        ..say("hello")
    };
    framed(0, &request.encode_to_vec())
}

// Ending 6.
#[tokio::test]
async fn a_client_that_leaves_before_the_headers_cancels() {
    // hyper drops the handler's future, and does not say for which reason.
    for leave in Leave::all() {
        let recorder = RecordingTracer::new();
        let uri = serve(TracerLayer::new(recorder.clone())).await;
        let mut client = RawClient::connect(&uri).await;
        let mut call = client.open(UNARY, &[]).await;
        call.data(endless());
        call.end();
        saw(&recorder, "half_close", 1).await;
        leave.leave(client, &mut call).await;

        let rpc = only(&recorder).await;
        reports(&rpc, Ending::Cancelled, Code::Cancelled, None);
        assert_eq!(rpc.stats().request().messages(), Some(1));
        assert_eq!(rpc.stats().request().body_bytes(), Some(16));
        assert_eq!(rpc.stats().http_status(), None);
    }
}

// Ending 7.
#[tokio::test]
async fn a_client_that_leaves_inside_the_response_cancels() {
    // hyper drops the response's body, and does not say for which reason.
    for leave in Leave::all() {
        let recorder = RecordingTracer::new();
        let uri = serve(TracerLayer::new(recorder.clone())).await;
        let mut client = RawClient::connect(&uri).await;
        let mut call = client.open(SERVER_STREAMING, &[]).await;
        call.data(endless());
        call.end();
        let _response = call.headers().await;
        leave.leave(client, &mut call).await;

        let rpc = only(&recorder).await;
        reports(&rpc, Ending::Cancelled, Code::Cancelled, None);
        assert_eq!(rpc.stats().http_status(), Some(200));
        assert_eq!(rpc.stats().response().messages(), Some(0));
        assert!(!rpc.stats().response().is_complete());
    }
}

// Ending 7.
#[tokio::test]
async fn a_message_that_was_half_sent_when_the_client_left_is_not_counted() {
    let recorder = RecordingTracer::new();
    let half = framed(0, &encoded("two")).slice(..7);
    let script = [ok(), message("one"), Step::Data(half), Step::Forever];
    let uri = serve_script(Some(&recorder), script).await;
    let mut client = RawClient::connect(&uri).await;
    let mut call = client.open(UNARY, &[]).await;
    call.end();
    let mut response = call.headers().await.into_body();
    let mut came = 0;
    while came < 10 + 7 {
        came += soon(response.data()).await.unwrap().unwrap().len();
    }
    call.reset(Reason::CANCEL);

    let rpc = only(&recorder).await;
    reports(&rpc, Ending::Cancelled, Code::Cancelled, None);
    let response = rpc.stats().response();
    assert_eq!(response.messages(), Some(1));
    assert_eq!(response.body_bytes(), Some(17));
    assert!(response.truncated());
}

// Ending 37.
#[tokio::test]
async fn a_client_that_leaves_inside_the_request_cancels_whatever_the_handler_answers() {
    // tonic shows CANCEL to the handler as the end of the request, to which Echo answers OK; any
    // other reason is an error, which Echo answers with. Neither goes out.
    for leave in Leave::all() {
        for half in [false, true] {
            let recorder = RecordingTracer::new();
            let uri = serve(TracerLayer::new(recorder.clone())).await;
            let mut client = RawClient::connect(&uri).await;
            let mut call = client.open(CLIENT_STREAMING, &[]).await;
            call.data(framed(0, &encoded("one")));
            if half {
                call.data(framed(0, &encoded("two")).slice(..7));
            }
            saw(&recorder, "request_message #0 5B", 1).await;
            leave.leave(client, &mut call).await;

            let rpc = only(&recorder).await;
            let request = rpc.stats().request();
            if half && matches!(leave, Leave::Reset(Reason::NO_ERROR)) {
                // hyper makes this one a clean end of the request, and tonic misses the rest of it:
                // the layer cannot know that the answer does not arrive.
                reports(
                    &rpc,
                    Ending::HeadersOnly,
                    Code::Internal,
                    Some(Code::Internal),
                );
            } else {
                reports(&rpc, Ending::Cancelled, Code::Cancelled, None);
            }
            let clean = matches!(leave, Leave::Reset(Reason::NO_ERROR));
            assert_eq!(request.is_complete(), clean, "{leave:?}");
            assert_eq!(request.messages(), Some(1));
            assert_eq!(request.truncated(), half);
        }
    }
}

// Ending 36.
#[tokio::test]
async fn a_client_that_leaves_after_its_deadline_has_exceeded_it() {
    let recorder = RecordingTracer::new();
    let uri = serve(TracerLayer::new(recorder.clone())).await;
    let mut client = RawClient::connect(&uri).await;
    let mut call = client
        .open(SERVER_STREAMING, &[("grpc-timeout", "2S")])
        .await;
    call.data(endless());
    call.end();
    // Once there are headers, nothing of tonic's ends the call at its deadline.
    let _response = call.headers().await;
    let deadline = recorder.started()[0].deadline().unwrap();
    tokio::time::sleep_until(deadline.into()).await;
    call.reset(Reason::CANCEL);

    let rpc = only(&recorder).await;
    reports(&rpc, Ending::Deadline, Code::DeadlineExceeded, None);
}

// Ending 28.
#[tokio::test]
async fn streams_that_are_reset_at_once_all_finish() {
    let recorder = RecordingTracer::new();
    let (incoming, uri) = listen().await.unwrap();
    let server = Server::builder()
        .max_concurrent_streams(400)
        .layer(TracerLayer::new(recorder.clone()))
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let mut client = RawClient::connect(&uri).await;
    let mut calls = Vec::new();
    for _ in 0..300 {
        let mut call = client.open(UNARY, &[]).await;
        call.data(endless());
        calls.push(call);
    }
    saw(&recorder, "request_message #0 11B", 300).await;
    assert_eq!(recorder.finished().len(), 0);
    for call in &mut calls {
        call.reset(Reason::CANCEL);
    }

    let finished = soon(recorder.wait_finished(300)).await;
    assert_eq!(finished.len(), 300);
    assert_eq!(recorder.started().len(), 300);
    for rpc in finished {
        reports(&rpc, Ending::Cancelled, Code::Cancelled, None);
    }
    // The connection still works.
    let answer = client.ask(UNARY, &[], framed(0, &encoded("hello"))).await;
    assert_eq!(answer.grpc_status(), Some(&b"0"[..]));
}

// Ending 28.
#[tokio::test]
async fn streams_that_are_reset_as_soon_as_they_are_opened_finish_where_they_started() {
    // By default h2 closes the connection of a client that does this.
    for lenient in [None, Some(1000)] {
        let recorder = RecordingTracer::new();
        let (incoming, uri) = listen().await.unwrap();
        let server = Server::builder()
            .http2_max_pending_accept_reset_streams(lenient)
            .layer(TracerLayer::new(recorder.clone()))
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        let mut client = RawClient::connect(&uri).await;
        // One that is served for sure.
        let mut first = client.open(UNARY, &[]).await;
        first.data(endless());
        saw(&recorder, "start", 1).await;
        for _ in 0..300 {
            let Ok(mut call) = client.try_open(UNARY, &[]).await else {
                break;
            };
            // Headers go out before the stream is reset, else h2 would keep both to itself.
            tokio::task::yield_now().await;
            call.reset(Reason::CANCEL);
        }
        if lenient.is_some() {
            soon(recorder.wait_finished(200)).await;
        }
        client.vanish().await;

        soon(async {
            while recorder.finished().len() < recorder.started().len() {
                recorder.wait_finished(recorder.started().len()).await;
            }
        })
        .await;
        let (started, finished) = (recorder.started(), recorder.finished());
        assert_eq!(finished.len(), started.len());
        for rpc in finished {
            reports(&rpc, Ending::Cancelled, Code::Cancelled, None);
        }
    }
}
