//! What stands on the wire: which protocol, where its messages begin and end, what its status is.

mod framing;
pub(crate) mod grpc;

pub(crate) use framing::Framing;

use http::{HeaderMap, header::CONTENT_TYPE};

use crate::rpc::Protocol;

/// Tells the protocol of a request by its headers.
pub(crate) fn detect(headers: Option<&HeaderMap>) -> Protocol {
    let Some(headers) = headers else {
        return Protocol::Other;
    };
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return Protocol::Http;
    };
    let content_type = content_type.as_bytes();
    if let Some(rest) = content_type.strip_prefix(b"application/grpc") {
        return match rest {
            [] | [b'+' | b';' | b' ', ..] => Protocol::Grpc,
            _ if is(rest, b"-web-text") => Protocol::GrpcWebText,
            _ if is(rest, b"-web") => Protocol::GrpcWeb,
            _ => Protocol::Http,
        };
    }
    if content_type.starts_with(b"application/connect+") {
        return Protocol::ConnectStreaming;
    }
    let is_connect =
        is(content_type, b"application/proto") || is(content_type, b"application/json");
    if is_connect && headers.contains_key("connect-protocol-version") {
        return Protocol::ConnectUnary;
    }
    Protocol::Http
}

/// Whether a content type is this one, with or without a suffix or parameters.
fn is(content_type: &[u8], wanted: &[u8]) -> bool {
    content_type
        .strip_prefix(wanted)
        .is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::detect;
    use crate::rpc::Protocol;

    #[test]
    fn protocols_are_told_apart_by_content_type_and_version_header() {
        let connect = ("connect-protocol-version", "1");
        for (content_type, other, protocol) in [
            ("application/grpc", None, Protocol::Grpc),
            ("application/grpc+proto", None, Protocol::Grpc),
            ("application/grpc;charset=utf-8", None, Protocol::Grpc),
            ("application/grpc-web", None, Protocol::GrpcWeb),
            ("application/grpc-web+proto", None, Protocol::GrpcWeb),
            ("application/grpc-web-text", None, Protocol::GrpcWebText),
            (
                "application/grpc-web-text+proto",
                None,
                Protocol::GrpcWebText,
            ),
            ("application/grpcx", None, Protocol::Http),
            ("application/connect+json", None, Protocol::ConnectStreaming),
            ("application/proto", Some(connect), Protocol::ConnectUnary),
            ("application/json", Some(connect), Protocol::ConnectUnary),
            ("application/json", None, Protocol::Http),
            ("application/jsonx", Some(connect), Protocol::Http),
            ("text/html", Some(connect), Protocol::Http),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static(content_type));
            if let Some((name, value)) = other {
                headers.insert(name, HeaderValue::from_static(value));
            }
            assert_eq!(detect(Some(&headers)), protocol, "{content_type}");
        }
        assert_eq!(detect(Some(&HeaderMap::new())), Protocol::Http);
        assert_eq!(detect(None), Protocol::Other);
    }
}
