use std::fmt;

/// Which sides of a method stream: known from a descriptor set, see
/// [`TracerLayer::methods`](crate::TracerLayer::methods).
///
/// ```
/// use tower_tracer::rpc::MethodKind;
///
/// assert_eq!(MethodKind::ServerStream.as_str(), "server_stream");
/// assert!(MethodKind::BidiStream.client_streams() && MethodKind::BidiStream.server_streams());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MethodKind {
    /// One message each way.
    Unary,
    /// Many messages to the server, one back.
    ClientStream,
    /// One message to the server, many back.
    ServerStream,
    /// Many messages each way.
    BidiStream,
}

impl MethodKind {
    #[must_use]
    pub(crate) fn new(client_streams: bool, server_streams: bool) -> Self {
        match (client_streams, server_streams) {
            (false, false) => Self::Unary,
            (true, false) => Self::ClientStream,
            (false, true) => Self::ServerStream,
            (true, true) => Self::BidiStream,
        }
    }

    /// `unary`, `client_stream`, `server_stream` or `bidi_stream`, as the metrics of go-grpc-prometheus
    /// have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ClientStream => "client_stream",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }

    /// Whether the client may send more than one message.
    #[must_use]
    pub fn client_streams(self) -> bool {
        matches!(self, Self::ClientStream | Self::BidiStream)
    }

    /// Whether the server may send more than one message.
    #[must_use]
    pub fn server_streams(self) -> bool {
        matches!(self, Self::ServerStream | Self::BidiStream)
    }
}

impl fmt::Display for MethodKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
