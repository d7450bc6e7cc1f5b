//! What the event hook sees, in order: the four kinds of method, in success and in failure, from both
//! sides.
//!
//! On a stream the two directions do not wait for each other, and the network decides how they
//! interleave: each direction's own order is exact, and so is what one says about the other.

use std::time::Duration;

use crate::support::tcp::{
    Pair,
    echo::{EchoClient, EchoRequest, EchoServer, EchoService, listen, say},
    pair, soon,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code, Streaming,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint, Server},
};
use tower::ServiceBuilder;
use tower_tracer::{RpcInfo, TracerLayer, service::TracerService, testing::RecordingTracer};

type Client = EchoClient<TracerService<Channel, RecordingTracer>>;

/// What both sides saw of the one RPC.
async fn logs(pair: &Pair) -> [(RpcInfo, Vec<String>); 2] {
    let client = soon(pair.client_side.wait_finished(1)).await.remove(0);
    let server = soon(pair.server_side.wait_finished(1)).await.remove(0);
    [
        (client.clone(), pair.client_side.log_of(&client)),
        (server.clone(), pair.server_side.log_of(&server)),
    ]
}

/// The lines of the request and those of the response.
fn directions(log: &[String]) -> [Vec<&str>; 2] {
    let of_request = |line: &&str| line.starts_with("request") || *line == "half_close";
    let of_response = |line: &&str| line.starts_with("response") || *line == "trailers";
    [
        log.iter().map(String::as_str).filter(of_request).collect(),
        log.iter().map(String::as_str).filter(of_response).collect(),
    ]
}

fn messages(direction: &str, sizes: impl IntoIterator<Item = usize>) -> Vec<String> {
    let sizes = sizes.into_iter().enumerate();
    sizes
        .map(|(number, size)| format!("{direction}_message #{number} {size}B"))
        .collect()
}

/// What is expected of an RPC of which these messages went to the end.
struct Expected {
    request: Vec<usize>,
    response: Vec<usize>,
    finish: &'static str,
}

impl Expected {
    /// Both directions exactly, and what holds between them.
    #[track_caller]
    fn assert(&self, log: &[String]) {
        let [request, response] = directions(log);
        let mut expected = vec!["request_headers".to_owned()];
        expected.extend(messages("request", self.request.iter().copied()));
        expected.push("half_close".to_owned());
        assert_eq!(request, expected, "{log:?}");
        let mut expected = vec!["response_headers".to_owned()];
        expected.extend(messages("response", self.response.iter().copied()));
        if self.finish.starts_with("finish trailers") {
            expected.push("trailers".to_owned());
        }
        assert_eq!(response, expected, "{log:?}");
        assert_eq!(log.first().unwrap(), "start");
        assert_eq!(log[1], "request_headers");
        assert_eq!(log.last().unwrap(), self.finish);
        assert_eq!(log.len(), request.len() + response.len() + 2, "{log:?}");
    }
}

fn sizes(requests: &[EchoRequest]) -> Vec<usize> {
    requests.iter().map(prost::Message::encoded_len).collect()
}

/// Says each, a message with its number in it, and no more.
fn numbered(count: u32) -> Vec<EchoRequest> {
    (0..count)
        .map(|number| say("m".repeat(number as usize + 1)))
        .collect()
}

async fn end<T>(stream: &mut Streaming<T>) -> (u32, Code) {
    let mut messages = 0;
    while let Some(message) = soon(stream.next()).await {
        match message {
            Ok(_) => messages += 1,
            Err(status) => return (messages, status.code()),
        }
    }
    (messages, Code::Ok)
}

#[tokio::test]
async fn a_unary_call_that_succeeds() {
    let mut pair = pair().await;
    pair.client.unary_echo(say("hello")).await.unwrap();
    for (_, log) in logs(&pair).await {
        let expected = [
            "start",
            "request_headers",
            "request_message #0 7B",
            "half_close",
            "response_headers",
            "response_message #0 7B",
            "trailers",
            "finish trailers OK",
        ];
        assert_eq!(log, expected);
    }
}

#[tokio::test]
async fn a_unary_call_that_fails() {
    let mut pair = pair().await;
    let ask = say("no").failing(Code::Aborted);
    pair.client.unary_echo(ask).await.unwrap_err();
    for (_, log) in logs(&pair).await {
        let expected = [
            "start",
            "request_headers",
            "request_message #0 6B",
            "half_close",
            "response_headers",
            "finish headers_only ABORTED",
        ];
        assert_eq!(log, expected);
    }
}

#[tokio::test]
async fn a_client_stream_that_succeeds() {
    let mut pair = pair().await;
    let asked = numbered(5);
    let expected = Expected {
        request: sizes(&asked),
        response: vec![17],
        finish: "finish trailers OK",
    };
    let response = pair
        .client
        .client_streaming_echo(tokio_stream::iter(asked))
        .await;
    assert_eq!(response.unwrap().into_inner().message, "m".repeat(15));
    for (_, log) in logs(&pair).await {
        expected.assert(&log);
        // The handler answers when it has read all.
        let place = |line| log.iter().position(|other| other == line).unwrap();
        assert!(place("half_close") < place("response_headers"), "{log:?}");
    }
}

#[tokio::test]
async fn a_client_stream_that_fails_in_the_middle() {
    let mut pair = pair().await;
    let (send, requests) = mpsc::channel(4);
    for request in [say("a"), say("b").failing(Code::DataLoss)] {
        send.send(request).await.unwrap();
    }
    let call = pair
        .client
        .client_streaming_echo(ReceiverStream::new(requests));
    let status = soon(call).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    drop(send);
    for (_, log) in logs(&pair).await {
        // The client never closed its side.
        let expected = [
            "start",
            "request_headers",
            "request_message #0 3B",
            "request_message #1 5B",
            "response_headers",
            "finish headers_only DATA_LOSS",
        ];
        assert_eq!(log, expected);
    }
}

#[tokio::test]
async fn a_server_stream_that_succeeds() {
    let mut pair = pair().await;
    let stream = pair
        .client
        .server_streaming_echo(say("hello").times(4))
        .await;
    assert_eq!(end(&mut stream.unwrap().into_inner()).await, (4, Code::Ok));
    for (_, log) in logs(&pair).await {
        let expected = [
            "start",
            "request_headers",
            "request_message #0 9B",
            "half_close",
            "response_headers",
            "response_message #0 7B",
            "response_message #1 7B",
            "response_message #2 7B",
            "response_message #3 7B",
            "trailers",
            "finish trailers OK",
        ];
        assert_eq!(log, expected);
    }
}

#[tokio::test]
async fn a_server_stream_that_fails_after_two_messages() {
    let mut pair = pair().await;
    let ask = say("hello").times(2).failing(Code::ResourceExhausted);
    let stream = pair.client.server_streaming_echo(ask).await;
    let seen = end(&mut stream.unwrap().into_inner()).await;
    assert_eq!(seen, (2, Code::ResourceExhausted));
    for (_, log) in logs(&pair).await {
        let expected = [
            "start",
            "request_headers",
            "request_message #0 11B",
            "half_close",
            "response_headers",
            "response_message #0 7B",
            "response_message #1 7B",
            "trailers",
            "finish trailers RESOURCE_EXHAUSTED",
        ];
        assert_eq!(log, expected);
    }
}

#[tokio::test]
async fn a_bidirectional_stream_that_succeeds() {
    let mut pair = pair().await;
    let asked = numbered(6);
    let expected = Expected {
        request: sizes(&asked),
        response: sizes(&asked),
        finish: "finish trailers OK",
    };
    let stream = pair
        .client
        .bidirectional_streaming_echo(tokio_stream::iter(asked))
        .await;
    assert_eq!(end(&mut stream.unwrap().into_inner()).await, (6, Code::Ok));
    for (_, log) in logs(&pair).await {
        expected.assert(&log);
        for number in 0..6 {
            let place = |direction: &str| {
                let line = format!("{direction}_message #{number} ");
                log.iter().position(|other| other.starts_with(&line))
            };
            assert!(place("request") < place("response"), "{log:?}");
        }
        // The trailers come when the handler has seen the end.
        let place = |line| log.iter().position(|other| other == line).unwrap();
        assert!(place("half_close") < place("trailers"), "{log:?}");
    }
}

#[tokio::test]
async fn a_bidirectional_stream_in_lock_step_has_one_order() {
    let mut pair = pair().await;
    let (send, requests) = mpsc::channel(1);
    send.send(say("a")).await.unwrap();
    let stream = pair
        .client
        .bidirectional_streaming_echo(ReceiverStream::new(requests))
        .await;
    let mut stream = stream.unwrap().into_inner();
    for message in ["bb", "ccc"] {
        soon(stream.next()).await.unwrap().unwrap();
        send.send(say(message)).await.unwrap();
    }
    soon(stream.next()).await.unwrap().unwrap();
    drop(send);
    assert_eq!(end(&mut stream).await, (0, Code::Ok));
    for (rpc, mut log) in logs(&pair).await {
        // The headers of the response need no message.
        let headers = log.iter().position(|line| line == "response_headers");
        log.remove(headers.unwrap());
        let expected = [
            "start",
            "request_headers",
            "request_message #0 3B",
            "response_message #0 3B",
            "request_message #1 4B",
            "response_message #1 4B",
            "request_message #2 5B",
            "response_message #2 5B",
            "half_close",
            "trailers",
            "finish trailers OK",
        ];
        assert_eq!(log, expected, "{}", rpc.role());
    }
}

#[tokio::test]
async fn a_bidirectional_stream_that_fails_in_the_middle() {
    let mut pair = pair().await;
    let (send, requests) = mpsc::channel(4);
    for request in [say("a"), say("b"), say("no").failing(Code::OutOfRange)] {
        send.send(request).await.unwrap();
    }
    let stream = pair
        .client
        .bidirectional_streaming_echo(ReceiverStream::new(requests))
        .await;
    let seen = end(&mut stream.unwrap().into_inner()).await;
    assert_eq!(seen, (2, Code::OutOfRange));
    for (_, log) in logs(&pair).await {
        let [request, response] = directions(&log);
        // The client never closed its side.
        let mut expected = vec!["request_headers".to_owned()];
        expected.extend(messages("request", [3, 3, 6]));
        assert_eq!(request, expected);
        let mut expected = vec!["response_headers".to_owned()];
        expected.extend(messages("response", [3, 3]));
        expected.push("trailers".to_owned());
        assert_eq!(response, expected);
        assert_eq!(log.first().unwrap(), "start");
        assert_eq!(log.last().unwrap(), "finish trailers OUT_OF_RANGE");
    }
    drop(send);
}

#[tokio::test]
async fn a_bidirectional_stream_without_a_message() {
    let mut pair = pair().await;
    let stream = pair
        .client
        .bidirectional_streaming_echo(tokio_stream::empty())
        .await;
    assert_eq!(end(&mut stream.unwrap().into_inner()).await, (0, Code::Ok));
    for (_, log) in logs(&pair).await {
        let expected = Expected {
            request: vec![],
            response: vec![],
            finish: "finish trailers OK",
        };
        expected.assert(&log);
    }
}

#[tokio::test]
async fn a_stream_that_is_cancelled_after_the_first_message() {
    let mut pair = pair().await;
    let ask = say("a").times(1000).after(Duration::from_millis(20));
    let stream = pair.client.server_streaming_echo(ask).await;
    let mut stream = stream.unwrap().into_inner();
    soon(stream.next()).await.unwrap().unwrap();
    drop(stream);
    let [(_, client), (_, server)] = logs(&pair).await;
    let expected = [
        "start",
        "request_headers",
        "request_message #0 8B",
        "half_close",
        "response_headers",
        "response_message #0 3B",
        "finish cancelled CANCELLED",
    ];
    assert_eq!(client, expected);
    // The server may have sent some more by then.
    let passed = messages("response", vec![3; server.len() - 6]);
    let expected = [&client[..5], &passed, &client[6..]].concat();
    assert!(!passed.is_empty());
    assert_eq!(server, expected);
}

/// A traced pair whose messages are compressed with gzip in both directions.
async fn compressed() -> (Client, RecordingTracer, RecordingTracer) {
    let (client_side, server_side) = (RecordingTracer::new(), RecordingTracer::new());
    let (incoming, uri) = listen().await.unwrap();
    let service = EchoServer::new(EchoService)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let server = Server::builder()
        .layer(TracerLayer::new(server_side.clone()))
        .add_service(service)
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
    let layer = TracerLayer::new(client_side.clone());
    let client = EchoClient::new(ServiceBuilder::new().layer(layer).service(channel))
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    (client, client_side, server_side)
}

#[tokio::test]
async fn compressed_messages_count_their_compressed_bytes() {
    let (mut client, client_side, server_side) = compressed().await;
    let ask = say("z".repeat(100_000));
    let whole = ask.encoded_len() as u64;
    let stream = client
        .bidirectional_streaming_echo(tokio_stream::iter(vec![ask; 3]))
        .await;
    assert_eq!(end(&mut stream.unwrap().into_inner()).await, (3, Code::Ok));
    let client = client_side.only_finished();
    let server = soon(server_side.wait_finished(1)).await.remove(0);
    for (rpc, recorder) in [(&client, &client_side), (&server, &server_side)] {
        for traffic in [rpc.stats().request(), rpc.stats().response()] {
            assert_eq!(traffic.messages(), Some(3));
            assert_eq!(traffic.compressed_messages(), Some(3));
            let bytes = traffic.message_bytes().unwrap();
            assert!(bytes > 0 && bytes < whole / 10, "{bytes} of {whole} each");
            assert_eq!(traffic.last_message_bytes(), Some(bytes / 3));
            assert_eq!(traffic.body_bytes(), Some(bytes + 15));
        }
        let log = recorder.log_of(rpc);
        let lines = log.iter().filter(|line| line.contains("message"));
        assert!(lines.clone().count() == 6 && lines.clone().all(|l| l.ends_with("compressed")));
    }
    // The same bytes were seen from both sides.
    let seen = |rpc: &RpcInfo| {
        (
            rpc.stats().request().body_bytes(),
            rpc.stats().response().body_bytes(),
        )
    };
    assert_eq!(seen(&client), seen(&server));
}

#[tokio::test]
async fn a_large_message_is_one_message() {
    let mut pair = pair().await;
    let message = "x".repeat(3_000_000);
    let size = say(message.clone()).encoded_len();
    let response = soon(pair.client.unary_echo(say(message))).await.unwrap();
    assert_eq!(response.into_inner().message.len(), 3_000_000);
    for (rpc, log) in logs(&pair).await {
        let expected = Expected {
            request: vec![size],
            response: vec![size],
            finish: "finish trailers OK",
        };
        expected.assert(&log);
        let wire = rpc.stats().request().body_bytes();
        assert_eq!(wire, Some(size as u64 + 5));
    }
}
