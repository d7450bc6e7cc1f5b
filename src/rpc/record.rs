use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use super::{
    Endpoints, Level, MethodKind, MethodPath, Protocol, Role, RpcInfo, Scope, Stats,
    internal::{HttpMethod, LazySampleKey, Tick},
};
use crate::time::Instant;

/// The record that an [`RpcInfo`] is a handle of.
pub(super) struct Record {
    pub(super) start: RpcStart,
    /// Set after the request carries this record and has returned the one it had.
    pub(super) parent: OnceLock<ParentLink>,
    /// Its tracers' scopes, if they have some.
    pub(super) scope: OnceLock<Weak<dyn Scope>>,
    /// The connection that it came on, if that is traced.
    #[cfg(feature = "connection")]
    pub(super) connection: OnceLock<crate::connection::OnConnection>,
    pub(super) stats: Stats,
    pub(super) sample_key: LazySampleKey,
}

/// What is known of an RPC when it starts.
#[derive(Debug)]
pub(crate) struct RpcStart {
    pub(crate) role: Role,
    pub(crate) protocol: Protocol,
    /// `None`: unknown.
    pub(crate) kind: Option<MethodKind>,
    pub(crate) path: MethodPath,
    pub(crate) http_method: Option<HttpMethod>,
    pub(crate) endpoints: Option<Arc<Endpoints>>,
    /// The addresses of the connection that it came on.
    pub(crate) sockets: Sockets,
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Option<Instant>,
    /// Which attempt it is, if the request says so.
    pub(crate) attempt: Option<u32>,
}

/// The addresses of a connection.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
}

/// The parent of a record, and which attempt of it the record is.
pub(super) struct ParentLink {
    pub(super) rpc: RpcInfo,
    /// `None` if the parent is the record of another request, which this one was made for.
    pub(super) attempt: Option<u32>,
    /// How many ancestors the record has.
    pub(super) ancestors: u8,
}

/// The most ancestors that a record keeps. A request that is forwarded without end, as by a proxy
/// that feeds itself, would otherwise hold all of its records, and drop them recursively.
pub(super) const MOST_ANCESTORS: u8 = 64;

impl Record {
    /// A record of no RPC.
    pub(super) fn blank() -> Self {
        Self {
            start: RpcStart {
                role: Role::Client,
                protocol: Protocol::Other,
                kind: None,
                path: MethodPath::from(""),
                http_method: None,
                endpoints: None,
                sockets: Sockets::default(),
                timeout: None,
                deadline: None,
                attempt: None,
            },
            parent: OnceLock::new(),
            scope: OnceLock::new(),
            #[cfg(feature = "connection")]
            connection: OnceLock::new(),
            stats: Stats::blank(),
            sample_key: LazySampleKey::default(),
        }
    }

    /// Makes it the record of an RPC that starts now.
    #[inline]
    pub(super) fn begin(&mut self, known: RpcStart, level: Level, now: Tick) {
        let Self {
            start,
            stats,
            sample_key,
            // Empty since `clear`.
            parent: _,
            scope: _,
            #[cfg(feature = "connection")]
                connection: _,
        } = self;
        stats.begin(known.role, level, now);
        *start = known;
        *sample_key = LazySampleKey::default();
    }

    /// Releases what it holds. [`begin`](Self::begin) overwrites the rest.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.start.path = MethodPath::from("");
        self.start.endpoints = None;
        self.parent.take();
        self.scope.take();
        #[cfg(feature = "connection")]
        self.connection.take();
        self.stats.clear();
    }
}
