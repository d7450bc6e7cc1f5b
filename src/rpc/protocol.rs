use std::fmt;

/// The protocol of the two sides, detected by the request's content type and version header, and
/// for a GET by its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// gRPC: `application/grpc`.
    Grpc,
    /// gRPC-Web in binary: `application/grpc-web`.
    GrpcWeb,
    /// gRPC-Web in base64: `application/grpc-web-text`.
    GrpcWebText,
    /// A unary call of Connect: `application/proto` or `application/json` with
    /// `connect-protocol-version`, or a GET with `connect=v1` in its query.
    ConnectUnary,
    /// A streaming call of Connect: `application/connect+…`.
    ConnectStreaming,
    /// Any other HTTP exchange.
    Http,
    /// A request that is not HTTP.
    Other,
}

impl Protocol {
    /// A short name, such as `grpc` or `http`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::GrpcWeb => "grpc_web",
            Self::GrpcWebText => "grpc_web_text",
            Self::ConnectUnary => "connect_unary",
            Self::ConnectStreaming => "connect_streaming",
            Self::Http => "http",
            Self::Other => "other",
        }
    }

    /// Whether this is gRPC, or gRPC-Web.
    #[must_use]
    pub const fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcWeb | Self::GrpcWebText)
    }

    /// Whether this is an RPC protocol over HTTP: gRPC, gRPC-Web or Connect.
    #[must_use]
    pub const fn is_rpc(self) -> bool {
        !matches!(self, Self::Http | Self::Other)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
