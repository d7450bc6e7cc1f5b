use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use http::Method;

use super::{
    Endpoints, Level, MethodPath, Protocol, Role, RpcInfo, Scope, Stats,
    internal::{HttpMethod, LazySampleKey, Tick},
};

/// What an [`RpcInfo`] is a handle of.
pub(super) struct Record {
    pub(super) description: Description,
    pub(super) http_method: Option<HttpMethod>,
    pub(super) sockets: Sockets,
    /// Known once the request carries this record and has given the one it had.
    pub(super) above: OnceLock<ParentLink>,
    /// Its tracers' scopes, where they have some.
    pub(super) scope: OnceLock<Weak<dyn Scope>>,
    pub(super) stats: Stats,
    pub(super) draw: LazySampleKey,
}

/// What is known of an RPC when it starts.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) role: Role,
    pub(crate) protocol: Protocol,
    pub(crate) path: MethodPath,
    pub(crate) endpoints: Option<Arc<Endpoints>>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Option<Instant>,
    /// Which attempt it is, where the request says so.
    pub(crate) attempt: Option<u32>,
}

/// The addresses of the connection that an RPC came on.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
}

/// The record an RPC stands under, and which attempt of that it is.
pub(super) struct ParentLink {
    pub(super) rpc: RpcInfo,
    /// `None` where that is the record of another request, which this one was made for.
    pub(super) attempt: Option<u32>,
    /// How many records can be reached from here by going up.
    pub(super) ancestors: u8,
}

/// The most ancestors that a record keeps. A request that is passed on without end, as by a proxy
/// that feeds itself, would hold all of its records else, and drop them one within the other.
pub(super) const MOST_ANCESTORS: u8 = 64;

impl Record {
    /// Of no RPC yet.
    pub(super) fn blank() -> Self {
        Self {
            description: Description {
                role: Role::Client,
                protocol: Protocol::Other,
                path: MethodPath::from(""),
                endpoints: None,
                timeout: None,
                deadline: None,
                attempt: None,
            },
            http_method: None,
            sockets: Sockets::default(),
            above: OnceLock::new(),
            scope: OnceLock::new(),
            stats: Stats::blank(),
            draw: LazySampleKey::default(),
        }
    }

    /// Makes it the record of an RPC that begins at `start`.
    #[inline]
    pub(super) fn begin(
        &mut self,
        known: Description,
        method: Option<&Method>,
        level: Level,
        start: Tick,
        from: Sockets,
    ) {
        let Self {
            description,
            http_method,
            sockets,
            stats,
            draw,
            // Empty: nothing is under anything yet.
            above: _,
            scope: _,
        } = self;
        stats.begin(known.role, level, start);
        *description = known;
        *http_method = method.map(HttpMethod::new);
        *sockets = from;
        *draw = LazySampleKey::default();
    }

    /// Lets go of what it holds; all the rest is overwritten by [`begin`](Self::begin).
    #[inline]
    pub(super) fn clear(&mut self) {
        self.description.path = MethodPath::from("");
        self.description.endpoints = None;
        self.above.take();
        self.scope.take();
        self.stats.clear();
    }
}
