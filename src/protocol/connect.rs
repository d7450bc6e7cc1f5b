//! Connect: errors are JSON, in the body of a unary response and in the last frame of a stream.

use std::{borrow::Cow, time::Duration};

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

/// Reads the last frame of a stream: an error, or none for OK; `Err` where it is no such frame.
pub(crate) fn end_of_stream(frame: &[u8]) -> Result<Option<Error>, serde_json::Error> {
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
    use std::time::Duration;

    use http::HeaderValue;

    use super::{Code, end_of_stream, timeout, unary_error};

    #[test]
    fn errors_are_read_from_both_places() {
        let error = unary_error(br#"{"code":"not_found","message":"no \"x\"","details":[]}"#);
        let error = error.unwrap();
        assert_eq!(error.code, Some(Code::NotFound));
        assert_eq!(error.message, "no \"x\"");
        let error = end_of_stream(br#"{"error":{"code":"canceled"},"metadata":{}}"#);
        assert_eq!(error.unwrap().unwrap().code, Some(Code::Cancelled));
        assert_eq!(end_of_stream(b"{}").unwrap(), None);
        assert_eq!(unary_error(br#"{"code":"ok"}"#).unwrap().code, None);
        assert_eq!(unary_error(br#"{"code":"NOT_FOUND"}"#).unwrap().code, None);
        for garbage in [&b""[..], b"{", b"[]", b"\xff", b"null"] {
            assert_eq!(unary_error(garbage), None);
        }
        assert!(end_of_stream(b"{").is_err());
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
