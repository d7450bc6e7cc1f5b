use std::{io::Write as _, time::Duration};

use http::HeaderValue;

use super::{Code, ErrorSearch, WireStatus, message_in, timeout};
use crate::protocol::{EndFrame, EndOfBody, end_frame::Text};

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(plain).unwrap();
    gzip.finish().unwrap()
}

type Read = Option<WireStatus<'static>>;

fn read_unary(body: &[u8], compressed: bool) -> Read {
    let mut end = EndFrame::of_unary_error(compressed);
    end.push(body);
    end.unary_error()
}

fn read_end(frame: &[u8], flags: u8) -> Read {
    let mut end = EndFrame::new(Text::Stream);
    end.content(flags, frame);
    end.complete(flags);
    let Some(EndOfBody::Status(end)) = end.end_of_body() else {
        panic!("the end of a stream of Connect")
    };
    assert_eq!(end.has_trailers, end.status.is_some());
    end.status
}

fn unary_error(body: &[u8]) -> Read {
    read_unary(body, false)
}

fn end_of_stream(frame: &[u8]) -> Read {
    read_end(frame, 2)
}

#[test]
fn errors_are_read_from_both_places() {
    let error = unary_error(br#"{"code":"not_found","message":"no \"x\"","details":[]}"#);
    let error = error.unwrap();
    assert_eq!(error.code, Some(Code::NotFound));
    assert_eq!(error.message.unwrap(), "no \"x\"");
    let error = end_of_stream(br#"{"error":{"code":"canceled"},"metadata":{}}"#).unwrap();
    assert_eq!(error.code, Some(Code::Cancelled));
    assert_eq!(end_of_stream(b"{}"), Some(WireStatus::OK));
    for no_code in [&br#"{"code":"ok"}"#[..], br#"{"code":"NOT_FOUND"}"#] {
        assert_eq!(unary_error(no_code).unwrap().code, None);
    }
    for garbage in [&b""[..], b"{", b"[]", b"\xff", b"null"] {
        assert_eq!(unary_error(garbage), None);
        assert_eq!(read_unary(garbage, true), None);
        assert_eq!(read_unary(&gzip(garbage), true), None);
    }
    assert_eq!(end_of_stream(b"{"), None);
}

/// JSON of more than is kept, with the error at its end, and with it at its beginning.
fn long(error: &str) -> [String; 2] {
    let metadata: Vec<_> = (0..2_000)
        .map(|n| format!(r#""code{n}":["a}}]\"{{",{{"error":{{"code":"internal"}}}}]"#))
        .collect();
    let metadata = format!(r#""metadata":{{{}}}"#, metadata.join(","));
    [
        format!(r#"{{{metadata},"error":{error}}}"#),
        format!(r#"{{"error":{error},{metadata}}}"#),
    ]
}

#[test]
#[cfg_attr(miri, ignore = "Miri would take minutes for so many bytes")]
fn the_error_of_a_stream_is_found_whatever_its_size_and_place() {
    for frame in long(r#"{"message":"é\n\"☺\ud83d\ude00","code":"aborted"}"#) {
        assert!(frame.len() > 50_000);
        for error in [
            end_of_stream(frame.as_bytes()),
            read_end(&gzip(frame.as_bytes()), 3),
        ] {
            let error = error.unwrap();
            assert_eq!(error.code, Some(Code::Aborted));
            assert_eq!(error.message.unwrap(), "é\n\"☺😀");
        }
    }
    for ok in long("null") {
        assert_eq!(end_of_stream(ok.as_bytes()), Some(WireStatus::OK));
        // The error may have followed.
        let cut = &ok.as_bytes()[..ok.len() - 2];
        assert_eq!(end_of_stream(cut), None);
    }
    for no_code in long("{}") {
        assert_eq!(end_of_stream(no_code.as_bytes()), None);
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri would take minutes for so many bytes")]
fn the_error_of_a_unary_call_is_found_whatever_its_size_and_place() {
    let details = format!(
        r#""details":[{{"code":"internal","value":"{}"}}]"#,
        "x".repeat(1_000_000)
    );
    for body in [
        format!(r#"{{{details},"code":"not_found","message":"gone"}}"#),
        format!(r#"{{"code":"not_found",{details},"message":"gone"}}"#),
    ] {
        for error in [
            unary_error(body.as_bytes()),
            read_unary(&gzip(body.as_bytes()), true),
        ] {
            let error = error.unwrap();
            assert_eq!(error.code, Some(Code::NotFound));
            assert_eq!(error.message.unwrap(), "gone");
        }
    }
    let [array, _] = long("null").map(|json| format!("[{json}]"));
    assert_eq!(unary_error(array.as_bytes()), None);
}

#[test]
fn json_in_pieces_gives_the_same_error() {
    let whole =
        r#"{"a":"\\","error":{"code":"aborted","message":"é\n☺","details":[{"code":"x"}]}}"#;
    for step in 1..whole.len() {
        let mut search = ErrorSearch::in_stream();
        for piece in whole.as_bytes().chunks(step) {
            search.push(piece);
        }
        let error = search.end_of_stream().unwrap();
        assert_eq!(error.code, Some(Code::Aborted));
        assert_eq!(error.message.unwrap(), "é\n☺");
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri would take minutes for so many bytes")]
fn a_message_that_is_cut_ends_before_an_incomplete_character() {
    for escape in ["é", "\\n", "\\u00e9", "\\ud83d\\ude00"] {
        for before in 8 * 1024 - 13..8 * 1024 {
            let text = "x".repeat(before);
            let body = format!(r#"{{"code":"aborted","message":"{text}{escape}y","details":[]}}"#);
            let message = unary_error(body.as_bytes()).unwrap().message.unwrap();
            assert!(message.starts_with(&text), "{escape} behind {before}");
            assert!(message.len() <= 8 * 1024);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri would take minutes for so many bytes")]
fn brackets_without_end_are_not_an_error() {
    let deep = "[".repeat(9 * 1024);
    for garbage in [deep.clone(), format!("{{\"a\":{deep}"), "],".repeat(5000)] {
        assert_eq!(unary_error(garbage.as_bytes()), None);
        assert_eq!(end_of_stream(garbage.as_bytes()), None);
    }
    let error = unary_error(format!(r#"{{"code":"aborted","details":{deep}"#).as_bytes());
    assert_eq!(error.unwrap().code, Some(Code::Aborted));
}

#[test]
#[cfg_attr(miri, ignore = "Miri would take minutes for so many bytes")]
fn a_compressed_frame_is_read_and_only_the_beginning_of_a_bomb() {
    let frame = gzip(br#"{"error":{"code":"aborted"}}"#);
    let error = read_end(&frame, 3).unwrap();
    assert_eq!(error.code, Some(Code::Aborted));
    assert_eq!(end_of_stream(&frame), None);
    assert_eq!(read_end(b"{}", 3), None);
    assert_eq!(read_end(&frame[..frame.len() - 9], 3), None);
    for size in [1_000_000, 10_000_000] {
        let mut bomb = br#"{"error":null}"#.to_vec();
        bomb.resize(size, b' ');
        bomb.push(b'x');
        assert_eq!(read_end(&gzip(&bomb), 3), Some(WireStatus::OK));
        let long = "x".repeat(size);
        let bomb = gzip(format!(r#"{{"code":"aborted","message":"{long}"}}"#).as_bytes());
        let error = read_unary(&bomb, true).unwrap();
        assert_eq!(error.code, Some(Code::Aborted));
        // Of the larger one reading stops within the message.
        assert!(error.message.unwrap().len() <= 8 * 1024);
    }
}

#[test]
fn the_message_of_a_get_has_its_decoded_length() {
    for (query, message) in [
        ("message=&connect=v1", Some((0, false))),
        (
            "connect=v1&message=%7B%22name%22%3A%22Buf%22%7D",
            Some((14, false)),
        ),
        ("message=a+b%C3%A9", Some((5, false))),
        ("message=a&message=bcd", Some((1, false))),
        ("message=%zz", Some((3, false))),
        ("message=YQ&base64=1", Some((1, false))),
        ("base64=1&message=YQ%3D%3D", Some((1, false))),
        ("message=YWI&base64=1&compression=gzip", Some((2, true))),
        (
            "message=YWI=&base64=1&compression=identity",
            Some((2, false)),
        ),
        ("message=-_-_&base64=1", Some((3, false))),
        ("message=-_-_YQ&base64=1", Some((4, false))),
        ("message=&base64=1", Some((0, false))),
        ("message=YQ&base64=0", Some((2, false))),
        // No base64, or not for URLs.
        ("message=Y&base64=1", None),
        ("message=YWJjZ&base64=1", None),
        ("message=YQ=&base64=1", None),
        ("message=YQ==YQ==&base64=1", None),
        ("message=%3D%3D%3D%3D&base64=1", None),
        ("message=Y%2B%2F%2F&base64=1", None),
        ("message=Y+//&base64=1", None),
        ("connect=v1", None),
        ("message", None),
        ("", None),
    ] {
        assert_eq!(message_in(query), message, "{query}");
    }
}

#[test]
fn timeouts_are_milliseconds() {
    let read = |value| timeout(&HeaderValue::from_static(value));
    assert_eq!(read("250"), Some(Duration::from_millis(250)));
    for value in ["", "1s", "-1", "+1", "12345678901"] {
        assert_eq!(read(value), None);
    }
}
