//! The record of one RPC: what it is, what happened to it, how it ended.

pub(crate) mod clock;
mod current;
mod draw;
mod endpoint;
mod event;
mod extra;
mod http_method;
mod info;
mod level;
mod moment;
mod path;
mod pool;
mod print;
mod scope;
mod stats;
mod status;
mod traffic;

pub(crate) use clock::Reading;
pub(crate) use current::Slot;
pub(crate) use draw::Draw;
pub(crate) use endpoint::Endpoints;
pub use endpoint::{Address, Endpoint, EndpointRef};
pub use event::{Event, EventStatus, Recorded};
pub(crate) use info::{Description, Sockets};
pub use info::{Protocol, Role, RpcInfo};
pub(crate) use level::AtomicLevel;
pub use level::Level;
pub use path::MethodPath;
pub use scope::Scope;
pub(crate) use stats::Outcome;
pub use stats::{Ending, Stats};
pub use status::{Code, Status};
pub use traffic::Traffic;
pub(crate) use traffic::{Direction, TrafficCell};
