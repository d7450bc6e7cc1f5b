//! Connect: errors are JSON, in the body of a unary response and in the last frame of a stream.

use std::{borrow::Cow, io::Read as _, time::Duration};

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

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
struct Wire<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(default, borrow)]
    message: Cow<'a, str>,
}

#[derive(Deserialize)]
struct End<'a> {
    #[serde(borrow)]
    error: Option<Wire<'a>>,
}

/// Reads the error that is the body of a unary response; `None` where it is none.
pub(crate) fn unary_error(body: &[u8]) -> Option<Error> {
    serde_json::from_slice::<Wire<'_>>(body)
        .ok()
        .map(Error::new)
}

/// How much of a compressed frame is read.
const MOST: u64 = 8 * 1024;

/// Reads the last frame of a stream: an error, or none for OK; `Err` where it is no such frame.
///
/// A frame may be compressed, and with gzip, the one compression that Connect's peers share.
pub(crate) fn end_of_stream(
    frame: &[u8],
    compressed: bool,
) -> Result<Option<Error>, serde_json::Error> {
    let mut plain = Vec::new();
    let mut frame = frame;
    if compressed {
        let mut gunzip = flate2::read::GzDecoder::new(frame).take(MOST);
        gunzip
            .read_to_end(&mut plain)
            .map_err(serde_json::Error::io)?;
        frame = &plain;
    }
    let end: End<'_> = serde_json::from_slice(frame)?;
    Ok(end.error.map(Error::new))
}

/// The time that `connect-timeout-ms` gives a request: 1 to 10 digits.
pub(crate) fn timeout(value: &HeaderValue) -> Option<Duration> {
    let digits = value.to_str().ok()?;
    let fits = (1..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| digits.parse().map(Duration::from_millis).ok())?
}

impl Error {
    fn new(wire: Wire<'_>) -> Self {
        Self {
            code: code(&wire.code),
            raw_code: wire.code.into_owned(),
            message: wire.message.into_owned(),
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

    use super::{Code, end_of_stream, timeout, unary_error};

    #[test]
    fn errors_are_read_from_both_places() {
        let error = unary_error(br#"{"code":"not_found","message":"no \"x\"","details":[]}"#);
        let error = error.unwrap();
        assert_eq!(error.code, Some(Code::NotFound));
        assert_eq!(error.message, "no \"x\"");
        let error = end_of_stream(br#"{"error":{"code":"canceled"},"metadata":{}}"#, false);
        assert_eq!(error.unwrap().unwrap().code, Some(Code::Cancelled));
        assert_eq!(end_of_stream(b"{}", false).unwrap(), None);
        assert_eq!(unary_error(br#"{"code":"ok"}"#).unwrap().code, None);
        assert_eq!(unary_error(br#"{"code":"NOT_FOUND"}"#).unwrap().code, None);
        for garbage in [&b""[..], b"{", b"[]", b"\xff", b"null"] {
            assert_eq!(unary_error(garbage), None);
        }
        assert!(end_of_stream(b"{", false).is_err());
    }

    #[test]
    fn a_compressed_frame_is_read_and_a_bomb_is_not() {
        let gzip = |plain: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            gzip.write_all(plain).unwrap();
            gzip.finish().unwrap()
        };
        let frame = gzip(br#"{"error":{"code":"aborted"}}"#);
        let error = end_of_stream(&frame, true).unwrap();
        assert_eq!(error.unwrap().code, Some(Code::Aborted));
        assert!(end_of_stream(&frame, false).is_err());
        assert!(end_of_stream(b"{}", true).is_err());
        let mut bomb = br#"{"error":null}"#.to_vec();
        bomb.resize(1_000_000, b' ');
        // Cut where reading stops, and whole as far as that.
        assert_eq!(end_of_stream(&gzip(&bomb), true).unwrap(), None);
        bomb.push(b'x');
        assert_eq!(end_of_stream(&gzip(&bomb), true).unwrap(), None);
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
