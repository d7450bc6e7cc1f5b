//! gRPC over HTTP/2: its status headers, and the codes that other signals mean.

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;

use super::headers::{bytes_of, find, is};
use crate::rpc::Code;

pub(crate) const STATUS: &str = "grpc-status";
pub(crate) static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(crate) const TIMEOUT: &str = "grpc-timeout";
pub(crate) const ATTEMPTS: &str = "grpc-previous-rpc-attempts";

/// The value of `grpc-status`, the first of several.
#[inline]
pub(crate) fn status(headers: &HeaderMap) -> Option<&HeaderValue> {
    let (_, [status]) = find(headers, [STATUS]);
    status
}

/// Whether the headers of a response say that messages of gRPC follow: it speaks gRPC, not gRPC-Web,
/// and has no status yet.
#[inline(always)]
pub(crate) fn begins_messages(headers: &HeaderMap) -> bool {
    let (content_type, [status]) = find(headers, [STATUS]);
    status.is_none() && is(bytes_of(content_type), b"application/grpc")
}

/// The text of `grpc-message`, decoded as far as it can be; its first kilobyte or so.
pub(crate) fn message(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let raw = headers.get(&MESSAGE)?.as_bytes();
    let head = raw.get(..3 * 1024).unwrap_or(raw);
    Some(percent_decode(head).decode_utf8_lossy())
}

/// The time that `grpc-timeout` gives a request: 1 to 8 digits and a unit, else none.
pub(crate) fn timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) {
        return None;
    }
    let mut number = 0_u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number * 10 + u64::from(digit - b'0');
    }
    Some(match unit {
        b'H' => Duration::from_secs(number * 60 * 60),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Which attempt a request is, 1 for the first, by `grpc-previous-rpc-attempts`.
#[inline]
pub(crate) fn attempt(previous: Option<&HeaderValue>) -> u32 {
    previous
        .and_then(|value| value.to_str().ok()?.parse::<u32>().ok())
        .unwrap_or(0)
        .saturating_add(1)
}

/// gRPC's mapping of an HTTP status to a code, for a response without `grpc-status`.
///
/// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
pub(crate) fn code_of_http(status: u16) -> Code {
    match status {
        400 | 431 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// gRPC's mapping of the reason of an HTTP/2 reset; what gRPC leaves open is UNKNOWN, as in tonic.
#[cfg(feature = "transport")]
pub(crate) fn code_of_reset(reason: h2::Reason) -> Code {
    use h2::Reason;
    match reason {
        Reason::NO_ERROR
        | Reason::PROTOCOL_ERROR
        | Reason::INTERNAL_ERROR
        | Reason::FLOW_CONTROL_ERROR
        | Reason::SETTINGS_TIMEOUT
        | Reason::FRAME_SIZE_ERROR
        | Reason::COMPRESSION_ERROR
        | Reason::CONNECT_ERROR => Code::Internal,
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::CANCEL => Code::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue};

    use super::{attempt, begins_messages, code_of_http, message, status, timeout};
    use crate::rpc::Code;

    #[test]
    fn timeouts_are_read_as_grpc_defines_them() {
        for (value, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("999999999n", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            (" 1S", None),
            ("1 S", None),
        ] {
            let value = HeaderValue::from_static(value);
            assert_eq!(timeout(&value), expected, "{value:?}");
        }
        let value = HeaderValue::from_bytes(b"\xff").unwrap();
        assert_eq!(timeout(&value), None);
    }

    #[test]
    fn a_garbled_message_is_decoded_as_far_as_it_can_be() {
        for (value, expected) in [
            ("plain", "plain"),
            ("100%25", "100%"),
            ("%E2%98%BA", "\u{263a}"),
            ("%FF%FE", "\u{fffd}\u{fffd}"),
            ("%4", "%4"),
            ("%zz", "%zz"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-message", HeaderValue::from_static(value));
            assert_eq!(message(&headers).as_deref(), Some(expected));
        }
    }

    #[test]
    fn attempts_count_from_one_and_garbage_is_the_first() {
        for (value, expected) in [("1", 2), ("4294967295", u32::MAX), ("x", 1), ("-1", 1)] {
            let value = HeaderValue::from_static(value);
            assert_eq!(attempt(Some(&value)), expected);
        }
        assert_eq!(attempt(None), 1);
    }

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in of {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_first_status_counts() {
        let two = headers(&[("grpc-status", "5"), ("grpc-status", "0")]);
        assert_eq!(status(&two), Some(&HeaderValue::from_static("5")));
        assert_eq!(status(&headers(&[("grpc-message", "5")])), None);
    }

    #[test]
    fn messages_begin_after_headers_of_grpc_without_a_status() {
        let (grpc, ok) = (("content-type", "application/grpc"), ("grpc-status", "0"));
        let web = ("content-type", "application/grpc-web");
        for (of, expected) in [
            (&[grpc][..], true),
            (&[grpc, ok], false),
            (&[web], false),
            (&[web, ok], false),
            (&[], false),
        ] {
            assert_eq!(begins_messages(&headers(of)), expected, "{of:?}");
        }
    }

    #[test]
    fn http_statuses_have_the_codes_of_the_mapping() {
        for (statuses, code) in [
            (&[400, 431][..], Code::Internal),
            (&[401], Code::Unauthenticated),
            (&[403], Code::PermissionDenied),
            (&[404], Code::Unimplemented),
            (&[429, 502, 503, 504], Code::Unavailable),
            (&[200, 418, 500, 501], Code::Unknown),
        ] {
            for status in statuses {
                assert_eq!(code_of_http(*status), code, "{status}");
            }
        }
    }

    #[cfg(feature = "transport")]
    #[test]
    fn reasons_of_a_reset_have_the_codes_of_the_mapping() {
        for (reasons, code) in [
            (&[0, 1, 2, 3, 4, 6, 9, 10][..], Code::Internal),
            (&[7], Code::Unavailable),
            (&[8], Code::Cancelled),
            (&[11], Code::ResourceExhausted),
            (&[12], Code::PermissionDenied),
            (&[5, 13, 99], Code::Unknown),
        ] {
            for reason in reasons {
                let reason = h2::Reason::from(*reason);
                assert_eq!(super::code_of_reset(reason), code, "{reason:?}");
            }
        }
    }

    #[test]
    fn three_kilobytes_of_a_message_are_decoded() {
        let mut headers = HeaderMap::new();
        let long = HeaderValue::from_str(&"x".repeat(4000)).unwrap();
        headers.insert("grpc-message", long);
        assert_eq!(message(&headers).unwrap().len(), 3072);
    }
}
