//! The parts of a record: an RPC's protocol, endpoints, traffic, events and status.

pub(crate) mod ending;
mod endpoint;
pub(crate) mod event;
mod failures;
pub(crate) mod info;
pub(crate) mod internal;
pub(crate) mod level;
mod method_kind;
mod path;
mod print;
mod protocol;
mod record;
pub(crate) mod role;
pub(crate) mod scope;
pub(crate) mod stats;
pub(crate) mod status;
mod target;
mod traffic;

pub(crate) use ending::{Ending, Outcome};
pub(crate) use endpoint::Endpoints;
pub use endpoint::{Address, Endpoint, EndpointRef};
pub(crate) use event::Event;
pub use event::{RecordedEvent, Severity};
pub use failures::Failures;
#[cfg(any(feature = "otel", feature = "tracing"))]
pub(crate) use failures::{is_broken, is_http_error};
pub(crate) use info::RpcInfo;
#[cfg(feature = "connection")]
pub(crate) use internal::AtomicOffset;
pub(crate) use internal::{HttpMethod, SampleKey, Slot, Tick, clock};
pub(crate) use level::{AtomicLevel, Level};
pub use method_kind::MethodKind;
pub use path::MethodPath;
pub use protocol::Protocol;
pub(crate) use record::{RpcStart, Sockets};
pub(crate) use role::Role;
pub(crate) use scope::Scope;
pub(crate) use stats::Stats;
pub(crate) use status::{Code, Status};
pub use target::{InvalidTarget, Target};
pub use traffic::Traffic;
pub(crate) use traffic::{Direction, Tally, TrafficCell};
