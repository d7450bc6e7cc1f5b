#![doc = include_str!("metrics.md")]

mod config;
#[cfg(feature = "connection")]
mod connections;
mod handles;
mod labels;
mod names;
mod registry;

use std::{
    fmt,
    hash::Hasher as _,
    sync::{Arc, OnceLock},
};

#[cfg(feature = "connection")]
pub use self::connections::OpenConnection;
use self::handles::{Counted, Method};
pub use self::{config::MetricsTracer, names::Names};
use crate::{
    Code, Ending, RequestParts, Role, RpcInfo, Status, Tracer,
    method_names::{OTHER, generated, is_answered},
    name_hasher::NameHasher,
    rpc::Protocol,
};

/// Bounds for `rpc_duration_seconds`, in seconds: those of gRPC's own latency metrics
/// ([A66](https://github.com/grpc/proposal/blob/master/A66-otel-stats.md)) without the bound 0.
pub const DURATION_BUCKETS: [f64; 40] = crate::buckets::SECONDS;

/// Room for the methods of generated clients; those that find none are `_OTHER`. No program comes
/// near.
const GENERATED: usize = 1024;

/// How many places are tried for one of them.
const TRIES: usize = 64;

/// A method of a generated client.
struct Generated {
    place: Place,
    handles: Arc<Method>,
}

/// Where the two names of a generated client's method stand in the program: quicker to compare than
/// the names.
type Place = [(usize, usize); 2];

/// The handles of one method on each side, taken when first needed.
type BothRoles = OfRole<OnceLock<Arc<Method>>>;

/// One on each side.
#[derive(Default)]
struct OfRole<V> {
    client: V,
    server: V,
}

impl<V> OfRole<V> {
    fn of(&self, role: Role) -> &V {
        match role {
            Role::Client => &self.client,
            Role::Server => &self.server,
        }
    }
}

impl MetricsTracer {
    /// The handles for an RPC, and whether its end may show that the method is another one.
    fn method(&self, rpc: &RpcInfo, request: &RequestParts<'_>) -> (Arc<Method>, bool) {
        let generated = generated(rpc, request);
        if let Some((service, method)) = generated
            && let Some(found) = self.generated(service, method, rpc)
        {
            return (Arc::clone(found), false);
        }
        // A path of plain HTTP names no method, whatever it looks like.
        let known = match rpc.protocol() {
            Protocol::Http => None,
            _ => {
                let path = rpc.path();
                let whole = path
                    .strip_prefix('/')
                    .and_then(|m| self.known.get_key_value(m));
                whole.or_else(|| self.known.get_key_value(self.listed.as_ref()?.find(path)?))
            }
        };
        let both = known.map_or(&self.unknown, |(_, both)| both);
        let may_learn = self.listed.is_none() && generated.is_none();
        let may_learn = may_learn && rpc.protocol() != Protocol::Http;
        let method = may_learn.then(|| rpc.full_method()).flatten();
        if let Some(method) = method
            && let Some(both) = self.learned.get(method)
        {
            return (
                Arc::clone(self.of_role(&both, rpc.role(), Some(method), Some(rpc))),
                false,
            );
        }
        let name = known.map(|(name, _)| &**name);
        (
            Arc::clone(self.of_role(both, rpc.role(), name, Some(rpc))),
            method.is_some(),
        )
    }

    /// The handles of an undecided RPC that is over.
    fn decide(&self, rpc: &RpcInfo) -> Option<Arc<Method>> {
        let method = rpc.full_method().filter(|_| is_answered(rpc))?;
        let both = self.learned.learn(method)?;
        Some(Arc::clone(self.of_role(
            &both,
            rpc.role(),
            Some(method),
            Some(rpc),
        )))
    }

    fn of_role<'a>(
        &self,
        both: &'a BothRoles,
        role: Role,
        full_method: Option<&str>,
        rpc: Option<&RpcInfo>,
    ) -> &'a Arc<Method> {
        both.of(role).get_or_init(|| {
            let names = full_method.and_then(|name| name.split_once('/'));
            let (service, method) = names.unwrap_or((OTHER, OTHER));
            Arc::new(self.register(role, service, method, rpc))
        })
    }

    #[cold]
    fn register(&self, role: Role, service: &str, method: &str, rpc: Option<&RpcInfo>) -> Method {
        let of_record = || rpc.filter(|_| method != OTHER)?.method_kind();
        let listed = self.listed.as_ref();
        let kind = listed.and_then(|listed| listed.kind(&format!("{service}/{method}")));
        Method::register(
            &self.registry,
            role,
            kind.or_else(of_record),
            service,
            method,
        )
    }

    /// Makes the series of the listed methods on one side, which has a recorder.
    fn prepare(&self, role: Role) {
        self.prepared.of(role).get_or_init(|| {
            for (name, both) in &self.known {
                let method = self.of_role(both, role, Some(name), None);
                if self.labels.is_some() {
                    continue;
                }
                let ended = method.ended(&self.registry);
                for code in Code::ALL {
                    let outcome = ended.outcome(Some(Status::Grpc(code)), &self.registry);
                    let own = match code {
                        Code::Cancelled => Some(Ending::Cancelled),
                        Code::DeadlineExceeded => Some(Ending::Deadline),
                        Code::Unknown => Some(Ending::Panic),
                        _ => None,
                    };
                    let usual = [Ending::Trailers, Ending::HeadersOnly];
                    for ending in usual.into_iter().chain(own) {
                        outcome.handled((ending as usize, ending.as_str()), &self.registry);
                    }
                }
            }
        });
    }

    /// The handles of a method of a generated client; `None` where there are too many.
    fn generated(&self, service: &str, method: &str, rpc: &RpcInfo) -> Option<&Arc<Method>> {
        let places = self
            .generated
            .get_or_init(|| (0..GENERATED).map(|_| OnceLock::new()).collect());
        let place: Place = [service, method].map(|name| (name.as_ptr().addr(), name.len()));
        let mut mixer = NameHasher::default();
        mixer.mix(place[0].0 as u64);
        mixer.mix(place[1].0 as u64);
        let first = mixer.finish() as usize % GENERATED;
        let generated = match places.get(first).and_then(OnceLock::get) {
            Some(found) if found.place == place => found,
            _ => {
                let (before, from) = places.split_at(first);
                let mut slots = from.iter().chain(before).take(TRIES);
                self.place(&mut slots, place, service, method, rpc)?
            }
        };
        Some(&generated.handles)
    }

    /// The first slot that is free, or has the method.
    #[cold]
    fn place<'a>(
        &self,
        slots: &mut dyn Iterator<Item = &'a OnceLock<Generated>>,
        place: Place,
        service: &str,
        method: &str,
        rpc: &RpcInfo,
    ) -> Option<&'a Generated> {
        let mut taken = slots.map(|slot| {
            slot.get_or_init(|| Generated {
                place,
                handles: Arc::new(self.register(Role::Client, service, method, Some(rpc))),
            })
        });
        taken.find(|generated| generated.place == place)
    }
}

impl Tracer for MetricsTracer {
    type State = InFlight;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> InFlight {
        let is_counted = self.registry.names.has_http() || rpc.protocol() != Protocol::Http;
        // The facade's stand-in gives handles that count nothing for ever: none of them may be kept.
        if !self.registry.is_ready() || !is_counted {
            return InFlight::default();
        }
        // A server's are made as soon as there is a recorder, to be there before the first call.
        self.prepare(rpc.role());
        let (method, undecided) = self.method(rpc, request);
        InFlight::new(method, undecided)
    }

    fn finish(&self, state: InFlight, rpc: &RpcInfo) {
        let decided = state.undecided.then(|| self.decide(rpc)).flatten();
        let Some(method) = decided.as_ref().or(state.method.as_ref()) else {
            return;
        };
        if state.undecided {
            method.started.increment(1);
        }
        let (registry, stats) = (&self.registry, rpc.stats());
        let counted = state.counted.as_deref().copied().unwrap_or_default();
        match &self.labels {
            None => method.ended(registry).count(stats, counted, registry),
            Some(labels) => {
                let (combination, labels) = labels.of(rpc);
                let ended = method.labelled(registry, &combination, || labels);
                ended.count(stats, counted, registry);
            }
        }
    }

    /// Moves the counters of messages and bytes, unless method or labels are only known at the end.
    fn progress(&self, state: &mut InFlight, rpc: &RpcInfo) {
        if let Some(method) = &state.method
            && !state.undecided
            && self.labels.is_none()
        {
            let ended = method.ended(&self.registry);
            ended.count_messages(rpc.stats(), state.counted.get_or_insert_default());
        }
    }
}

/// An RPC that [`MetricsTracer`] counts as in flight, until it is dropped.
///
/// Nothing is counted of an RPC that started when there was no recorder.
#[derive(Default)]
pub struct InFlight {
    method: Option<Arc<Method>>,
    /// Whether its end shows which method it is.
    undecided: bool,
    /// Only there once the RPC has reported progress: a state moves with its RPC, so it is kept small.
    counted: Option<Box<Counted>>,
}

impl InFlight {
    fn new(method: Arc<Method>, undecided: bool) -> Self {
        if !undecided {
            method.started.increment(1);
        }
        method.in_flight.increment(1.0);
        Self {
            method: Some(method),
            undecided,
            counted: None,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(method) = &self.method {
            method.in_flight.decrement(1.0);
        }
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.method.as_ref().map(|method| &method.labels);
        f.debug_tuple("InFlight").field(&labels).finish()
    }
}
