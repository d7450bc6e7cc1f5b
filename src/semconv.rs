//! What OpenTelemetry's conventions say, for the tracers that follow them.

use std::borrow::Cow;

use http::{Method, Uri, uri::Scheme};

use crate::{
    Code, Ending, RpcInfo, Status,
    rpc::{Protocol, is_broken, is_http_error},
};
use crate::{method_names::OTHER, text::bounded};

/// How much of a path a span keeps, in bytes.
pub(crate) const PATH: usize = 1024;
/// How much of an HTTP method that is not known.
pub(crate) const HTTP_METHOD: usize = 64;

/// The protocol as `rpc.system.name` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    Grpc,
    Connect,
    Other,
}

impl System {
    /// `None` for plain HTTP.
    pub(crate) fn of(protocol: Protocol) -> Option<Self> {
        Some(match protocol {
            Protocol::Http => return None,
            Protocol::Grpc | Protocol::GrpcWeb | Protocol::GrpcWebText => Self::Grpc,
            Protocol::ConnectUnary | Protocol::ConnectStreaming => Self::Connect,
            Protocol::Other => Self::Other,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Connect => "connectrpc",
            Self::Other => OTHER,
        }
    }

    /// The name of a span whose method is not known.
    pub(crate) fn span_name(self) -> &'static str {
        match self {
            Self::Other => "rpc",
            _ => self.name(),
        }
    }

    /// How the protocol spells a code.
    pub(crate) fn code(self, code: Code) -> Option<&'static str> {
        Some(match (self, code) {
            (Self::Grpc | Self::Other, code) => code.as_str(),
            // Connect has no code for success, and its own spelling of the others.
            (Self::Connect, Code::Ok) => return None,
            (Self::Connect, Code::Cancelled) => "canceled",
            (Self::Connect, Code::Unknown) => "unknown",
            (Self::Connect, Code::InvalidArgument) => "invalid_argument",
            (Self::Connect, Code::DeadlineExceeded) => "deadline_exceeded",
            (Self::Connect, Code::NotFound) => "not_found",
            (Self::Connect, Code::AlreadyExists) => "already_exists",
            (Self::Connect, Code::PermissionDenied) => "permission_denied",
            (Self::Connect, Code::ResourceExhausted) => "resource_exhausted",
            (Self::Connect, Code::FailedPrecondition) => "failed_precondition",
            (Self::Connect, Code::Aborted) => "aborted",
            (Self::Connect, Code::OutOfRange) => "out_of_range",
            (Self::Connect, Code::Unimplemented) => "unimplemented",
            (Self::Connect, Code::Internal) => "internal",
            (Self::Connect, Code::Unavailable) => "unavailable",
            (Self::Connect, Code::DataLoss) => "data_loss",
            (Self::Connect, Code::Unauthenticated) => "unauthenticated",
        })
    }

    /// The code of an RPC that failed, as `error.type` has it.
    pub(crate) fn error_type(self, code: Code) -> &'static str {
        self.code(code).unwrap_or(OTHER)
    }
}

/// What `error.type` says of an RPC that failed; `None` if it did not.
pub(crate) fn error_type(rpc: &RpcInfo) -> Option<Cow<'static, str>> {
    let stats = rpc.stats();
    if !stats.failed() {
        return None;
    }
    let ending = stats.ending().map_or(OTHER, Ending::as_str);
    Some(match stats.status() {
        Some(Status::Grpc(code)) => {
            let system = System::of(rpc.protocol()).unwrap_or(System::Grpc);
            system.error_type(code).into()
        }
        Some(Status::Http(status))
            if is_http_error(rpc.role(), status) || !stats.ending().is_some_and(is_broken) =>
        {
            status.to_string().into()
        }
        Some(Status::Http(_)) | None => ending.into(),
    })
}

/// The HTTP status with which plain HTTP answered a request of gRPC: that of a proxy or of middleware.
pub(crate) fn http_answer(rpc: &RpcInfo) -> Option<u16> {
    let status = rpc.stats().http_status().filter(|status| *status != 200);
    status.filter(|_| rpc.protocol().is_grpc())
}

/// The methods of HTTP and PATCH and QUERY, which are known unless a user has a list.
pub(crate) const HTTP_METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY",
];

/// A method that is known: others are no label.
pub(crate) fn known_http_method(method: &Method, known: &[&'static str]) -> Option<&'static str> {
    known
        .iter()
        .copied()
        .find(|known| *known == method.as_str())
}

/// The method as the caller named it, if it is not known: the path.
pub(crate) fn original_method(rpc: &RpcInfo) -> &str {
    let path = rpc.path();
    let name = path.strip_prefix('/').filter(|name| !name.is_empty());
    bounded(name.unwrap_or(path), PATH)
}

/// The scheme of a request, `http` or `https`.
pub(crate) fn scheme(uri: Option<&Uri>) -> &'static str {
    match uri.and_then(Uri::scheme) {
        Some(scheme) if *scheme == Scheme::HTTPS => "https",
        // HTTP/1 does not say.
        _ => "http",
    }
}

/// The URL that a client asks for, without user, password and query, which may hold secrets.
pub(crate) fn full_url(uri: &Uri) -> Option<String> {
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let host = authority.as_str();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let path = bounded(uri.path(), PATH);
    Some(format!("{scheme}://{host}{path}"))
}
