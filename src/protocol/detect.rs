//! Detects the protocol of a request or response by its headers.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};

#[cfg(feature = "connect")]
use super::connect;
use super::{
    grpc,
    headers::{bytes_of, find, is, is_suffix, strip},
};
use crate::rpc::{Protocol, Role};

/// What a request's headers say about its RPC.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) protocol: Protocol,
    pub(crate) timeout: Option<Duration>,
    /// Which attempt it is, if the headers say so.
    pub(crate) attempt: Option<u32>,
}

/// Reads a request's headers, `None` for a request that has none. `query_of_get` is called if they
/// leave the protocol open.
#[inline]
pub(crate) fn request_head<'a>(
    headers: Option<&HeaderMap>,
    query_of_get: impl Fn() -> Option<&'a str>,
    role: Role,
) -> RequestHead {
    let mut head = RequestHead {
        protocol: Protocol::Other,
        timeout: None,
        attempt: None,
    };
    let Some(headers) = headers else {
        return head;
    };
    let (content_type, [timeout, attempts]) = find(headers, [grpc::TIMEOUT, grpc::ATTEMPTS]);
    head.protocol = by_content_type(headers, content_type, query_of_get);
    if head.protocol.is_rpc() {
        head.timeout = timeout.and_then(grpc::timeout);
        #[cfg(feature = "connect")]
        if !head.protocol.is_grpc() {
            head.timeout = headers.get(&connect::TIMEOUT).and_then(connect::timeout);
        }
        if role == Role::Server {
            head.attempt = Some(grpc::attempt(attempts));
        }
    }
    head
}

/// Detects the protocol of a request by its headers, and if they leave it open by the query of a
/// GET.
pub(crate) fn detect<'a>(
    headers: Option<&HeaderMap>,
    query_of_get: impl Fn() -> Option<&'a str>,
) -> Protocol {
    headers.map_or(Protocol::Other, |headers| {
        by_content_type(headers, headers.get(CONTENT_TYPE), query_of_get)
    })
}

/// The protocol of a response's body, by its own content type; `None` if it does not fit the
/// request, as for a proxy's error page.
pub(super) fn of_response(asked: Protocol, content_type: Option<&HeaderValue>) -> Option<Protocol> {
    let content_type = bytes_of(content_type);
    match asked {
        Protocol::GrpcWeb | Protocol::GrpcWebText
            if is(content_type, b"application/grpc-web-text") =>
        {
            Some(Protocol::GrpcWebText)
        }
        Protocol::GrpcWeb | Protocol::GrpcWebText => {
            strip(content_type, b"application/grpc").map(|_| Protocol::GrpcWeb)
        }
        Protocol::Grpc => strip(content_type, b"application/grpc").map(|_| asked),
        Protocol::ConnectStreaming => strip(content_type, b"application/connect+").map(|_| asked),
        Protocol::ConnectUnary | Protocol::Http | Protocol::Other => Some(asked),
    }
}

/// Whether a response is gRPC-Web, binary or text.
pub(super) fn is_grpc_web(content_type: Option<&HeaderValue>) -> bool {
    strip(bytes_of(content_type), b"application/grpc-web").is_some()
}

#[inline]
fn by_content_type<'a>(
    headers: &HeaderMap,
    content_type: Option<&HeaderValue>,
    query_of_get: impl Fn() -> Option<&'a str>,
) -> Protocol {
    let content_type = bytes_of(content_type);
    if let Some(rest) = strip(content_type, b"application/grpc") {
        return match rest {
            rest if is_suffix(rest) => Protocol::Grpc,
            _ if is(rest, b"-web-text") => Protocol::GrpcWebText,
            _ if is(rest, b"-web") => Protocol::GrpcWeb,
            _ => Protocol::Http,
        };
    }
    #[cfg(feature = "connect")]
    {
        if strip(content_type, b"application/connect+").is_some() {
            return Protocol::ConnectStreaming;
        }
        let is_connect =
            is(content_type, b"application/proto") || is(content_type, b"application/json");
        if is_connect && headers.contains_key("connect-protocol-version")
            || query_of_get().is_some_and(connect::is_call)
        {
            return Protocol::ConnectUnary;
        }
    }
    let _ = (headers, query_of_get);
    Protocol::Http
}

#[cfg(all(test, feature = "connect"))]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{detect, is_grpc_web, of_response};
    use crate::rpc::Protocol;

    #[test]
    fn protocols_are_told_apart_by_content_type_version_header_and_the_query_of_a_get() {
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
            ("Application/GRPC+Proto", None, Protocol::Grpc),
            ("APPLICATION/GRPC", None, Protocol::Grpc),
            ("application/grpc\t; charset=utf-8", None, Protocol::Grpc),
            (" application/grpc ;charset=utf-8", None, Protocol::Grpc),
            ("Application/Grpc-Web\t;a=b", None, Protocol::GrpcWeb),
            ("application/GRPC-WEB-TEXT", None, Protocol::GrpcWebText),
            ("Application/Connect+JSON", None, Protocol::ConnectStreaming),
            ("Application/Proto", Some(connect), Protocol::ConnectUnary),
            (
                "application/JSON\t;charset=utf-8",
                Some(connect),
                Protocol::ConnectUnary,
            ),
            ("Application/GRPCx", None, Protocol::Http),
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
            assert_eq!(detect(Some(&headers), || None), protocol, "{content_type}");
            let get = detect(Some(&headers), || Some("message=&connect=v1"));
            match protocol {
                // A content type says nothing of a request that has no content.
                Protocol::Http if !content_type.to_lowercase().contains("grpc") => {
                    assert_eq!(get, Protocol::ConnectUnary, "{content_type}");
                }
                _ => assert_eq!(get, protocol, "{content_type}"),
            }
        }
        let bare = HeaderMap::new();
        assert_eq!(detect(Some(&bare), || None), Protocol::Http);
        for (query, protocol) in [
            ("connect=v1", Protocol::ConnectUnary),
            ("message=a&encoding=json&connect=v1", Protocol::ConnectUnary),
            ("connect=v1&message=a", Protocol::ConnectUnary),
            ("", Protocol::Http),
            ("connect=v2", Protocol::Http),
            ("connect=v11", Protocol::Http),
            ("disconnect=v1", Protocol::Http),
            ("message=connect=v1", Protocol::Http),
        ] {
            assert_eq!(detect(Some(&bare), || Some(query)), protocol, "{query}");
        }
        assert_eq!(detect(None, || Some("connect=v1")), Protocol::Other);
    }

    #[test]
    fn a_response_speaks_its_protocol_in_any_letter_case() {
        for (asked, content_type, spoken) in [
            (
                Protocol::Grpc,
                "Application/GRPC+proto",
                Some(Protocol::Grpc),
            ),
            (Protocol::Grpc, "text/html", None),
            (
                Protocol::GrpcWeb,
                "APPLICATION/grpc-web",
                Some(Protocol::GrpcWeb),
            ),
            (
                Protocol::GrpcWeb,
                "application/gRPC-Web-Text\t;a=b",
                Some(Protocol::GrpcWebText),
            ),
            (
                Protocol::ConnectStreaming,
                "Application/Connect+Proto",
                Some(Protocol::ConnectStreaming),
            ),
        ] {
            let content_type = HeaderValue::from_static(content_type);
            assert_eq!(of_response(asked, Some(&content_type)), spoken);
        }
        assert!(is_grpc_web(Some(&HeaderValue::from_static(
            "Application/gRPC-Web+proto"
        ))));
    }
}
