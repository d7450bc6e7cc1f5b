//! gRPC-Web, binary and text: the status is in the body's last frame.

use std::time::Duration;

use crate::support::scripted::{Scripted, Step};
use crate::support::tcp::{
    echo::{EchoClient, EchoRequest, EchoServer, EchoService, listen, say},
    soon,
};
use crate::support::two_sides::{Exchange, frame, pieces};
use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use prost::Message as _;
use tokio_stream::StreamExt as _;
use tonic::{Code as TonicCode, transport::Server};
use tonic_web::{GrpcWebClientLayer, GrpcWebLayer};
use tower::ServiceBuilder;
use tower_tracer::{
    Code, Ending, Event, Role, RpcInfo, Status, TracerLayer,
    rpc::{Protocol, Traffic},
    testing::RecordingTracer,
};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";

fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for group in bytes.chunks(3) {
        let mut all = [0; 4];
        all[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(all);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place > group.len() { b'=' } else { letter });
        }
    }
    text
}

fn trailers(block: &str) -> Vec<u8> {
    frame(0x80, block.as_bytes())
}

/// Two messages, one of them compressed, and trailers.
fn stream() -> Vec<u8> {
    let trailers = trailers("grpc-status:5\r\ngrpc-message:no%20such\r\n");
    [frame(0, &[7; 30]), frame(1, &[8; 5]), trailers].concat()
}

#[track_caller]
fn assert_stream(rpc: &RpcInfo, body_bytes: usize) {
    let stats = rpc.stats();
    assert_eq!(stats.status(), Some(Status::Grpc(Code::NotFound)));
    assert_eq!(stats.wire_status(), stats.status());
    assert_eq!(stats.ending(), Some(Ending::Trailers));
    assert_eq!(stats.error(), Some("no such"));
    assert!(stats.at(Event::TRAILERS).is_some());
    assert_messages(stats.response(), 2, 35, body_bytes);
    assert_eq!(stats.response().compressed_messages(), Some(1));
    assert_eq!(stats.response().last_message_bytes(), Some(5));
}

#[track_caller]
fn assert_messages(traffic: Traffic, messages: u64, bytes: u64, body_bytes: usize) {
    assert_eq!(traffic.messages(), Some(messages));
    assert_eq!(traffic.message_bytes(), Some(bytes));
    assert_eq!(traffic.body_bytes(), Some(body_bytes as u64));
    assert!(traffic.is_complete() && !traffic.truncated());
}

#[test]
fn the_trailers_frame_gives_the_status_however_the_body_is_split() {
    let stream = stream();
    for step in 1..=stream.len() {
        let exchange = Exchange::new(BINARY)
            .request(pieces(&frame(0, &[9; 12]), step))
            .response(pieces(&stream, step));
        for rpc in exchange.both() {
            assert_eq!(rpc.protocol(), Protocol::GrpcWeb);
            assert_messages(rpc.stats().request(), 1, 12, 17);
            assert_stream(&rpc, stream.len());
        }
    }
}

#[test]
fn base64_is_decoded_however_the_text_is_split() {
    let text = base64(&stream());
    for step in 1..=text.len() {
        let exchange = Exchange::new(TEXT)
            .request(pieces(&base64(&frame(0, &[9; 12])), step))
            .response(pieces(&text, step));
        for rpc in exchange.both() {
            assert_eq!(rpc.protocol(), Protocol::GrpcWebText);
            assert_messages(rpc.stats().request(), 1, 12, 24);
            assert_stream(&rpc, text.len());
        }
    }
}

#[test]
fn each_frame_may_be_padded_by_itself() {
    let trailers = trailers("grpc-status:5\r\ngrpc-message:no%20such\r\n");
    let text = [frame(0, &[7; 30]), frame(1, &[8; 5]), trailers].map(|frame| base64(&frame));
    assert!(text[0].ends_with(b"=") && text[1].ends_with(b"="));
    let joined = text.concat();
    for step in 1..=joined.len() {
        for rpc in Exchange::new(TEXT).response(pieces(&joined, step)).both() {
            assert_stream(&rpc, joined.len());
        }
    }
}

#[test]
fn the_log_is_that_of_plain_grpc() {
    let recorder = RecordingTracer::new();
    let body = [frame(0, &[7; 3]), trailers("grpc-status: 0\r\n")].concat();
    let exchange = Exchange::new(BINARY)
        .request(pieces(&frame(0, &[1; 2]), 100))
        .response(pieces(&body, 100));
    let expected = [
        "start",
        "request_headers",
        "request_message #0 2B",
        "half_close",
        "response_headers",
        "response_message #0 3B",
        "trailers",
        "finish trailers OK",
    ];
    assert_eq!(exchange.log(Role::Server, &recorder), expected);
}

// A server answers in the encoding that the request's `accept` asks for.
#[test]
fn the_response_is_read_by_its_own_content_type() {
    let stream = stream();
    let text = base64(&stream);
    for (asked, answered, body) in [(BINARY, TEXT, &text), (TEXT, BINARY, &stream)] {
        let exchange = Exchange::new(asked)
            .response_header("content-type", answered)
            .response(pieces(body, 7));
        for rpc in exchange.both() {
            assert_stream(&rpc, body.len());
        }
    }
}

#[test]
fn a_body_that_ends_inside_a_frame_has_no_status_and_is_truncated() {
    let stream = stream();
    let ends = [0, 35, 45];
    for cut in 0..stream.len() {
        for (content_type, body) in [
            (BINARY, stream[..cut].to_vec()),
            (TEXT, base64(&stream[..cut])),
        ] {
            let exchange = Exchange::new(content_type).response(pieces(&body, 11));
            for rpc in exchange.both() {
                let stats = rpc.stats();
                assert_eq!(stats.status(), Some(Status::Grpc(Code::Unknown)));
                assert_eq!(stats.wire_status(), None);
                assert_eq!(stats.ending(), Some(Ending::BodyEnd));
                let response = stats.response();
                assert_eq!(response.truncated(), !ends.contains(&cut), "at {cut}");
                let whole = u64::from(cut >= 35) + u64::from(cut >= 45);
                assert_eq!(response.messages(), Some(whole), "at {cut}");
            }
        }
    }
}

#[test]
fn text_that_ends_within_four_characters_is_truncated() {
    let mut text = base64(&frame(0, &[7; 31]));
    assert_eq!(text.len() % 4, 0);
    text.extend(b"AB");
    for rpc in Exchange::new(TEXT).response(pieces(&text, 9)).both() {
        assert!(rpc.stats().response().truncated());
        assert_eq!(rpc.stats().response().messages(), Some(1));
    }
}

#[test]
fn invalid_base64_counts_no_messages() {
    for garbage in ["!!!!", "AAAA\r\n", "A===", "\u{e9}", "AA-_"] {
        let body = [&base64(&frame(0, &[7; 30])), garbage.as_bytes()].concat();
        let body = [&body[..], &base64(&trailers("grpc-status:0\r\n"))].concat();
        let exchange = Exchange::new(TEXT)
            .request(pieces(garbage.as_bytes(), 3))
            .response(pieces(&body, 44));
        for rpc in exchange.both() {
            let stats = rpc.stats();
            assert_eq!(stats.status(), Some(Status::Grpc(Code::Unknown)));
            assert_eq!(stats.ending(), Some(Ending::BodyEnd));
            for (traffic, length) in [
                (stats.request(), garbage.len()),
                (stats.response(), body.len()),
            ] {
                assert_eq!(traffic.messages(), None, "{garbage:?}");
                assert_eq!(traffic.body_bytes(), Some(length as u64), "{garbage:?}");
            }
        }
    }
}

#[test]
#[cfg(feature = "connect")]
fn trailers_that_are_compressed_are_read() {
    use std::io::Write as _;

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(b"grpc-status:5\r\ngrpc-message:no%20such\r\n")
        .unwrap();
    let trailers = frame(0x81, &gzip.finish().unwrap());
    let stream = [frame(0, &[7; 30]), frame(1, &[8; 5]), trailers].concat();
    for step in [1, 7, stream.len()] {
        for rpc in Exchange::new(BINARY).response(pieces(&stream, step)).both() {
            assert_stream(&rpc, stream.len());
        }
    }
    // Invalid gzip has no status.
    let stream = [frame(0, &[7; 30]), frame(0x81, b"grpc-status:0\r\n")].concat();
    for rpc in Exchange::new(BINARY).response(pieces(&stream, 100)).both() {
        assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::Unknown)));
        assert_eq!(rpc.stats().wire_status(), None);
    }
}

// Ending 51.
#[test]
fn a_status_is_found_anywhere_in_huge_trailers() {
    let long = format!("x: {}\r\n", "y".repeat(100)).repeat(1000);
    let many = "x:y\r\n".repeat(1000);
    let status = "grpc-status: 5\r\ngrpc-message: no%20such\r\n";
    for block in [
        format!("{status}{long}"),
        format!("{long}{status}"),
        format!("{long}{status}{long}"),
        format!("{many}{status}"),
        format!("{long}{status}").trim_end().to_owned(),
        format!("grpc-message: no%20such\r\n{long}grpc-status: 5\r\n"),
    ] {
        let stream = trailers(&block);
        for step in [1, 1000, stream.len()] {
            let exchange = Exchange::new(BINARY).response(pieces(&stream, step));
            for rpc in exchange.both() {
                assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::NotFound)));
                assert_eq!(rpc.stats().error(), Some("no such"));
                assert_eq!(rpc.stats().response().messages(), Some(0));
                assert!(!rpc.stats().response().truncated());
            }
        }
        let text = pieces(&base64(&stream), 1000);
        for rpc in Exchange::new(TEXT).response(text).both() {
            assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::NotFound)));
        }
    }
}

#[test]
fn a_status_is_never_read_from_half_a_line() {
    // Wherever what is kept of the block ends, 13 is not taken for 1.
    for padding in 8100..8200 {
        let block = format!("x: {}\r\ngrpc-status: 13\r\n", "y".repeat(padding));
        let response = pieces(&trailers(&block), 1000);
        for rpc in Exchange::new(BINARY).response(response).both() {
            let status = rpc.stats().status();
            assert_eq!(status, Some(Code::Internal.into()), "at {padding}");
        }
    }
}

#[test]
fn a_length_of_four_gibibytes_in_the_trailers_frame_allocates_nothing() {
    let mut body = frame(0, &[7; 30]);
    body.extend([0x80, 255, 255, 255, 255]);
    body.extend(b"grpc-status: 0\r\n");
    for rpc in Exchange::new(BINARY).response(pieces(&body, 10)).both() {
        assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::Unknown)));
        assert!(rpc.stats().response().truncated());
        assert_eq!(rpc.stats().response().messages(), Some(1));
    }
}

#[test]
fn headers_that_hold_the_status_end_it() {
    for content_type in [BINARY, TEXT] {
        let exchange = Exchange::new(content_type).response_header("grpc-status", "7");
        for rpc in exchange.both() {
            let denied = Some(Status::Grpc(Code::PermissionDenied));
            assert_eq!(rpc.stats().status(), denied);
            assert_eq!(rpc.stats().ending(), Some(Ending::HeadersOnly));
        }
    }
}

#[test]
fn a_page_instead_of_grpc_web_is_not_read_as_messages() {
    let exchange = Exchange::new(BINARY)
        .status(503)
        .response_header("content-type", "text/html")
        .response([Step::Data(Bytes::from_static(b"\0\0\0\0\x01x<html>"))]);
    let [client, server] = exchange.both();
    assert_eq!(
        client.stats().status(),
        Some(Status::Grpc(Code::Unavailable))
    );
    assert_eq!(server.stats().status(), Some(Status::Grpc(Code::Unknown)));
    assert_eq!(client.stats().response().messages(), None);
    assert_eq!(client.stats().response().body_bytes(), Some(12));
}

/// A server with a recorder outside and one inside of tonic-web.
async fn serve() -> (String, RecordingTracer, RecordingTracer) {
    let (outside, inside) = (RecordingTracer::new(), RecordingTracer::new());
    let (incoming, uri) = listen().await.unwrap();
    let server = Server::builder()
        .accept_http1(true)
        .layer(TracerLayer::new(outside.clone()).server())
        .layer(GrpcWebLayer::new())
        .layer(TracerLayer::new(inside.clone()).server())
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    (uri, outside, inside)
}

/// Calls over HTTP/1 by hand, and gives the response's body.
async fn post(uri: &str, content_type: &str, method: &str, body: Vec<u8>) -> Bytes {
    let address = uri.strip_prefix("http://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("/echo.Echo/{method}"))
        .header("host", address)
        .header(CONTENT_TYPE, content_type)
        .header("accept", content_type)
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let response = soon(client.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[CONTENT_TYPE], content_type);
    soon(response.into_body().collect())
        .await
        .unwrap()
        .to_bytes()
}

#[tokio::test]
async fn a_browsers_call_is_seen_the_same_outside_and_inside_of_tonic_web() {
    let ask = say("hello").times(3).failing(TonicCode::DataLoss);
    let request = frame(0, &ask.encode_to_vec());
    let size = request.len() as u64 - 5;
    for (content_type, protocol) in [(BINARY, Protocol::GrpcWeb), (TEXT, Protocol::GrpcWebText)] {
        let (uri, outside, inside) = serve().await;
        let sent = match protocol {
            Protocol::GrpcWeb => request.clone(),
            _ => base64(&request),
        };
        let length = sent.len();
        let body = post(&uri, content_type, "ServerStreamingEcho", sent).await;
        let outer = soon(outside.wait_finished(1)).await.remove(0);
        let inner = soon(inside.wait_finished(1)).await.remove(0);
        assert_eq!(outer.protocol(), protocol);
        assert_eq!(inner.protocol(), Protocol::Grpc);
        assert!(inner.parent().unwrap().ptr_eq(&outer));
        assert_messages(outer.stats().request(), 1, size, length);
        assert_messages(inner.stats().request(), 1, size, request.len());
        assert_messages(outer.stats().response(), 3, 21, body.len());
        assert_messages(inner.stats().response(), 3, 21, 36);
        for rpc in [&outer, &inner] {
            let stats = rpc.stats();
            assert_eq!(stats.status(), Some(Status::Grpc(Code::DataLoss)));
            assert_eq!(stats.ending(), Some(Ending::Trailers));
            assert_eq!(rpc.full_method(), Some("echo.Echo/ServerStreamingEcho"));
        }
    }
}

#[tokio::test]
async fn a_browsers_call_that_fails_at_once_has_its_status() {
    let request = frame(0, &say("no").failing(TonicCode::NotFound).encode_to_vec());
    let (uri, outside, inside) = serve().await;
    post(&uri, BINARY, "UnaryEcho", request).await;
    for recorder in [outside, inside] {
        let rpc = soon(recorder.wait_finished(1)).await.remove(0);
        assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::NotFound)));
        assert_eq!(rpc.stats().ending(), Some(Ending::HeadersOnly));
    }
}

async fn call(http2: bool, ask: EchoRequest) -> [RpcInfo; 3] {
    let (uri, server, _) = serve().await;
    let (outside, inside) = (RecordingTracer::new(), RecordingTracer::new());
    let http = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build(HttpConnector::new());
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(outside.clone()).client())
        .layer(GrpcWebClientLayer::new())
        .layer(TracerLayer::new(inside.clone()).client())
        .service(http);
    let mut client = EchoClient::with_origin(service, uri.parse().unwrap());
    let code = ask.code;
    let messages = client.server_streaming_echo(ask).await;
    let mut messages = messages.unwrap().into_inner();
    let mut end = TonicCode::Ok;
    while let Some(message) = soon(messages.next()).await {
        match message {
            Ok(message) => assert_eq!(message.message, "hello"),
            Err(status) => end = status.code(),
        }
    }
    assert_eq!(end as u32, code);
    drop(messages);
    let [outside, inside] = [outside.only_finished(), inside.only_finished()];
    let server = soon(server.wait_finished(1)).await.remove(0);
    [outside, inside, server]
}

#[tokio::test]
async fn a_tonic_client_over_grpc_web_is_seen_the_same_outside_and_inside() {
    for http2 in [false, true] {
        for code in [TonicCode::Ok, TonicCode::Aborted] {
            let ask = say("hello").times(4).failing(code);
            let all = call(http2, ask).await;
            let protocols = all.each_ref().map(RpcInfo::protocol);
            assert_eq!(
                protocols,
                [Protocol::Grpc, Protocol::GrpcWeb, Protocol::GrpcWeb]
            );
            for rpc in &all {
                let status = Some(Status::Grpc(code.into()));
                assert_eq!(rpc.stats().status(), status, "{:?} {http2}", rpc.protocol());
                assert_eq!(rpc.stats().ending(), Some(Ending::Trailers));
                assert_eq!(rpc.stats().response().messages(), Some(4));
                assert_eq!(rpc.stats().response().message_bytes(), Some(28));
            }
            // Inside, the request's body is of a type of tonic-web's, which cannot be observed.
            assert_eq!(all[0].stats().request().messages(), Some(1));
            assert_eq!(all[1].stats().request().messages(), None);
            assert_eq!(all[1].stats().request().body_bytes(), None);
        }
    }
}

// tonic-web's client has the trailers yet when the body under it is at its end.
#[tokio::test]
async fn trailers_that_came_with_the_last_message_are_waited_for() {
    for (status, code) in [("0", TonicCode::Ok), ("10", TonicCode::Aborted)] {
        let (outside, inside) = (RecordingTracer::new(), RecordingTracer::new());
        let trailers = trailers(&format!("grpc-status: {status}\r\n"));
        let all = [frame(0, &say("hello").encode_to_vec()), trailers].concat();
        let service = ServiceBuilder::new()
            .layer(TracerLayer::new(outside.clone()).client())
            .layer(GrpcWebClientLayer::new())
            .layer(TracerLayer::new(inside.clone()).client())
            .service_fn(move |_: Request<_>| {
                let body = Scripted::new(pieces(&all, 100)).telling();
                let response = Response::builder().header(CONTENT_TYPE, BINARY);
                std::future::ready(response.body(body))
            });
        let mut client = EchoClient::new(service);
        let stream = client.server_streaming_echo(say("")).await;
        let mut stream = stream.unwrap().into_inner();
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(first.message, "hello");
        let end = stream.next().await;
        assert_eq!(
            end.map_or(TonicCode::Ok, |end| end.unwrap_err().code()),
            code
        );
        for recorder in [outside, inside] {
            let rpc = recorder.only_finished();
            assert_eq!(rpc.stats().status(), Some(Status::Grpc(code.into())));
            assert_eq!(rpc.stats().ending(), Some(Ending::Trailers));
        }
    }
}

#[tokio::test]
async fn a_browser_that_leaves_mid_stream_cancels() {
    let (uri, outside, _) = serve().await;
    let address = uri.strip_prefix("http://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let ask = say("x").times(1000).after(Duration::from_millis(50));
    let request = Request::post("/echo.Echo/ServerStreamingEcho")
        .header("host", address)
        .header(CONTENT_TYPE, BINARY)
        .body(Full::new(Bytes::from(frame(0, &ask.encode_to_vec()))))
        .unwrap();
    let mut body = soon(client.send_request(request))
        .await
        .unwrap()
        .into_body();
    soon(body.frame()).await.unwrap().unwrap();
    connection.abort();
    drop((body, client));
    let rpc = soon(outside.wait_finished(1)).await.remove(0);
    assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::Cancelled)));
    assert_eq!(rpc.stats().ending(), Some(Ending::Cancelled));
    assert!(rpc.stats().response().messages() >= Some(1));
}
