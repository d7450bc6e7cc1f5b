use std::fmt;

use http::{Extensions, HeaderMap, Method};

use super::{RequestParts, Scopes, Tracer, contain, request::TracedRequest};
use crate::{
    protocol,
    rpc::{Protocol, Role, RpcInfo},
};

/// A request that may become a traced RPC, as [`Tracer::try_start`] sees it.
///
/// Its record is made when the first tracer starts, so that an RPC which all tracers decline costs
/// next to nothing.
pub struct Candidate<'a> {
    parts: RequestParts<'a>,
    role: Role,
    describe: &'a dyn Fn(&dyn TracedRequest) -> RpcInfo,
    started: Started,
}

/// What the tracers that started have made.
#[derive(Debug, Default)]
pub(crate) struct Started {
    pub(crate) rpc: Option<RpcInfo>,
    pub(crate) scopes: Scopes,
    pub(crate) wants_events: bool,
}

impl<'a> Candidate<'a> {
    pub(crate) fn new(
        request: &'a mut dyn TracedRequest,
        role: Role,
        describe: &'a dyn Fn(&dyn TracedRequest) -> RpcInfo,
    ) -> Self {
        Self {
            parts: RequestParts::new(request),
            role,
            describe,
            started: Started::default(),
        }
    }

    /// Starts a tracer on this request: makes the record if it is the first, calls its `start`, and
    /// takes note of the level, events and scope it wants. `None` where its `start` panicked.
    ///
    /// This is what [`Tracer::try_start`] does unless overridden.
    pub fn start<T: Tracer + ?Sized>(&mut self, tracer: &T) -> Option<T::State> {
        let Self {
            parts,
            describe,
            started,
            ..
        } = self;
        let rpc = started.rpc.get_or_insert_with(|| describe(parts.request()));
        let state = contain::<T, _>("start", || {
            rpc.stats().raise_level(tracer.level());
            started.wants_events |= tracer.wants_events();
            tracer.start(rpc, parts)
        })?;
        started.scopes.enter_with(tracer, Some(&state), rpc);
        Some(state)
    }

    /// Which side the layer stands on.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// What the request speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        protocol::detect(self.parts.request().headers())
    }

    /// The request's path, a peer's word on a server.
    #[must_use]
    pub fn path(&self) -> &str {
        self.parts.path()
    }

    /// The request's HTTP method.
    #[must_use]
    pub fn http_method(&self) -> Option<&Method> {
        self.parts.http_method()
    }

    /// The request's headers; empty for a request that has none.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.parts.headers()
    }

    /// The request's extensions.
    #[must_use]
    pub fn extensions(&self) -> Option<&Extensions> {
        self.parts.extensions()
    }

    pub(crate) fn into_started(self) -> Started {
        self.started
    }
}

impl fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("role", &self.role)
            .field("protocol", &self.protocol())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
