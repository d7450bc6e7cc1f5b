//! What the series are called, and which labels they have.

use ::metrics::{Label, Unit};

use crate::{Code, Role, Status, labels::code, rpc::MethodKind};

/// The names of families and labels, for [`MetricsTracer::names`](super::MetricsTracer::names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Names {
    /// The crate's own: see the [module](super).
    #[default]
    Rpc,
    /// Those of [go-grpc-prometheus](https://github.com/grpc-ecosystem/go-grpc-middleware), which many
    /// boards query:
    ///
    /// | name | labels |
    /// | --- | --- |
    /// | `grpc_{server,client}_started_total` | `grpc_type`, `grpc_service`, `grpc_method` |
    /// | `grpc_{server,client}_handled_total` | the same and `grpc_code`, such as `NotFound` |
    /// | `grpc_{server,client}_msg_received_total`, `…_msg_sent_total` | as `started` |
    /// | `grpc_{server,client}_handling_seconds` | as `started` |
    ///
    /// `grpc_type` is `unary`, `client_stream`, `server_stream` or `bidi_stream` for methods of a
    /// [descriptor set](crate::methods::KnownMethods::from_descriptor_set), which the tracer or the
    /// [layer](crate::TracerLayer::methods) has, and `unknown` for others. Plain HTTP is not counted.
    GrpcPrometheus,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Started,
    Handled,
    Failed,
    InFlight,
    Duration,
    SentMessages,
    SentBytes,
    ReceivedMessages,
    ReceivedBytes,
    #[cfg(feature = "connection")]
    Connection(ConnectionFamily),
}

/// What a metric is to the facade.
pub(super) enum Shape {
    Counter,
    Gauge,
    Histogram,
}

/// One metric of connections.
#[cfg(feature = "connection")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionFamily {
    Opened,
    Closed,
    Open,
    Setup,
    Lifetime,
    Sent,
    Received,
}

#[cfg(feature = "connection")]
impl ConnectionFamily {
    fn name(self) -> &'static str {
        match self {
            Self::Opened => "rpc_connections_opened_total",
            Self::Closed => "rpc_connections_closed_total",
            Self::Open => "rpc_connections_open",
            Self::Setup => "rpc_connection_setup_seconds",
            Self::Lifetime => "rpc_connection_lifetime_seconds",
            Self::Sent => "rpc_connection_sent_bytes_total",
            Self::Received => "rpc_connection_received_bytes_total",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::Opened => "Connections that were accepted, and attempts to connect.",
            Self::Closed => "Connections and attempts that ended, by the reason.",
            Self::Open => "Connections that are ready and not closed.",
            Self::Setup => "Time until a connection was ready: to connect, or its TLS handshake.",
            Self::Lifetime => {
                "Time from the opening of connections that were ready to their close."
            }
            Self::Sent => "Bytes that this side sent on connections that are closed.",
            Self::Received => "Bytes that this side received on connections that are closed.",
        }
    }
}

impl Family {
    pub(super) const ALL: &[Self] = &[
        Self::Started,
        Self::Handled,
        Self::Failed,
        Self::InFlight,
        Self::Duration,
        Self::SentMessages,
        Self::SentBytes,
        Self::ReceivedMessages,
        Self::ReceivedBytes,
        #[cfg(feature = "connection")]
        Self::Connection(ConnectionFamily::Opened),
        #[cfg(feature = "connection")]
        Self::Connection(ConnectionFamily::Closed),
        #[cfg(feature = "connection")]
        Self::Connection(ConnectionFamily::Open),
        #[cfg(feature = "connection")]
        Self::Connection(ConnectionFamily::Setup),
        #[cfg(feature = "connection")]
        Self::Connection(ConnectionFamily::Lifetime),
        #[cfg(feature = "connection")]
        Self::Connection(ConnectionFamily::Sent),
        #[cfg(feature = "connection")]
        Self::Connection(ConnectionFamily::Received),
    ];

    pub(super) fn shape(self) -> Shape {
        match self {
            Self::InFlight => Shape::Gauge,
            Self::Duration => Shape::Histogram,
            #[cfg(feature = "connection")]
            Self::Connection(ConnectionFamily::Open) => Shape::Gauge,
            #[cfg(feature = "connection")]
            Self::Connection(ConnectionFamily::Setup | ConnectionFamily::Lifetime) => {
                Shape::Histogram
            }
            _ => Shape::Counter,
        }
    }

    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Duration => Unit::Seconds,
            Self::SentBytes | Self::ReceivedBytes => Unit::Bytes,
            #[cfg(feature = "connection")]
            Self::Connection(ConnectionFamily::Setup | ConnectionFamily::Lifetime) => Unit::Seconds,
            #[cfg(feature = "connection")]
            Self::Connection(ConnectionFamily::Sent | ConnectionFamily::Received) => Unit::Bytes,
            _ => Unit::Count,
        }
    }

    /// What a scrape says of it.
    pub(super) fn help(self) -> &'static str {
        match self {
            Self::Started => "RPCs that started.",
            Self::Handled => "RPCs that are over, however they ended.",
            Self::Failed => "RPCs that are over and failed.",
            Self::InFlight => "RPCs that started and are not over.",
            Self::Duration => "Time from start to end of RPCs that are over.",
            Self::SentMessages => "Messages that this side sent.",
            Self::SentBytes => "Bytes of the messages that this side sent.",
            Self::ReceivedMessages => "Messages that this side received.",
            Self::ReceivedBytes => "Bytes of the messages that this side received.",
            #[cfg(feature = "connection")]
            Self::Connection(family) => family.help(),
        }
    }
}

impl Names {
    /// The name of a family, without a prefix; `None` if these names do not have it.
    pub(super) fn of(self, family: Family, role: Role) -> Option<&'static str> {
        Some(match (self, family, role) {
            (Self::Rpc, Family::Started, _) => "rpc_started_total",
            (Self::Rpc, Family::Handled, _) => "rpc_handled_total",
            (Self::Rpc, Family::Failed, _) => "rpc_failed_total",
            (Self::Rpc, Family::InFlight, _) => "rpc_in_flight",
            (Self::Rpc, Family::Duration, _) => "rpc_duration_seconds",
            (Self::Rpc, Family::SentMessages, _) => "rpc_sent_messages_total",
            (Self::Rpc, Family::SentBytes, _) => "rpc_sent_message_bytes_total",
            (Self::Rpc, Family::ReceivedMessages, _) => "rpc_received_messages_total",
            (Self::Rpc, Family::ReceivedBytes, _) => "rpc_received_message_bytes_total",
            (Self::GrpcPrometheus, Family::Started, Role::Server) => "grpc_server_started_total",
            (Self::GrpcPrometheus, Family::Started, Role::Client) => "grpc_client_started_total",
            (Self::GrpcPrometheus, Family::Handled, Role::Server) => "grpc_server_handled_total",
            (Self::GrpcPrometheus, Family::Handled, Role::Client) => "grpc_client_handled_total",
            (Self::GrpcPrometheus, Family::Duration, Role::Server) => {
                "grpc_server_handling_seconds"
            }
            (Self::GrpcPrometheus, Family::Duration, Role::Client) => {
                "grpc_client_handling_seconds"
            }
            (Self::GrpcPrometheus, Family::SentMessages, Role::Server) => {
                "grpc_server_msg_sent_total"
            }
            (Self::GrpcPrometheus, Family::SentMessages, Role::Client) => {
                "grpc_client_msg_sent_total"
            }
            (Self::GrpcPrometheus, Family::ReceivedMessages, Role::Server) => {
                "grpc_server_msg_received_total"
            }
            (Self::GrpcPrometheus, Family::ReceivedMessages, Role::Client) => {
                "grpc_client_msg_received_total"
            }
            #[cfg(feature = "connection")]
            (_, Family::Connection(family), _) => family.name(),
            (
                Self::GrpcPrometheus,
                Family::Failed | Family::InFlight | Family::SentBytes | Family::ReceivedBytes,
                _,
            ) => return None,
        })
    }

    /// The labels that all families of a method have.
    pub(super) fn of_method(
        self,
        role: Role,
        kind: Option<MethodKind>,
        service: &str,
        method: &str,
    ) -> Vec<Label> {
        let (service, method) = (service.to_owned(), method.to_owned());
        match self {
            Self::Rpc => vec![
                Label::from_static_parts("role", role.as_str()),
                Label::new("rpc_service", service),
                Label::new("rpc_method", method),
            ],
            Self::GrpcPrometheus => vec![
                Label::from_static_parts("grpc_type", kind.map_or("unknown", MethodKind::as_str)),
                Label::new("grpc_service", service),
                Label::new("grpc_method", method),
            ],
        }
    }

    /// The label of the code.
    pub(super) fn code(self, status: Option<Status>) -> Label {
        match (self, status) {
            (Self::GrpcPrometheus, Some(Status::Grpc(code))) => {
                Label::from_static_parts("grpc_code", go_name(code))
            }
            (Self::GrpcPrometheus, _) => Label::from_static_parts("grpc_code", "Unknown"),
            (Self::Rpc, status) => Label::new("code", code(status)),
        }
    }

    pub(super) fn has_ending(self) -> bool {
        self == Self::Rpc
    }

    pub(super) fn duration_has_code(self) -> bool {
        self == Self::Rpc
    }

    pub(super) fn has_http(self) -> bool {
        self == Self::Rpc
    }
}

/// A code as grpc-go prints it.
fn go_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
