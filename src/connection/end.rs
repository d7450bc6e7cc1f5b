//! How a connection ended.

use std::{fmt, io};

/// How a connection ended: the first reason that was seen.
///
/// ```
/// use tower_tracer::connection::ConnectionEnd;
///
/// let end = ConnectionEnd::Error(std::io::ErrorKind::ConnectionReset);
/// assert_eq!(end.as_str(), "error");
/// assert_eq!(end.to_string(), "error: connection reset");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionEnd {
    /// The peer closed it.
    PeerClosed,
    /// This side closed it: a shutdown, `max_connection_age`, a keepalive that was not answered, or a
    /// drop. Only the transport knows which.
    Closed,
    /// A read or a write failed.
    Error(io::ErrorKind),
    /// On a server: it was dropped before it was [ready](super::ConnectionTracer::ready). Its TLS handshake
    /// failed or timed out, the peer left, or the server stopped meanwhile.
    HandshakeFailed,
    /// On a client: the connector failed.
    ConnectFailed(io::ErrorKind),
    /// On a client: the attempt was dropped, as by a timeout, before it had a result.
    Abandoned,
}

impl ConnectionEnd {
    /// Its name, for a label: `peer_closed`, `closed`, `error`, `handshake_failed`, `connect_failed`,
    /// `abandoned`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::Closed => "closed",
            Self::Error(_) => "error",
            Self::HandshakeFailed => "handshake_failed",
            Self::ConnectFailed(_) => "connect_failed",
            Self::Abandoned => "abandoned",
        }
    }

    /// The kind of the error, if there was one.
    #[must_use]
    pub fn error_kind(self) -> Option<io::ErrorKind> {
        match self {
            Self::Error(kind) | Self::ConnectFailed(kind) => Some(kind),
            _ => None,
        }
    }

    /// Whether something went wrong: an error, a failed handshake, or a failed attempt to connect. An attempt
    /// that was abandoned is none: it counts as neither, as in gRFC A94.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Self::Error(_) | Self::HandshakeFailed | Self::ConnectFailed(_)
        )
    }
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self.error_kind() {
            Some(kind) => write!(f, ": {kind}"),
            None => Ok(()),
        }
    }
}
