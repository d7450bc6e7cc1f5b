//! Connect: errors are JSON, in the body of a unary response and in the last frame of a stream.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_ENCODING};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::WireStatus;
use crate::rpc::Code;

pub(super) static TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// The flag of the frame that ends a stream.
pub(super) const END_OF_STREAM: u8 = 0x02;

#[derive(Deserialize)]
struct Error {
    code: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct End {
    error: Option<Error>,
}

/// Reads the error that is the body of a unary response; `None` if it is not one.
pub(super) fn unary_error(body: &[u8]) -> Option<WireStatus<'static>> {
    let error: Error = serde_json::from_slice(body).ok()?;
    Some(error.into())
}

/// Reads the last frame of a stream, which holds an error or else means OK; `None` if it is not such a
/// frame.
pub(super) fn end_of_stream(frame: &[u8]) -> Option<WireStatus<'static>> {
    let end: End = serde_json::from_slice(frame).ok()?;
    Some(end.error.map_or(WireStatus::OK, WireStatus::from))
}

/// Whether the message that is the body is compressed.
pub(super) fn is_compressed(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_ENCODING)
        .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Looks for the error in JSON of any length, which it neither keeps nor checks.
#[derive(Debug)]
pub(super) struct ErrorSearch {
    /// At which depth the members of the error are.
    error_depth: u32,
    depth: u32,
    in_error: bool,
    has_error: bool,
    is_object: bool,
    in_string: bool,
    escaped: bool,
    /// Behind the colon of a member.
    is_value: bool,
    /// The last key.
    key: Vec<u8>,
    /// The last string, as it is written.
    string: Vec<u8>,
    code: Option<Vec<u8>>,
    message: Option<Vec<u8>>,
}

/// How much of a string is kept.
const LONGEST: usize = 8 * 1024;

impl ErrorSearch {
    /// In the last frame of a stream, `{"error": {"code": …}}`.
    pub(super) fn in_stream() -> Self {
        Self::at_depth(2)
    }

    /// In the body of a unary response, `{"code": …}`.
    pub(super) fn in_unary() -> Self {
        Self::at_depth(1)
    }

    fn at_depth(error_depth: u32) -> Self {
        Self {
            error_depth,
            depth: 0,
            in_error: false,
            has_error: false,
            is_object: false,
            in_string: false,
            escaped: false,
            is_value: false,
            key: Vec::new(),
            string: Vec::new(),
            code: None,
            message: None,
        }
    }

    /// The next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                _ if self.in_string => self.push_to_string(byte),
                b'"' => {
                    self.in_string = true;
                    self.string.clear();
                }
                b'{' | b'[' => self.open(byte),
                b'}' | b']' => self.close(),
                b':' => self.is_value = true,
                b',' => self.is_value = false,
                _ => {}
            }
        }
    }

    fn push_to_string(&mut self, byte: u8) {
        if byte == b'"' && !self.escaped {
            self.in_string = false;
            return self.end_string();
        }
        self.escaped = byte == b'\\' && !self.escaped;
        if self.string.len() < LONGEST {
            self.string.push(byte);
        }
    }

    fn end_string(&mut self) {
        if !self.is_value {
            std::mem::swap(&mut self.key, &mut self.string);
        } else if self.in_error && self.depth == self.error_depth {
            let member = match &self.key[..] {
                b"code" => &mut self.code,
                b"message" => &mut self.message,
                _ => return,
            };
            member.get_or_insert_with(|| std::mem::take(&mut self.string));
        }
    }

    fn open(&mut self, bracket: u8) {
        let is_error = self.error_depth == 1 || (self.is_value && self.key == b"error");
        self.depth = self.depth.saturating_add(1);
        if self.depth == 1 {
            self.is_object = bracket == b'{';
        }
        if self.depth == self.error_depth && is_error && self.is_object && bracket == b'{' {
            self.in_error = true;
            self.has_error = true;
        }
        self.is_value = false;
    }

    fn close(&mut self) {
        if self.depth == self.error_depth {
            self.in_error = false;
        }
        self.depth = self.depth.saturating_sub(1);
        self.is_value = false;
    }

    /// The error, if there was one with a code.
    pub(super) fn error(&self) -> Option<WireStatus<'static>> {
        let error = Error {
            code: unescaped(self.code.as_ref()?),
            message: self.message.as_deref().map(unescaped).unwrap_or_default(),
        };
        Some(error.into())
    }

    /// The error, or else OK; `None` if this is not the JSON that it should be.
    pub(super) fn end_of_stream(&self) -> Option<WireStatus<'static>> {
        let is_ok = self.is_object && self.depth == 0 && !self.has_error;
        self.error().or_else(|| is_ok.then_some(WireStatus::OK))
    }
}

/// The text of a JSON string, whose end may be missing.
fn unescaped(string: &[u8]) -> String {
    // The two halves of a character that is escaped take twelve bytes.
    let ends = (0..=12).filter_map(|missing| string.len().checked_sub(missing));
    ends.filter_map(|end| string.get(..end))
        .find_map(|string| serde_json::from_slice(&[b"\"", string, b"\""].concat()).ok())
        .unwrap_or_default()
}

/// The time that `connect-timeout-ms` gives a request: 1 to 10 digits.
pub(super) fn timeout(value: &HeaderValue) -> Option<Duration> {
    let digits = value.to_str().ok()?;
    let fits = (1..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| digits.parse().map(Duration::from_millis).ok())?
}

/// Whether the query of a GET says that it is a call.
pub(super) fn is_call(query: &str) -> bool {
    query.split('&').any(|parameter| parameter == "connect=v1")
}

/// The message in the query of a call: its size, and whether it is compressed. `None` where there is
/// none, or none that can be decoded.
pub(super) fn message_in(query: &str) -> Option<(u64, bool)> {
    let parameter = |name| {
        let mut parameters = query.split('&').filter_map(|pair| pair.split_once('='));
        parameters.find_map(|(found, value)| (found == name).then_some(value))
    };
    let message = percent_decode_str(parameter("message")?);
    let size = match parameter("base64") {
        Some("1") => length_of_base64(message)?,
        _ => message.count() as u64,
    };
    let compressed =
        parameter("compression").is_some_and(|coding| !coding.eq_ignore_ascii_case("identity"));
    Some((size, compressed))
}

/// How many bytes stand in URL-safe base64, padded or not; `None` where it is no such text.
fn length_of_base64(text: impl Iterator<Item = u8>) -> Option<u64> {
    let (mut characters, mut padding) = (0_u64, 0_u64);
    for byte in text {
        match byte {
            b'=' => padding += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' if padding == 0 => {
                characters += 1;
            }
            _ => return None,
        }
    }
    let whole = padding == 0 || (padding <= 2 && (characters + padding) % 4 == 0);
    // Four characters are three bytes, and one alone is none.
    match characters % 4 {
        0 if whole => Some(characters / 4 * 3),
        rest @ 2.. if whole => Some(characters / 4 * 3 + rest - 1),
        _ => None,
    }
}

impl From<Error> for WireStatus<'static> {
    fn from(error: Error) -> Self {
        Self {
            code: code(&error.code),
            raw: error.code.into_bytes().into(),
            message: Some(error.message.into()),
        }
    }
}

/// gRPC's name in lower case, but for one letter.
fn code(name: &str) -> Option<Code> {
    if name == "canceled" {
        return Some(Code::Cancelled);
    }
    let of_error = |code: &Code| !matches!(code, Code::Ok | Code::Cancelled);
    let mut codes = Code::ALL.into_iter().filter(of_error);
    codes.find(|code| {
        let upper = code.as_str();
        upper.len() == name.len()
            && upper
                .bytes()
                .zip(name.bytes())
                .all(|(upper, lower)| upper.to_ascii_lowercase() == lower)
    })
}

#[cfg(test)]
mod tests {
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
    fn a_message_that_is_cut_ends_before_what_is_not_whole() {
        for escape in ["é", "\\n", "\\u00e9", "\\ud83d\\ude00"] {
            for before in 8 * 1024 - 13..8 * 1024 {
                let text = "x".repeat(before);
                let body =
                    format!(r#"{{"code":"aborted","message":"{text}{escape}y","details":[]}}"#);
                let message = unary_error(body.as_bytes()).unwrap().message.unwrap();
                assert!(message.starts_with(&text), "{escape} behind {before}");
                assert!(message.len() <= 8 * 1024);
            }
        }
    }

    #[test]
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
    fn a_compressed_frame_is_read_and_of_a_bomb_the_beginning() {
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
    fn the_message_of_a_get_is_as_long_as_it_is_decoded() {
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
}
