//! Connect: errors are JSON, in the body of a unary response and in the last frame of a stream.

use std::{io::Write as _, time::Duration};

use crate::support::scripted::Step;
use crate::support::two_sides::{Exchange, frame, pieces};
use axum::{Router, body::Body, extract::Request, http::StatusCode, response::Response, routing};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::ServiceBuilder;
use tower_tracer::{
    Code, Ending, Role, RpcInfo, Status, TracerLayer, rpc::Protocol, testing::RecordingTracer,
};

const STREAM: &str = "application/connect+proto";

/// What Connect calls the codes of errors.
const NAMES: [(&str, Code); 16] = [
    ("canceled", Code::Cancelled),
    ("unknown", Code::Unknown),
    ("invalid_argument", Code::InvalidArgument),
    ("deadline_exceeded", Code::DeadlineExceeded),
    ("not_found", Code::NotFound),
    ("already_exists", Code::AlreadyExists),
    ("permission_denied", Code::PermissionDenied),
    ("resource_exhausted", Code::ResourceExhausted),
    ("failed_precondition", Code::FailedPrecondition),
    ("aborted", Code::Aborted),
    ("out_of_range", Code::OutOfRange),
    ("unimplemented", Code::Unimplemented),
    ("internal", Code::Internal),
    ("unavailable", Code::Unavailable),
    ("data_loss", Code::DataLoss),
    ("unauthenticated", Code::Unauthenticated),
];

fn unary() -> Exchange {
    Exchange::new("application/proto").request_header("connect-protocol-version", "1")
}

fn text(text: &str) -> [Step; 1] {
    [Step::Data(Bytes::copy_from_slice(text.as_bytes()))]
}

/// A unary call that fails with this body.
fn failing(status: u16, body: &str) -> Exchange {
    unary()
        .status(status)
        .response_header("content-type", "application/json")
        .response(text(body))
}

/// A stream of two messages with this last frame.
fn stream(end: &[u8]) -> Exchange {
    let body = [&frame(0, &[1; 10])[..], &frame(1, &[2; 4]), end].concat();
    Exchange::new(STREAM)
        .request(pieces(&frame(0, &[3; 6]), 4))
        .response(pieces(&body, 3))
}

fn end(json: &str) -> Vec<u8> {
    frame(2, json.as_bytes())
}

#[test]
fn a_unary_call_has_one_message_each_way_however_its_bodies_are_split() {
    for step in [1, 7, 100] {
        let exchange = unary()
            .request(pieces(&[1; 20], step))
            .response(pieces(&[2; 30], step));
        for rpc in exchange.both() {
            assert_eq!(rpc.protocol(), Protocol::ConnectUnary);
            assert_eq!(rpc.full_method(), Some("echo.Echo/UnaryEcho"));
            let stats = rpc.stats();
            assert_eq!(stats.status(), Some(Status::OK));
            assert_eq!(stats.ending(), Some(Ending::BodyEnd));
            for (traffic, size) in [(stats.request(), 20), (stats.response(), 30)] {
                assert_eq!(traffic.messages(), Some(1));
                assert_eq!(traffic.message_bytes(), Some(size));
                assert_eq!(traffic.body_bytes(), Some(size));
                assert_eq!(traffic.compressed_messages(), Some(0));
                assert!(traffic.is_complete() && !traffic.truncated());
            }
        }
    }
}

#[test]
fn the_log_of_a_unary_call_has_its_messages() {
    let exchange = unary()
        .request(pieces(&[1; 2], 1))
        .response(pieces(&[2; 3], 1));
    for role in [Role::Client, Role::Server] {
        let expected = [
            "start",
            "request_headers",
            "request_message #0 2B",
            "half_close",
            "response_headers",
            "response_message #0 3B",
            "finish body_end OK",
        ];
        assert_eq!(exchange.log(role, &RecordingTracer::new()), expected);
    }
}

// A message of which every field has its default is no bytes long.
#[tokio::test]
async fn an_empty_body_is_a_message_of_no_bytes() {
    for role in [Role::Client, Role::Server] {
        let recorder = RecordingTracer::new();
        let layer = TracerLayer::new(recorder.clone());
        let layer = match role {
            Role::Client => layer.client(),
            Role::Server => layer.server(),
        };
        let service = ServiceBuilder::new().layer(layer).service_fn(async |_| {
            let response = Response::builder().header("content-type", "application/proto");
            response.body(Body::empty())
        });
        let request = Request::post("/echo.Echo/UnaryEcho")
            .header("content-type", "application/proto")
            .header("connect-protocol-version", "1")
            .body(Body::empty())
            .unwrap();
        service.oneshot(request).await.unwrap();
        let expected = [
            "start",
            "request_headers",
            "request_message #0 0B",
            "half_close",
            "response_headers",
            "response_message #0 0B",
            "finish headers_only OK",
        ];
        assert_eq!(recorder.log(), expected);
    }
}

#[test]
fn each_code_of_a_unary_error_is_read_from_its_body() {
    for (name, code) in NAMES {
        let body = format!(r#"{{"code":"{name}","message":"no \"x\" \u263a","details":[{{}}]}}"#);
        for rpc in failing(500, &body).both() {
            let stats = rpc.stats();
            assert_eq!(stats.status(), Some(Status::Grpc(code)));
            assert_eq!(stats.wire_status(), stats.status());
            assert_eq!(stats.http_status(), Some(500));
            assert_eq!(stats.ending(), Some(Ending::BodyEnd));
            assert_eq!(stats.error(), Some("no \"x\" \u{263a}"));
            assert_eq!(
                stats.response().messages(),
                Some(0),
                "an error is not a message"
            );
            assert_eq!(stats.response().body_bytes(), Some(body.len() as u64));
        }
    }
}

#[test]
fn a_unary_error_may_come_in_pieces() {
    let body = r#"{"code":"aborted","message":"in pieces"}"#;
    for step in 1..body.len() {
        let exchange = failing(409, "").response(pieces(body.as_bytes(), step));
        for rpc in exchange.both() {
            assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::Aborted)));
            assert_eq!(rpc.stats().error(), Some("in pieces"));
        }
    }
}

#[test]
fn the_http_status_decides_if_the_error_is_not_readable() {
    for (status, code) in [
        (400, Code::Internal),
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::Unimplemented),
        (429, Code::Unavailable),
        (502, Code::Unavailable),
        (503, Code::Unavailable),
        (504, Code::Unavailable),
        (418, Code::Unknown),
        (500, Code::Unknown),
        (304, Code::Unknown),
    ] {
        for body in ["", "<html>", "{", "[]", "null", "{}", r#"{"code":5}"#] {
            for rpc in failing(status, body).both() {
                let stats = rpc.stats();
                assert_eq!(stats.status(), Some(Status::Grpc(code)), "{status} {body}");
                assert_eq!(stats.wire_status(), None, "{status} {body}");
            }
        }
    }
}

#[test]
fn a_code_that_connect_does_not_define_is_unknown_and_kept() {
    for name in ["ok", "NOT_FOUND", "cancelled", "banana", ""] {
        let body = format!(r#"{{"code":"{name}","message":"m"}}"#);
        let json = format!(r#"{{"error":{body}}}"#);
        for exchange in [failing(503, &body), stream(&end(&json))] {
            for rpc in exchange.both() {
                let stats = rpc.stats();
                assert_eq!(stats.status(), Some(Status::Grpc(Code::Unknown)), "{name}");
                assert_eq!(stats.wire_status(), None);
                assert_eq!(stats.raw_status(), Some(name));
            }
        }
    }
}

/// An error with long details, in the order in which Connect gives the members.
fn detailed() -> String {
    let long = "x".repeat(100_000);
    let details = format!(r#"[{{"type":"a.B","value":"{long}","debug":{{"n":["]"]}}}}]"#);
    format!(r#"{{"code":"resource_exhausted","message":"back off","details":{details}}}"#)
}

#[test]
fn the_code_and_the_message_before_long_details_are_read() {
    let body = detailed();
    let json = end(&format!(r#"{{"error":{body},"metadata":{{}}}}"#));
    for (exchange, ending, messages) in [
        (failing(429, &body), Ending::BodyEnd, 0),
        (
            failing(429, "").response(pieces(body.as_bytes(), 999)),
            Ending::BodyEnd,
            0,
        ),
        (stream(&json), Ending::Trailers, 2),
    ] {
        for rpc in exchange.both() {
            let stats = rpc.stats();
            let status = Some(Status::Grpc(Code::ResourceExhausted));
            assert_eq!((stats.status(), stats.wire_status()), (status, status));
            assert_eq!(stats.error(), Some("back off"));
            assert_eq!(stats.ending(), Some(ending));
            assert_eq!(stats.response().messages(), Some(messages));
        }
    }
}

#[test]
fn the_beginning_of_a_long_message_is_read() {
    let long = "\u{263a}".repeat(100_000);
    let body = format!(r#"{{"code":"not_found","message":"{long}"}}"#);
    let json = end(&format!(r#"{{"error":{body}}}"#));
    for exchange in [failing(404, &body), stream(&json)] {
        for rpc in exchange.both() {
            assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::NotFound)));
            let error = rpc.stats().error().unwrap();
            assert!(error.len() > 100 && long.starts_with(error), "{error}");
        }
    }
}

// Ending 51.
#[test]
fn a_code_is_found_behind_any_message_and_metadata() {
    let long = "x".repeat(100_000);
    let body = format!(r#"{{"message":"{long}","code":"not_found"}}"#);
    let not_found = Some(Status::Grpc(Code::NotFound));
    for rpc in failing(404, &body).both() {
        let stats = rpc.stats();
        assert_eq!(
            (stats.status(), stats.wire_status()),
            (not_found, not_found)
        );
    }
    let metadata = format!(r#"{{"metadata":{{"a":["{long}"]}},"error":{body}}}"#);
    for json in [format!(r#"{{"error":{body}}}"#), metadata.clone()] {
        for rpc in stream(&end(&json)).both() {
            let stats = rpc.stats();
            assert_eq!(
                (stats.status(), stats.wire_status()),
                (not_found, not_found)
            );
            assert_eq!(stats.ending(), Some(Ending::Trailers));
            assert_eq!(stats.response().messages(), Some(2));
        }
    }
    // An end that is not complete JSON is not OK: whether an error follows is not known.
    let before_error = metadata.find(r#","error""#).unwrap();
    for rpc in stream(&end(&metadata[..before_error])).both() {
        assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::Unknown)));
        assert_eq!(rpc.stats().ending(), Some(Ending::BodyEnd));
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(plain).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn a_compressed_unary_error_is_read_too() {
    let short = r#"{"code":"resource_exhausted","message":"back off"}"#.to_owned();
    for plain in [short, detailed()] {
        let body = gzip(plain.as_bytes());
        for step in [7, body.len()] {
            let exchange = failing(429, "")
                .response_header("content-encoding", "gzip")
                .response(pieces(&body, step));
            for rpc in exchange.both() {
                let stats = rpc.stats();
                let status = Some(Status::Grpc(Code::ResourceExhausted));
                assert_eq!((stats.status(), stats.wire_status()), (status, status));
                assert_eq!(stats.error(), Some("back off"));
                assert_eq!(stats.response().messages(), Some(0));
                assert_eq!(stats.response().body_bytes(), Some(body.len() as u64));
            }
        }
    }
}

/// What zstd makes of it, with its size in its head and as a stream that has none.
fn zstd(plain: &[u8]) -> [Vec<u8>; 2] {
    let known = zstd::bulk::compress(plain, 3).unwrap();
    let streamed = zstd::stream::encode_all(plain, 3).unwrap();
    [known, streamed]
}

#[test]
fn errors_that_zstd_compressed_are_read_too() {
    let message = "gone ".repeat(2000);
    let unary_error = format!(r#"{{"code":"not_found","message":"{message}"}}"#);
    let stream_error = format!(r#"{{"error":{unary_error}}}"#);
    for step in [1, 7, 10_000] {
        for body in zstd(unary_error.as_bytes()) {
            let exchange = failing(503, "")
                .response_header("content-encoding", "zstd")
                .response(pieces(&body, step));
            for rpc in exchange.both() {
                assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::NotFound)));
                assert!(rpc.stats().error().unwrap().starts_with("gone gone"));
            }
        }
        for (end, code) in [(&stream_error[..], Code::NotFound), ("{}", Code::Ok)] {
            for end in zstd(end.as_bytes()) {
                let body = [frame(0, b"ten bytes."), frame(3, &end)].concat();
                let exchange = Exchange::new(STREAM).response(pieces(&body, step));
                for rpc in exchange.both() {
                    assert_eq!(rpc.stats().status(), Some(Status::Grpc(code)));
                    assert_eq!(rpc.stats().response().messages(), Some(1));
                }
            }
        }
    }
}

#[test]
fn what_zstd_did_not_compress_or_is_cut_off_or_too_long_is_not_a_status() {
    let json = br#"{"code":"not_found"}"#;
    let [whole, _] = zstd(json);
    let cut = &whole[..whole.len() - 1];
    let mut broken = whole.clone();
    broken[6] ^= 0xff;
    // A window of 128 MiB, of which nothing is used.
    let mut wide = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    wide.long_distance_matching(true).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(json).unwrap();
    let wide = wide.finish().unwrap();
    // More than is kept of what is compressed.
    let mut state = 1_u64;
    let mut letter = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'a' + (state >> 33) as u8 % 26)
    };
    let noise: String = (0..20_000).map(|_| letter()).collect();
    let [long, _] = zstd(format!(r#"{{"code":"not_found","message":"{noise}"}}"#).as_bytes());
    assert!(long.len() > 8 * 1024);
    for body in [
        cut,
        &broken,
        &wide,
        &long,
        b"\x28",
        b"\x28\xb5\x2f\xfd",
        b"(json)",
    ] {
        let exchange = failing(503, "")
            .response_header("content-encoding", "zstd")
            .response(pieces(body, 100));
        for rpc in exchange.both() {
            assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::Unavailable)));
            assert_eq!(rpc.stats().wire_status(), None);
        }
    }
}

// The status at the beginning is found, and the rest is not decompressed.
#[test]
fn what_zstd_expands_without_end_is_read_up_to_a_bound() {
    let mut json = br#"{"code":"not_found","message":""#.to_vec();
    json.resize(16 * 1024 * 1024, b'a');
    for body in zstd(&json) {
        assert!(body.len() < 8 * 1024);
        let exchange = failing(503, "")
            .response_header("content-encoding", "zstd")
            .response(pieces(&body, 1000));
        for rpc in exchange.both() {
            assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::NotFound)));
        }
    }
}

#[test]
fn a_unary_error_in_an_unknown_compression_leaves_the_http_status() {
    let json = br#"{"code":"resource_exhausted"}"#;
    for (encoding, body) in [
        ("br", &b"\x0b\x02\x80{}\x03"[..]),
        ("gzip", json),
        ("gzip", b""),
    ] {
        let exchange = failing(503, "")
            .response_header("content-encoding", encoding)
            .response(pieces(body, 100));
        for rpc in exchange.both() {
            let stats = rpc.stats();
            assert_eq!(stats.status(), Some(Status::Grpc(Code::Unavailable)));
            assert_eq!(stats.wire_status(), None);
        }
    }
}

#[test]
fn a_content_encoding_is_compression() {
    for (encoding, compressed) in [("gzip", 1), ("br", 1), ("identity", 0)] {
        let exchange = unary()
            .request_header("content-encoding", encoding)
            .request(pieces(&[1; 9], 4))
            .response_header("content-encoding", encoding)
            .response(pieces(&[2; 8], 4));
        for rpc in exchange.both() {
            for traffic in [rpc.stats().request(), rpc.stats().response()] {
                assert_eq!(traffic.compressed_messages(), Some(compressed));
                assert_eq!(traffic.messages(), Some(1));
            }
        }
    }
}

#[test]
fn the_timeout_is_connects_own() {
    for (value, timeout) in [
        ("250", Some(Duration::from_millis(250))),
        ("9999999999", Some(Duration::from_millis(9_999_999_999))),
        ("10000000000", None),
        ("1S", None),
        ("", None),
    ] {
        for exchange in [unary(), get("connect=v1&message=a"), Exchange::new(STREAM)] {
            let exchange = exchange.request_header("connect-timeout-ms", value);
            for rpc in exchange.both() {
                assert_eq!(rpc.timeout(), timeout, "{value}");
            }
        }
    }
    let exchange = Exchange::new("application/grpc").request_header("connect-timeout-ms", "9");
    assert_eq!(exchange.on(Role::Server).timeout(), None);
}

#[test]
fn a_stream_ends_as_its_last_frame_says() {
    for rpc in stream(&end("{}")).both() {
        assert_eq!(rpc.protocol(), Protocol::ConnectStreaming);
        assert_eq!(rpc.stats().status(), Some(Status::OK));
        assert_eq!(rpc.stats().wire_status(), Some(Status::OK));
    }
    for (name, code) in NAMES {
        let json =
            format!(r#"{{"metadata":{{"a":["b"]}},"error":{{"code":"{name}","message":"m"}}}}"#);
        for rpc in stream(&end(&json)).both() {
            let stats = rpc.stats();
            assert_eq!(stats.status(), Some(Status::Grpc(code)));
            assert_eq!(stats.wire_status(), stats.status());
            assert_eq!(stats.error(), Some("m"));
            assert_eq!(stats.ending(), Some(Ending::Trailers));
            assert_eq!(stats.request().messages(), Some(1));
            assert_eq!(stats.request().message_bytes(), Some(6));
            let response = stats.response();
            assert_eq!(
                response.messages(),
                Some(2),
                "the last frame is not a message"
            );
            assert_eq!(response.compressed_messages(), Some(1));
            assert_eq!(response.message_bytes(), Some(14));
            assert!(response.is_complete() && !response.truncated());
        }
    }
}

#[test]
fn a_last_frame_that_is_compressed_is_read_too() {
    let compressed = gzip(br#"{"error":{"code":"aborted","message":"m"}}"#);
    for rpc in stream(&frame(3, &compressed)).both() {
        let stats = rpc.stats();
        assert_eq!(stats.status(), Some(Status::Grpc(Code::Aborted)));
        assert_eq!(stats.error(), Some("m"));
        assert_eq!(stats.response().messages(), Some(2));
    }
}

#[test]
fn a_stream_without_a_readable_last_frame_has_no_status() {
    for json in [
        "",
        "{",
        "[]",
        "null!",
        "\u{0}",
        r#"{"error":5}"#,
        r#"{"error":{}}"#,
    ] {
        for rpc in stream(&end(json)).both() {
            let stats = rpc.stats();
            assert_eq!(stats.status(), Some(Status::Grpc(Code::Unknown)), "{json}");
            assert_eq!(stats.wire_status(), None, "{json}");
            assert_eq!(stats.ending(), Some(Ending::BodyEnd), "{json}");
            assert_eq!(stats.response().messages(), Some(2), "{json}");
        }
    }
    for rpc in stream(b"").both() {
        assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::Unknown)));
        assert_eq!(rpc.stats().ending(), Some(Ending::BodyEnd));
        assert!(!rpc.stats().response().truncated());
    }
}

#[test]
fn a_stream_cut_within_its_last_frame_is_truncated() {
    let whole = end(r#"{"error":{"code":"aborted"}}"#);
    for cut in 1..whole.len() {
        for rpc in stream(&whole[..cut]).both() {
            let stats = rpc.stats();
            assert_eq!(stats.status(), Some(Status::Grpc(Code::Unknown)));
            assert_eq!(stats.ending(), Some(Ending::BodyEnd));
            assert_eq!(stats.response().messages(), Some(2));
            assert!(stats.response().truncated());
        }
    }
}

#[test]
fn a_page_instead_of_a_stream_is_not_read_as_one() {
    let page = text("\0\0\0\0\x01x<html>");
    let exchange = stream(b"")
        .status(503)
        .response_header("content-type", "text/html")
        .response(page);
    let [client, server] = exchange.both();
    for rpc in [&client, &server] {
        assert_eq!(rpc.stats().response().messages(), None);
        assert_eq!(rpc.stats().response().body_bytes(), Some(12));
        assert!(!rpc.stats().response().truncated());
    }
    assert_eq!(
        client.stats().status(),
        Some(Status::Grpc(Code::Unavailable))
    );
}

#[test]
fn a_unary_body_that_fails_is_truncated_and_its_message_is_not_counted() {
    let exchange = unary().response([
        Step::Data(Bytes::from_static(b"half")),
        Step::Error(Some(tonic::Code::DataLoss)),
    ]);
    for rpc in exchange.both() {
        assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::DataLoss)));
        assert_eq!(rpc.stats().ending(), Some(Ending::BodyError));
        assert_eq!(rpc.stats().response().messages(), Some(0));
        assert!(rpc.stats().response().truncated());
    }
}

/// A unary call by GET.
fn get(query: &str) -> Exchange {
    Exchange::new("application/proto").get(query)
}

#[test]
fn a_get_is_a_unary_call_whose_message_is_in_the_query() {
    let query = "message=AQIDBA&encoding=proto&base64=1&connect=v1";
    for rpc in get(query).response(pieces(&[2; 30], 7)).both() {
        assert_eq!(rpc.protocol(), Protocol::ConnectUnary);
        assert_eq!(rpc.full_method(), Some("echo.Echo/UnaryEcho"));
        assert_eq!(rpc.http_method().unwrap(), "GET");
        let stats = rpc.stats();
        assert_eq!(stats.status(), Some(Status::OK));
        assert_eq!(stats.ending(), Some(Ending::BodyEnd));
        assert_eq!(stats.request().messages(), Some(1));
        assert_eq!(stats.request().message_bytes(), Some(4));
        assert_eq!(stats.request().compressed_messages(), Some(0));
        assert_eq!(stats.request().body_bytes(), Some(0), "the body's");
        assert!(stats.request().is_complete() && !stats.request().truncated());
        assert_eq!(stats.response().messages(), Some(1));
        assert_eq!(stats.response().message_bytes(), Some(30));
    }
}

#[test]
fn the_log_of_a_get_is_that_of_any_unary_call() {
    for role in [Role::Client, Role::Server] {
        let expected = [
            "start",
            "request_headers",
            "request_message #0 1B compressed",
            "half_close",
            "response_headers",
            "response_message #0 3B",
            "finish body_end OK",
        ];
        let exchange = get("connect=v1&compression=gzip&base64=1&encoding=proto&message=YQ%3D%3D");
        let log = exchange
            .response(pieces(&[2; 3], 1))
            .log(role, &RecordingTracer::new());
        assert_eq!(log, expected);
    }
}

#[test]
fn each_code_of_an_error_that_answers_a_get_is_read() {
    for (name, code) in NAMES {
        let body = format!(r#"{{"code":"{name}","message":"m"}}"#);
        for rpc in failing(500, &body)
            .get("message=&encoding=json&connect=v1")
            .both()
        {
            assert_eq!(rpc.stats().status(), Some(Status::Grpc(code)));
            assert_eq!(rpc.stats().error(), Some("m"));
            assert_eq!(rpc.stats().request().messages(), Some(1));
        }
    }
}

#[test]
fn a_get_whose_message_cannot_be_decoded_has_unknown_messages() {
    for query in ["connect=v1", "connect=v1&base64=1&message=%21"] {
        for rpc in get(query).both() {
            assert_eq!(rpc.protocol(), Protocol::ConnectUnary);
            assert_eq!(rpc.stats().request().messages(), None);
            assert_eq!(rpc.stats().request().body_bytes(), Some(0));
        }
    }
}

#[test]
fn content_of_a_get_is_not_a_message() {
    let exchange = get("message=abc&encoding=json&connect=v1").request(pieces(&[1; 9], 4));
    for rpc in exchange.both() {
        assert_eq!(rpc.stats().request().messages(), Some(1));
        assert_eq!(rpc.stats().request().message_bytes(), Some(3));
        assert_eq!(rpc.stats().request().body_bytes(), Some(9));
    }
}

#[test]
fn a_get_that_does_not_say_connect_is_plain_http() {
    for query in ["", "message=a&encoding=json", "connect=v2&message=a"] {
        for rpc in get(query).both() {
            assert_eq!(rpc.protocol(), Protocol::Http);
            assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
            assert_eq!(rpc.stats().request().messages(), None);
        }
    }
}

// A cache's answer: an HTTP/1 server drops the body unread, even if there is one.
#[tokio::test]
async fn an_unmodified_answer_to_a_get_is_over_with_its_headers() {
    let recorder = RecordingTracer::new();
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()).server())
        .service_fn(async |_: Request| {
            let body = tokio_stream::iter([Ok::<_, std::convert::Infallible>("never sent")]);
            Response::builder()
                .status(304)
                .body(Body::from_stream(body))
        });
    let request = Request::get("/echo.Echo/UnaryEcho?connect=v1&message=a");
    let request = request.body(Body::empty()).unwrap();
    drop(service.oneshot(request).await.unwrap());
    let expected = [
        "start",
        "request_headers",
        "request_message #0 1B",
        "half_close",
        "response_headers",
        "finish headers_only UNKNOWN",
    ];
    assert_eq!(recorder.log(), expected);
}

// Nothing else says of a GET that it is a call: a tracer has to be able to choose by it.
#[tokio::test]
async fn a_filter_sees_what_a_get_speaks() {
    use tower_tracer::Tracer as _;
    let recorder = RecordingTracer::new();
    let tracer = recorder
        .clone()
        .filter(|rpc| rpc.protocol() == Protocol::ConnectUnary);
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(tracer).server())
        .service_fn(async |_: Request| {
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
    for (method, query) in [
        ("GET", "connect=v1&message=a"),
        ("GET", "message=a"),
        ("POST", "connect=v1&message=a"),
    ] {
        let request = Request::builder().method(method);
        let request = request.uri(format!("/echo.Echo/UnaryEcho?{query}"));
        let request = request.body(Body::empty()).unwrap();
        service.clone().oneshot(request).await.unwrap();
    }
    assert_eq!(recorder.only_finished().protocol(), Protocol::ConnectUnary);
}

/// A unary method and a stream, as a server of Connect answers them.
fn router() -> Router {
    async fn unary(request: Request) -> Response {
        let query = request.uri().query().map(ToOwned::to_owned);
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let asked = match query
            .as_deref()
            .and_then(|query| query.strip_prefix("message="))
        {
            Some(message) => Bytes::copy_from_slice(&message.as_bytes()[..4]),
            None => asked,
        };
        let response = Response::builder();
        if asked.starts_with(b"fail") {
            let response = response.status(StatusCode::NOT_FOUND);
            let response = response.header("content-type", "application/json");
            let error = r#"{"code":"not_found","message":"no such"}"#;
            return response.body(Body::from(error)).unwrap();
        }
        let response = response.header("content-type", "application/proto");
        response.body(Body::from(asked)).unwrap()
    }
    async fn stream(request: Request) -> Response {
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let error = end(r#"{"error":{"code":"resource_exhausted","message":"enough"}}"#);
        let frames = [frame(0, &asked), frame(0, &asked), error];
        let frames = frames.map(|frame| Ok::<_, std::convert::Infallible>(Bytes::from(frame)));
        let response = Response::builder().header("content-type", STREAM);
        let body = Body::from_stream(tokio_stream::iter(frames));
        response.body(body).unwrap()
    }
    Router::new()
        .route("/echo.Echo/UnaryEcho", routing::post(unary).get(unary))
        .route("/echo.Echo/ServerStreamingEcho", routing::post(stream))
}

/// A POST to the method in `uri` with this body, or a GET if that has a query.
async fn call(uri: &str, content_type: &str, body: &'static [u8]) -> [RpcInfo; 2] {
    let (client_side, server_side) = (RecordingTracer::new(), RecordingTracer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/echo.Echo/{uri}", listener.local_addr().unwrap());
    let router = router().layer(TracerLayer::new(server_side.clone()).server());
    let server = async move { axum::serve(listener, router).await };
    tokio::spawn(server);
    let client = ServiceBuilder::new()
        .layer(TracerLayer::new(client_side.clone()).client())
        .service(Client::builder(TokioExecutor::new()).build_http::<Body>());
    let request = match uri.contains('?') {
        true => Request::get(uri),
        false => Request::post(uri)
            .header("content-type", content_type)
            .header("connect-protocol-version", "1"),
    };
    let request = request.body(Body::from(body)).unwrap();
    let response = client.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    let server = server_side.wait_finished(1).await.remove(0);
    [client_side.only_finished(), server]
}

#[tokio::test]
async fn both_sides_record_the_same_over_http() {
    for (method, content_type, body, code, asked, answered) in [
        ("UnaryEcho", "application/proto", "hello", Code::Ok, 1, 1),
        (
            "UnaryEcho",
            "application/proto",
            "fail",
            Code::NotFound,
            1,
            0,
        ),
        (
            "ServerStreamingEcho",
            STREAM,
            "again",
            Code::ResourceExhausted,
            // Five bytes that begin a message of two gigabytes.
            0,
            2,
        ),
        ("UnaryEcho?message=hell&connect=v1", "", "", Code::Ok, 1, 1),
        (
            "UnaryEcho?message=fail&connect=v1",
            "",
            "",
            Code::NotFound,
            1,
            0,
        ),
    ] {
        let both = call(method, content_type, body.as_bytes()).await;
        for rpc in &both {
            let stats = rpc.stats();
            assert_eq!(stats.status(), Some(Status::Grpc(code)), "{rpc:?}");
            assert_eq!(stats.request().messages(), Some(asked));
            assert_eq!(stats.request().body_bytes(), Some(body.len() as u64));
            assert_eq!(stats.response().messages(), Some(answered));
            assert_eq!(rpc.method(), method.split('?').next());
        }
    }
}
