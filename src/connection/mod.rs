#![doc = include_str!("connection.md")]

mod connector;
mod counters;
mod end;
#[cfg(feature = "h2-frames")]
mod frames;
mod incoming;
mod info;
mod io;
mod rpcs;
mod tracer;

#[cfg(feature = "h2-frames")]
#[cfg_attr(docsrs, doc(cfg(feature = "h2-frames")))]
pub use self::frames::{GoAway, H2Figures};
pub(crate) use self::rpcs::{OnConnection, find};
pub use self::{
    connector::{ConnectFuture, Connector},
    counters::Transfer,
    end::ConnectionEnd,
    incoming::{Acceptor, Incoming},
    info::ConnectionInfo,
    io::ConnectionIo,
    tracer::{BoxConnectionTracer, BoxState, ConnectionTracer},
};
