//! Connect: errors are JSON, in the body of a unary response and in the last frame of a stream.

mod error_search;
mod query;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_ENCODING};
use serde::Deserialize;

pub(super) use self::{
    error_search::ErrorSearch,
    query::{is_call, message_in},
};
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

/// The time that `connect-timeout-ms` gives a request: 1 to 10 digits.
pub(super) fn timeout(value: &HeaderValue) -> Option<Duration> {
    let digits = value.to_str().ok()?;
    let fits = (1..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| digits.parse().map(Duration::from_millis).ok())?
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

/// The code with this name: gRPC's in lower case, except that Connect spells `canceled` with one
/// `l`.
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
mod tests;
