use std::{fmt, sync::Arc};

use super::{Code, Ending, Role, RpcInfo, Status};
use crate::panics::contain;

/// Decides which RPCs count as failures: what [`Stats::failed`](crate::Stats::failed) says.
///
/// The default is the rule of OpenTelemetry's conventions for
/// [gRPC](https://opentelemetry.io/docs/specs/semconv/rpc/grpc/) and
/// [HTTP](https://opentelemetry.io/docs/specs/semconv/http/http-spans/):
///
/// | | client | server |
/// | --- | --- | --- |
/// | gRPC, gRPC-Web, Connect | every code but OK | UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS |
/// | plain HTTP | 400 and above | 500 and above |
/// | HTTP without a response, or whose body failed | a failure | a failure |
/// | HTTP that was cancelled | no failure | no failure |
/// | [cancelled with its parent](crate::Stats::cancelled_with_parent) | no failure | |
///
/// [`client`](Self::client) and [`server`](Self::server) replace the codes of one side.
/// [`from_fn`](Self::from_fn) replaces the rule.
///
/// ```
/// use tower_tracer::{Code, RpcInfo, TracerLayer, rpc::Failures};
///
/// // The clients of this service look for items that may not exist, and give up early.
/// let by_code = Failures::new().client(Code::ALL.into_iter().filter(|code| {
///     !matches!(code, Code::Ok | Code::NotFound | Code::Cancelled)
/// }));
///
/// // A stream that always runs into its deadline. All other RPCs follow the rule.
/// let rule = Failures::new();
/// let by_record = Failures::from_fn(move |rpc: &RpcInfo| {
///     rpc.full_method() != Some("shop.Shop/Heartbeat") && rule.is_failure(rpc)
/// });
///
/// let client = TracerLayer::new(()).client().failures(by_code);
/// let server = TracerLayer::new(()).server().failures(by_record);
/// # let _ = (client, server);
/// ```
#[derive(Clone)]
pub struct Failures(Rule);

#[derive(Clone)]
enum Rule {
    Codes { client: Codes, server: Codes },
    Function(Arc<dyn Fn(&RpcInfo) -> bool + Send + Sync>),
}

/// A set of codes: one bit for each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Codes(u32);

impl Codes {
    const CLIENT: Self = Self(!(1 << Code::Ok as u32));
    const SERVER: Self = Self(
        1 << Code::Unknown as u32
            | 1 << Code::DeadlineExceeded as u32
            | 1 << Code::Unimplemented as u32
            | 1 << Code::Internal as u32
            | 1 << Code::Unavailable as u32
            | 1 << Code::DataLoss as u32,
    );

    fn contains(self, code: Code) -> bool {
        self.0 & (1 << code as u32) != 0
    }
}

impl FromIterator<Code> for Codes {
    fn from_iter<I: IntoIterator<Item = Code>>(codes: I) -> Self {
        let bits = codes.into_iter().map(|code| 1 << code as u32);
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

impl Failures {
    /// The rule of OpenTelemetry's conventions.
    #[must_use]
    pub fn new() -> Self {
        Self(Rule::Codes {
            client: Codes::CLIENT,
            server: Codes::SERVER,
        })
    }

    /// A client's RPCs with these codes are failures, and no others. It replaces a function.
    #[must_use]
    pub fn client(self, codes: impl IntoIterator<Item = Code>) -> Self {
        let server = match self.0 {
            Rule::Codes { server, .. } => server,
            Rule::Function(_) => Codes::SERVER,
        };
        Self(Rule::Codes {
            client: codes.into_iter().collect(),
            server,
        })
    }

    /// A server's RPCs with these codes are failures, and no others. It replaces a function.
    #[must_use]
    pub fn server(self, codes: impl IntoIterator<Item = Code>) -> Self {
        let client = match self.0 {
            Rule::Codes { client, .. } => client,
            Rule::Function(_) => Codes::CLIENT,
        };
        Self(Rule::Codes {
            client,
            server: codes.into_iter().collect(),
        })
    }

    /// Calls this once at the end of each RPC, before its tracers finish. Status, ending, duration and
    /// tags are known, [`Stats::failed`](crate::Stats::failed) follows the default rule.
    ///
    /// # Panics
    ///
    /// A panic of the function is [counted](crate::tracer::contained_panics), and the RPC follows the
    /// default rule.
    #[must_use]
    pub fn from_fn(is_failure: impl Fn(&RpcInfo) -> bool + Send + Sync + 'static) -> Self {
        Self(Rule::Function(Arc::new(is_failure)))
    }

    /// Whether an RPC is a failure by these. `false` while it runs.
    #[must_use]
    pub fn is_failure(&self, rpc: &RpcInfo) -> bool {
        let stats = rpc.stats();
        if stats.ending().is_none() {
            return false;
        }
        let default = || stats.fails_by_default();
        match &self.0 {
            Rule::Codes { .. } if stats.cancelled_with_parent() => false,
            Rule::Codes { client, server } => match (stats.code(), rpc.role()) {
                (Some(code), Role::Client) => client.contains(code),
                (Some(code), Role::Server) => server.contains(code),
                (None, _) => default(),
            },
            Rule::Function(function) => {
                contain::<Self, _>("failures", || function(rpc)).unwrap_or_else(default)
            }
        }
    }
}

impl Default for Failures {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Codes { client, server } => {
                let of = |codes: Codes| Code::ALL.into_iter().filter(move |c| codes.contains(*c));
                let (client, server) = (of(*client), of(*server));
                f.debug_struct("Failures")
                    .field("client", &client.collect::<Vec<_>>())
                    .field("server", &server.collect::<Vec<_>>())
                    .finish()
            }
            Rule::Function(_) => f.write_str("Failures(function)"),
        }
    }
}

/// The default rule.
pub(super) fn is_failure(role: Role, status: Option<Status>, ending: Ending) -> bool {
    let codes = match role {
        Role::Client => Codes::CLIENT,
        Role::Server => Codes::SERVER,
    };
    match status {
        Some(Status::Grpc(code)) => codes.contains(code),
        Some(Status::Http(status)) => is_http_error(role, status) || is_broken(ending),
        None => is_broken(ending),
    }
}

/// Whether an HTTP status is an error on this side.
#[inline]
pub(crate) fn is_http_error(role: Role, status: u16) -> bool {
    status
        >= match role {
            Role::Client => 400,
            Role::Server => 500,
        }
}

/// Whether an RPC ended without its response, or within it. One that was cancelled is not broken: the
/// caller has seen enough.
pub(crate) fn is_broken(ending: Ending) -> bool {
    match ending {
        Ending::Trailers
        | Ending::HeadersOnly
        | Ending::BodyEnd
        | Ending::Response
        | Ending::Cancelled => false,
        Ending::ServiceError
        | Ending::BodyError
        | Ending::Reset
        | Ending::Deadline
        | Ending::Panic => true,
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Ending, Role, Status, is_failure};

    #[test]
    fn default_rule_is_that_of_the_conventions() {
        let of_server = Code::ALL
            .into_iter()
            .filter(|code| is_failure(Role::Server, Some(Status::Grpc(*code)), Ending::Trailers));
        assert_eq!(
            of_server.collect::<Vec<_>>(),
            [
                Code::Unknown,
                Code::DeadlineExceeded,
                Code::Unimplemented,
                Code::Internal,
                Code::Unavailable,
                Code::DataLoss
            ]
        );
        for code in Code::ALL {
            let failed = is_failure(Role::Client, Some(Status::Grpc(code)), Ending::Trailers);
            assert_eq!(failed, code != Code::Ok);
        }
        for (role, status, ending, expected) in [
            (Role::Client, Some(399), Ending::BodyEnd, false),
            (Role::Client, Some(400), Ending::BodyEnd, true),
            (Role::Server, Some(499), Ending::BodyEnd, false),
            (Role::Server, Some(500), Ending::BodyEnd, true),
            (Role::Client, Some(200), Ending::Reset, true),
            (Role::Server, Some(200), Ending::Deadline, true),
            (Role::Client, None, Ending::ServiceError, true),
            (Role::Client, None, Ending::Cancelled, false),
            (Role::Server, None, Ending::Cancelled, false),
            (Role::Server, None, Ending::Panic, true),
            (Role::Client, None, Ending::Response, false),
        ] {
            let failed = is_failure(role, status.map(Status::Http), ending);
            assert_eq!(failed, expected, "{role:?} {status:?} {ending:?}");
        }
    }
}
