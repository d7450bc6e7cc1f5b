use std::{cell::Cell, fmt};

use http::{Extensions, HeaderMap, Method};

use super::{Describe, Known, RequestParts, Scopes, Tracer};
use crate::panics::contain;
use crate::{
    protocol,
    rpc::{Protocol, Role, RpcInfo, SampleKey},
};

/// A request that may become a traced RPC, as [`Tracer::try_start`] sees it.
///
/// Its record is made when the first tracer starts, so that an RPC which all tracers decline costs
/// next to nothing.
pub struct Candidate<'a> {
    parts: RequestParts<'a>,
    known: Known<'a>,
    started: &'a mut Started,
}

/// What the tracers that started have made.
#[derive(Debug, Default)]
pub(crate) struct Started {
    pub(crate) rpc: Option<RpcInfo>,
    /// The RPC's random number, where a tracer asked for it.
    pub(crate) draw: Cell<Option<SampleKey>>,
    pub(crate) scopes: Scopes,
    pub(crate) wants_events: bool,
}

impl<'a> Candidate<'a> {
    #[inline]
    pub(crate) fn new(
        request: &'a mut dyn Describe,
        known: Known<'a>,
        started: &'a mut Started,
    ) -> Self {
        Self {
            parts: RequestParts::new(request),
            known,
            started,
        }
    }

    /// Starts a tracer on this request: makes the record if it is the first, calls its `start`, and
    /// takes note of the level, events and scope it wants. `None` where one of these hooks panicked.
    ///
    /// This is what [`Tracer::try_start`] does unless overridden. Decline before it: what it has
    /// made, the record and the scope, is there for the whole RPC.
    #[inline]
    pub fn start<T: Tracer + ?Sized>(&mut self, tracer: &T) -> Option<T::State> {
        let Self {
            parts,
            known,
            started,
        } = self;
        let drawn = started.draw.get();
        let rpc = started
            .rpc
            .get_or_insert_with(|| parts.request_mut().describe(known, drawn));
        let level = contain::<T, _>("level", || tracer.level())?;
        let wants_events = contain::<T, _>("wants_events", || tracer.wants_events())?;
        rpc.stats().raise_level(level);
        started.wants_events |= wants_events;
        let state = contain::<T, _>("start", || tracer.start(rpc, parts))?;
        started.scopes.enter_with(tracer, Some(&state), rpc);
        Some(state)
    }

    /// Which side the layer stands on.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.started.rpc {
            Some(rpc) => rpc.role(),
            None => self.parts.request().role(self.known.told),
        }
    }

    /// What the request speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        let request = self.parts.request();
        protocol::detect(request.headers(), || request.query_of_get())
    }

    /// The request's path. On a server it is what the caller sent.
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

    /// Whether this is a call of gRPC's health service, `grpc.health.v1.Health`.
    #[must_use]
    pub fn is_health_check(&self) -> bool {
        self.path().starts_with("/grpc.health.v1.Health/")
    }

    /// Whether this is a call of gRPC's reflection service, in its version `v1` or `v1alpha`.
    #[must_use]
    pub fn is_reflection(&self) -> bool {
        let path = self.path();
        path.starts_with("/grpc.reflection.v1.ServerReflection/")
            || path.starts_with("/grpc.reflection.v1alpha.ServerReflection/")
    }

    /// The RPC's draw, a random number from 0 up to, and without, 1: a sampler takes part where it
    /// is below its ratio, as [`sample`](Tracer::sample) does.
    ///
    /// Drawn once per RPC, and inherited by the RPCs under it: by the attempts of a call, and by
    /// the calls a handler makes, also where the RPC itself was declined.
    ///
    /// ```
    /// use tower_tracer::{Tracer, on_finish};
    ///
    /// // All calls of one service, a hundredth of the others.
    /// let tracer = on_finish(|rpc| println!("{rpc:?}"))
    ///     .filter(|rpc| rpc.path().starts_with("/shop.Checkout/") || rpc.draw() < 0.01);
    /// # let _ = tower_tracer::TracerLayer::new(tracer);
    /// ```
    #[must_use]
    pub fn draw(&self) -> f64 {
        let draw = self.started.draw.get().unwrap_or_else(|| {
            let draw = match (&self.started.rpc, self.parts.request().rpc()) {
                (Some(rpc), _) | (None, Some(rpc)) => rpc.draw(),
                (None, None) => RpcInfo::current()
                    .map(|rpc| rpc.draw())
                    .or_else(SampleKey::of_declined)
                    .unwrap_or_else(SampleKey::new),
            };
            self.started.draw.set(Some(draw));
            draw
        });
        draw.as_f64()
    }
}

impl fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("role", &self.role())
            .field("protocol", &self.protocol())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
