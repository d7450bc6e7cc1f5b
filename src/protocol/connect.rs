//! Connect: errors are JSON, in the body of a unary response and in the last frame of a stream.

use std::{borrow::Cow, io::Read as _, time::Duration};

use flate2::bufread::GzDecoder;
use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, de::DeserializeOwned};

use crate::rpc::Code;

pub(crate) static TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// The flag of the frame that ends a stream.
pub(crate) const END_OF_STREAM: u8 = 0x02;

/// A status that Connect sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Error {
    /// `None` for a code that Connect does not define.
    pub(crate) code: Option<Code>,
    pub(crate) raw_code: String,
    pub(crate) message: String,
}

#[derive(Deserialize)]
struct Wire {
    code: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct End {
    error: Option<Wire>,
}

/// What stood at the end of a body, or the beginning of that.
///
/// It may be compressed, and with gzip, the one compression that Connect's peers share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept<'a> {
    pub(crate) bytes: &'a [u8],
    /// Whether there were more bytes.
    pub(crate) cut: bool,
    pub(crate) compressed: bool,
}

/// What was met cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// Reads the error that is the body of a unary response; `None` where it is none.
pub(crate) fn unary_error(body: Kept<'_>) -> Option<Error> {
    body.read::<Wire>(Some).ok().flatten()
}

/// Reads the last frame of a stream: an error, or none for OK; `Err` where it is no such frame.
pub(crate) fn end_of_stream(frame: Kept<'_>) -> Result<Option<Error>, Unreadable> {
    frame.read::<End>(|end| end.error)
}

/// How much is read of what is compressed.
const MOST: u64 = 8 * 1024;

impl<'a> Kept<'a> {
    fn read<T: DeserializeOwned>(
        self,
        error_of: fn(T) -> Option<Wire>,
    ) -> Result<Option<Error>, Unreadable> {
        let (json, cut) = self.inflated()?;
        if let Ok(whole) = serde_json::from_slice(&json) {
            return Ok(error_of(whole).map(Error::new));
        }
        if !cut {
            return Err(Unreadable);
        }
        // The code and the message stand before the details, which can be long.
        let [closed, shortened] = completions(&json).map(|json| {
            let whole = serde_json::from_slice(&json).ok()?;
            error_of(whole).map(Error::new)
        });
        closed
            // Half a code is none.
            .filter(|error| error.code.is_some())
            .or(shortened)
            .map(Some)
            .ok_or(Unreadable)
    }

    /// The plain text, and whether there was more of it.
    pub(crate) fn inflated(self) -> Result<(Cow<'a, [u8]>, bool), Unreadable> {
        if !self.compressed {
            return Ok((self.bytes.into(), self.cut));
        }
        let mut plain = Vec::new();
        let mut gunzip = GzDecoder::new(self.bytes).take(MOST);
        let read = gunzip.read_to_end(&mut plain);
        if read.is_err() && !self.cut {
            return Err(Unreadable);
        }
        Ok((plain.into(), self.cut || gunzip.limit() == 0))
    }
}

/// Two ways to complete JSON that is cut: closed right there, even inside a string, and without what
/// follows its last whole member.
fn completions(cut: &[u8]) -> [Vec<u8>; 2] {
    // A character may be cut too.
    let text = cut.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let text = text.as_bytes();
    // How each bracket that is open closes.
    let mut open = Vec::new();
    let mut in_string = false;
    // Where the last whole member ends, and how many brackets are open there.
    let mut whole = (0, 0);
    let mut at = 0;
    while let Some(rest @ [byte, ..]) = text.get(at..) {
        let mut length = 1;
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => length = length_of_escape(rest),
            _ if in_string => {}
            b'{' => open.push(b'}'),
            b'[' => open.push(b']'),
            b'}' | b']' => {
                open.pop();
                whole = (at + 1, open.len());
            }
            b',' => whole = (at, open.len()),
            _ => {}
        }
        if length > rest.len() {
            break;
        }
        at += length;
    }
    let close = |end: usize, quote: &[u8], brackets: usize| {
        let brackets = open.iter().take(brackets).rev();
        let mut json = text.get(..end).unwrap_or_default().to_vec();
        json.extend(quote.iter().chain(brackets));
        json
    };
    let quote: &[u8] = if in_string { b"\"" } else { b"" };
    let (end, brackets) = whole;
    [close(at, quote, open.len()), close(end, b"", brackets)]
}

/// How long an escape in a JSON string is, from its backslash on.
fn length_of_escape(rest: &[u8]) -> usize {
    match rest {
        // The first half of a pair.
        [
            _,
            b'u',
            b'd' | b'D',
            b'8' | b'9' | b'a' | b'b' | b'A' | b'B',
            ..,
        ] => 12,
        [_, b'u', ..] => 6,
        _ => 2,
    }
}

/// The time that `connect-timeout-ms` gives a request: 1 to 10 digits.
pub(crate) fn timeout(value: &HeaderValue) -> Option<Duration> {
    let digits = value.to_str().ok()?;
    let fits = (1..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| digits.parse().map(Duration::from_millis).ok())?
}

/// Whether the query of a GET says that it is a call.
pub(crate) fn is_call(query: &str) -> bool {
    query.split('&').any(|parameter| parameter == "connect=v1")
}

/// The message in the query of a call: its size, and whether it is compressed. `None` where there is
/// none, or none that can be decoded.
pub(crate) fn message_in(query: &str) -> Option<(u64, bool)> {
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

impl Error {
    fn new(wire: Wire) -> Self {
        Self {
            code: code(&wire.code),
            raw_code: wire.code,
            message: wire.message,
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

    use super::{Code, Error, Kept, end_of_stream, message_in, timeout, unary_error};

    fn json(bytes: &[u8]) -> Kept<'_> {
        Kept {
            bytes,
            cut: false,
            compressed: false,
        }
    }

    fn gzipped(bytes: &[u8]) -> Kept<'_> {
        Kept {
            compressed: true,
            ..json(bytes)
        }
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(plain).unwrap();
        gzip.finish().unwrap()
    }

    /// The same, and there was more.
    fn cut(json: Kept<'_>) -> Kept<'_> {
        Kept { cut: true, ..json }
    }

    #[test]
    fn errors_are_read_from_both_places() {
        let error = unary_error(json(
            br#"{"code":"not_found","message":"no \"x\"","details":[]}"#,
        ));
        let error = error.unwrap();
        assert_eq!(error.code, Some(Code::NotFound));
        assert_eq!(error.message, "no \"x\"");
        let end = json(br#"{"error":{"code":"canceled"},"metadata":{}}"#);
        let error = end_of_stream(end).unwrap();
        assert_eq!(error.unwrap().code, Some(Code::Cancelled));
        assert_eq!(end_of_stream(json(b"{}")), Ok(None));
        for no_code in [&br#"{"code":"ok"}"#[..], br#"{"code":"NOT_FOUND"}"#] {
            assert_eq!(unary_error(json(no_code)).unwrap().code, None);
        }
        for garbage in [&b""[..], b"{", b"[]", b"\xff", b"null"] {
            assert_eq!(unary_error(json(garbage)), None);
            assert_eq!(unary_error(cut(json(garbage))), None);
            assert_eq!(unary_error(gzipped(garbage)), None);
        }
        assert!(end_of_stream(json(b"{")).is_err());
    }

    #[test]
    fn of_an_error_that_is_cut_the_code_is_read_and_as_much_of_the_message_as_is_there() {
        let whole =
            r#"{"code":"aborted","message":"é\n☺\ud83d\ude00 \\\"","details":[{"a,}":["\"]"]}]}"#;
        let message = "é\n☺😀 \\\"";
        let unary = |end: usize| unary_error(cut(json(&whole.as_bytes()[..end])));
        let code_ends = whole.find(r#"","message"#).unwrap() + 1;
        let message_begins = whole.find('é').unwrap();
        let message_ends = whole.find(r#"","details"#).unwrap();
        for end in 0..whole.len() {
            let Some(Error {
                code,
                message: read,
                ..
            }) = unary(end)
            else {
                // The quote that ends it may be missing.
                assert!(end < code_ends, "{}", &whole[..code_ends]);
                continue;
            };
            assert!(end >= code_ends - 1, "half a code is none: {end}");
            assert_eq!(code, Some(Code::Aborted));
            assert!(message.starts_with(&read), "{read}");
            if end < message_begins {
                assert_eq!(read, "");
            }
            if end >= message_ends {
                assert_eq!(read, message, "cut at {end}");
            }
        }
        let read = |end: usize| unary(message_begins + end).unwrap().message;
        assert_eq!(read(1), "", "half a character");
        assert_eq!((read(2), read(3)), ("é".into(), "é".into()));
        assert_eq!(read(4), "é\n");
        let smile = "é\\n☺".len();
        for end in smile..smile + 12 {
            assert_eq!(read(end), "é\n☺", "half an escape");
        }
        assert_eq!(read(smile + 12), "é\n☺😀");
        // Not cut, but not whole either.
        assert_eq!(
            unary_error(json(&whole.as_bytes()[..whole.len() - 1])),
            None
        );

        let stream = format!(r#"{{"error":{whole},"metadata":{{"a":["b"]}}}}"#);
        let error_ends = r#"{"error":"#.len() + code_ends;
        for end in error_ends..stream.len() {
            let error = end_of_stream(cut(json(&stream.as_bytes()[..end])));
            assert_eq!(error.unwrap().unwrap().code, Some(Code::Aborted), "{end}");
        }
    }

    #[test]
    fn an_error_that_may_have_followed_the_cut_is_not_read_as_none() {
        for beginning in [
            &br#"{"metadata":{"a":["b"],"#[..],
            br#"{"metadata":{"a":["b"]},"#,
            br#"{"metadata":{"a":["b"]},"error":"#,
            br#"{"metadata":{"a":["b"]},"error":{"details":[{"type":"#,
            br#"{"metadata":{"a":["b"]},"error":{"code":"abor"#,
        ] {
            assert!(end_of_stream(cut(json(beginning))).is_err());
        }
        assert_eq!(unary_error(cut(json(br#"{"details":[{"type":"a"#))), None);
        assert_eq!(
            unary_error(cut(json(br#"{"details":[],"code":"not_f"#))),
            None
        );
        // A code of which Connect knows nothing is kept, unless it is cut.
        let error = unary_error(cut(json(br#"{"code":"banana","message":"a"#)));
        assert_eq!(error.unwrap().raw_code, "banana");
        assert_eq!(unary_error(cut(json(br#"{"code":"banan"#))), None);
    }

    #[test]
    fn brackets_without_end_are_no_error() {
        let deep = "[".repeat(8 * 1024);
        for garbage in [deep.clone(), format!("{{\"a\":{deep}"), "],".repeat(4096)] {
            assert_eq!(unary_error(cut(json(garbage.as_bytes()))), None);
        }
        let error = unary_error(cut(json(
            format!(r#"{{"code":"aborted","details":{deep}"#).as_bytes(),
        )));
        assert_eq!(error.unwrap().code, Some(Code::Aborted));
    }

    #[test]
    fn a_compressed_frame_is_read_and_a_bomb_is_not() {
        let frame = gzip(br#"{"error":{"code":"aborted"}}"#);
        let error = end_of_stream(gzipped(&frame)).unwrap();
        assert_eq!(error.unwrap().code, Some(Code::Aborted));
        assert!(end_of_stream(json(&frame)).is_err());
        assert!(end_of_stream(gzipped(b"{}")).is_err());
        assert!(end_of_stream(gzipped(&frame[..frame.len() - 9])).is_err());
        let mut bomb = br#"{"error":null}"#.to_vec();
        bomb.resize(1_000_000, b' ');
        // Cut where reading stops, and whole as far as that.
        assert_eq!(end_of_stream(gzipped(&gzip(&bomb))), Ok(None));
        bomb.push(b'x');
        assert_eq!(end_of_stream(gzipped(&gzip(&bomb))), Ok(None));
        let long = "x".repeat(1_000_000);
        let bomb = gzip(format!(r#"{{"code":"aborted","message":"{long}"}}"#).as_bytes());
        let error = unary_error(gzipped(&bomb)).unwrap();
        assert_eq!(error.code, Some(Code::Aborted));
        assert!((8_000..=8 * 1024).contains(&error.message.len()));
    }

    #[test]
    fn of_a_compressed_error_that_is_cut_the_beginning_is_read() {
        let mut noise = 1_u32;
        let noise: String = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'a' + (noise >> 28) as u8)
        })
        .take(4_000)
        .collect();
        let whole = gzip(format!(r#"{{"code":"aborted","message":"{noise}"}}"#).as_bytes());
        assert!(whole.len() > 1_500, "{}", whole.len());
        let error = unary_error(cut(gzipped(&whole[..1_500]))).unwrap();
        assert_eq!(error.code, Some(Code::Aborted));
        assert!(error.message.len() > 500, "{}", error.message.len());
        assert!(noise.starts_with(&error.message));
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
