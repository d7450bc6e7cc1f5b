//! Metrics on the [`metrics`] facade, for Prometheus and every other exporter of that facade.
//!
//! | name | kind | labels | what |
//! | --- | --- | --- | --- |
//! | `rpc_started_total` | counter | role, service, method | RPCs that started |
//! | `rpc_handled_total` | counter | role, service, method, code, ending | RPCs that are over |
//! | `rpc_in_flight` | gauge | role, service, method | RPCs that started and are not over |
//! | `rpc_duration_seconds` | histogram | role, service, method, code | from start to end, of RPCs that are over |
//! | `rpc_sent_messages_total` | counter | role, service, method | messages this side sent |
//! | `rpc_received_messages_total` | counter | role, service, method | messages this side received |
//! | `rpc_sent_message_bytes_total` | counter | role, service, method | their bytes: compressed where they are, without prefixes |
//! | `rpc_received_message_bytes_total` | counter | role, service, method | likewise |
//!
//! | label | values |
//! | --- | --- |
//! | `role` | `client`, `server` |
//! | `service`, `method` | `pkg.Svc` and `Method` where the method is [listed](MetricsTracer::methods) or [learned](MetricsTracer::new), else `_OTHER` for both; also `_OTHER` for plain HTTP |
//! | `code` | a gRPC code such as `NOT_FOUND`; for plain HTTP a status such as `404`, `_OTHER` where it is not a registered one, `none` where there was no response |
//! | `ending` | how it ended: an [`Ending`] such as `trailers` or `cancelled` |
//!
//! So the number of series depends on the program, never on what a peer sends. Messages and bytes
//! are added when an RPC is over, also when it was cancelled.
//!
//! # Buckets
//!
//! The facade leaves buckets to the exporter, and `metrics-exporter-prometheus` makes a summary of a
//! histogram that was given none. [`DURATION_BUCKETS`] are those of gRPC's own metrics:
//!
//! ```
//! use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
//! use tower_tracer::{
//!     TracerLayer,
//!     methods::KnownMethods,
//!     metrics::{DURATION_BUCKETS, MetricsTracer},
//! };
//!
//! # fn main() -> Result<(), metrics_exporter_prometheus::BuildError> {
//! let recorder = PrometheusBuilder::new()
//!     .set_buckets_for_metric(
//!         Matcher::Full("rpc_duration_seconds".to_owned()),
//!         &DURATION_BUCKETS,
//!     )?
//!     .build_recorder();
//! let exposition = recorder.handle();
//!
//! let tracer = MetricsTracer::new()
//!     .recorder(recorder)
//!     .methods(KnownMethods::new(["echo.Echo/UnaryEcho"]));
//! let layer = TracerLayer::new(tracer);
//! # let _ = (layer, exposition.render());
//! # Ok(()) }
//! ```
//!
//! # The recorder
//!
//! Handles are taken once and kept: recording looks nothing up by string. A global recorder that is
//! installed after the first RPC counts those that start from then on; install it before the tracer
//! is made, so that the series of listed methods exist at once. An exporter's idle timeout, which drops
//! series that did not move, must not be on for these: a kept handle would go on
//! counting into nothing.

use std::{
    collections::HashMap,
    fmt,
    hash::Hasher as _,
    sync::{Arc, OnceLock},
};

use http::StatusCode;
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit,
    with_recorder,
};

use crate::{
    Code, Ending, RequestParts, Role, RpcInfo, Status, Tracer,
    rpc::{Protocol, Traffic},
};
use crate::{
    methods::{KnownMethods, Learned, OTHER, generated, is_answered},
    name_hasher::{BuildNameHasher, NameHasher},
};

/// Bounds for `rpc_duration_seconds`, in seconds: those of gRPC's own latency metrics
/// ([A66](https://github.com/grpc/proposal/blob/master/A66-otel-stats.md)) without the bound 0.
#[rustfmt::skip]
pub const DURATION_BUCKETS: [f64; 40] = [
    0.000_01, 0.000_05, 0.000_1, 0.000_3, 0.000_6, 0.000_8, 0.001, 0.002, 0.003, 0.004, 0.005,
    0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16,
    0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];

const STARTED: &str = "rpc_started_total";
const HANDLED: &str = "rpc_handled_total";
const IN_FLIGHT: &str = "rpc_in_flight";
const DURATION: &str = "rpc_duration_seconds";
const SENT_MESSAGES: &str = "rpc_sent_messages_total";
const SENT_BYTES: &str = "rpc_sent_message_bytes_total";
const RECEIVED_MESSAGES: &str = "rpc_received_messages_total";
const RECEIVED_BYTES: &str = "rpc_received_message_bytes_total";

/// Room for the methods of generated clients; those that find none are `_OTHER`. No program comes
/// near.
const GENERATED: usize = 1024;

/// How many places are tried for one of them.
const TRIES: usize = 64;

/// Counts and measures RPCs; see the [module](self).
pub struct MetricsTracer {
    registry: Registry,
    /// By name; given by the user.
    known: HashMap<Box<str>, BothRoles, BuildNameHasher>,
    /// Where there is a list, no other method is known, but for those of generated clients.
    listed: Option<KnownMethods>,
    learned: Learned<Arc<BothRoles>>,
    /// Whether the listed methods have their series.
    prepared: OfRole<OnceLock<()>>,
    unknown: BothRoles,
    /// Made when the first of them is called.
    generated: OnceLock<Box<[OnceLock<Generated>]>>,
}

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
    /// A tracer on the recorder that is installed globally. It knows the methods of generated clients,
    /// and learns up to 100 others when they are first answered, with OK or a message; until then a
    /// call is in flight as `_OTHER`, and is counted as started when it is over.
    #[must_use]
    pub fn new() -> Self {
        Self {
            registry: Registry::default(),
            known: HashMap::default(),
            listed: None,
            learned: Learned::default(),
            prepared: OfRole::default(),
            unknown: BothRoles::default(),
            generated: OnceLock::new(),
        }
    }

    /// Records to this recorder instead of the global one.
    #[must_use]
    pub fn recorder(mut self, recorder: impl Recorder + Send + Sync + 'static) -> Self {
        self.registry = Registry::default();
        self.registry.recorder = Some(Box::new(recorder));
        // What was made for another recorder counts nothing here.
        match self.listed.clone() {
            Some(listed) => self.methods(listed),
            None => self,
        }
    }

    /// The methods to name besides those of generated clients: on a server, those it serves. Then no
    /// others are learned.
    ///
    /// Their counters exist at 0 before the first call, since `increase()` in Prometheus does not see
    /// the first event of a series that begins with it: those of a server as soon as there is a
    /// recorder, those of a client at its first RPC. `rpc_handled_total` has every code with the
    /// endings `trailers` and `headers_only`, and `cancelled`, `deadline` and `panic` with their codes.
    #[must_use]
    pub fn methods(mut self, known: KnownMethods) -> Self {
        let methods = known.iter().map(|name| (name.into(), BothRoles::default()));
        self.known = methods.collect();
        self.listed = Some(known);
        self.prepared = Default::default();
        if self.registry.is_ready() {
            self.prepare(Role::Server);
        }
        self
    }

    /// The handles for an RPC, and whether its end may show that the method is another one.
    fn method(&self, rpc: &RpcInfo, request: &RequestParts<'_>) -> (Arc<Method>, bool) {
        let generated = generated(rpc, request);
        if let Some((service, method)) = generated
            && let Some(found) = self.generated(service, method)
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
        let method = rpc
            .full_method()
            .filter(|_| may_learn && rpc.protocol() != Protocol::Http);
        if let Some(method) = method
            && let Some(both) = self.learned.get(method)
        {
            return (
                Arc::clone(self.of_role(&both, rpc.role(), Some(method))),
                false,
            );
        }
        let name = known.map(|(name, _)| &**name);
        (
            Arc::clone(self.of_role(both, rpc.role(), name)),
            method.is_some(),
        )
    }

    /// The handles of an undecided RPC that is over.
    fn decide(&self, rpc: &RpcInfo) -> Option<Arc<Method>> {
        let method = rpc.full_method().filter(|_| is_answered(rpc))?;
        let both = self.learned.learn(method)?;
        Some(Arc::clone(self.of_role(&both, rpc.role(), Some(method))))
    }

    fn of_role<'a>(
        &self,
        both: &'a BothRoles,
        role: Role,
        full_method: Option<&str>,
    ) -> &'a Arc<Method> {
        both.of(role).get_or_init(|| {
            let names = full_method.and_then(|name| name.split_once('/'));
            let (service, method) = names.unwrap_or((OTHER, OTHER));
            Arc::new(self.register(role, service, method))
        })
    }

    /// Makes the series of the listed methods on one side, which has a recorder.
    fn prepare(&self, role: Role) {
        self.prepared.of(role).get_or_init(|| {
            for (name, both) in &self.known {
                let method = self.of_role(both, role, Some(name));
                for code in Code::ALL {
                    let outcome = method.outcome(Some(Status::Grpc(code)));
                    let own = match code {
                        Code::Cancelled => Some(Ending::Cancelled),
                        Code::DeadlineExceeded => Some(Ending::Deadline),
                        Code::Unknown => Some(Ending::Panic),
                        _ => None,
                    };
                    let usual = [Ending::Trailers, Ending::HeadersOnly];
                    for ending in usual.into_iter().chain(own) {
                        outcome.handled(ending, &self.registry);
                    }
                }
            }
        });
    }

    /// The handles of a method of a generated client; `None` where there are too many.
    fn generated(&self, service: &str, method: &str) -> Option<&Arc<Method>> {
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
                self.place(&mut slots, place, service, method)?
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
    ) -> Option<&'a Generated> {
        let mut taken = slots.map(|slot| {
            slot.get_or_init(|| Generated {
                place,
                handles: Arc::new(self.register(Role::Client, service, method)),
            })
        });
        taken.find(|generated| generated.place == place)
    }

    #[cold]
    fn register(&self, role: Role, service: &str, method: &str) -> Method {
        let labels = [
            Label::from_static_parts("role", role.as_str()),
            Label::new("service", service.to_owned()),
            Label::new("method", method.to_owned()),
        ];
        let registry = &self.registry;
        Method {
            started: registry.counter(STARTED, &labels),
            in_flight: registry.gauge(IN_FLIGHT, &labels),
            sent_messages: registry.counter(SENT_MESSAGES, &labels),
            sent_bytes: registry.counter(SENT_BYTES, &labels),
            received_messages: registry.counter(RECEIVED_MESSAGES, &labels),
            received_bytes: registry.counter(RECEIVED_BYTES, &labels),
            grpc: [const { OnceLock::new() }; Code::ALL.len()],
            http: OnceLock::new(),
            labels,
        }
    }
}

impl Default for MetricsTracer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MetricsTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsTracer")
            .field("methods", &self.known.keys())
            .finish_non_exhaustive()
    }
}

impl Tracer for MetricsTracer {
    type State = InFlight;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> InFlight {
        // The facade's stand-in gives handles that count nothing for ever: none of them may be kept.
        if !self.registry.is_ready() {
            return InFlight(None, false);
        }
        self.prepare(rpc.role());
        let (method, undecided) = self.method(rpc, request);
        InFlight::new(method, undecided)
    }

    fn finish(&self, state: InFlight, rpc: &RpcInfo) {
        let stats = rpc.stats();
        let decided = state.1.then(|| self.decide(rpc)).flatten();
        let Some(method) = decided.as_ref().or(state.0.as_ref()) else {
            return;
        };
        if state.1 {
            method.started.increment(1);
        }
        add(stats.sent(), &method.sent_messages, &method.sent_bytes);
        add(
            stats.received(),
            &method.received_messages,
            &method.received_bytes,
        );
        let outcome = method.outcome(stats.status());
        if let (Some(cost), Some(ending)) = (stats.duration(), stats.ending()) {
            outcome.duration(&self.registry).record(cost);
            if let Some(handled) = outcome.handled(ending, &self.registry) {
                handled.increment(1);
            }
        }
    }
}

/// Adds what is known of one direction.
fn add(traffic: Traffic, messages: &Counter, bytes: &Counter) {
    if let (Some(count @ 1..), Some(size)) = (traffic.messages(), traffic.message_bytes()) {
        messages.increment(count);
        if size > 0 {
            bytes.increment(size);
        }
    }
}

/// An RPC that [`MetricsTracer`] counts as in flight, until it is dropped.
///
/// Nothing is counted of an RPC that started when there was no recorder.
// The flag says that its method is not decided yet.
pub struct InFlight(Option<Arc<Method>>, bool);

impl InFlight {
    fn new(method: Arc<Method>, undecided: bool) -> Self {
        if !undecided {
            method.started.increment(1);
        }
        method.in_flight.increment(1.0);
        Self(Some(method), undecided)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(method) = &self.0 {
            method.in_flight.decrement(1.0);
        }
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.0.as_ref().map(|method| &method.labels);
        f.debug_tuple("InFlight").field(&labels).finish()
    }
}

/// The handles of one method on one side.
struct Method {
    labels: [Label; 3],
    started: Counter,
    in_flight: Gauge,
    sent_messages: Counter,
    sent_bytes: Counter,
    received_messages: Counter,
    received_bytes: Counter,
    grpc: [OnceLock<Box<Outcome>>; Code::ALL.len()],
    /// By HTTP status, for exchanges that have no gRPC code: see `outcome`.
    http: OnceLock<Box<[OnceLock<Box<Outcome>>]>>,
}

/// The handles of one code of a method.
struct Outcome {
    labels: [Label; 4],
    duration: OnceLock<Histogram>,
    /// By ending.
    handled: [OnceLock<Counter>; Ending::ALL.len()],
}

impl Method {
    fn outcome(&self, status: Option<Status>) -> &Outcome {
        let slot = match status {
            Some(Status::Grpc(code)) => self.grpc.get(code as usize),
            Some(Status::Http(status)) => match registered(status) {
                true => self.http().get(usize::from(status)),
                false => self.http().first(),
            },
            None => self.http().get(1),
        };
        // There is a slot for everything above; the first one of HTTP's is for the rest.
        let slot = slot.unwrap_or(&self.grpc[Code::Unknown as usize]);
        slot.get_or_init(|| Box::new(self.register(code(status))))
    }

    /// A slot per status up to 599; of those below 100, which are none, two serve for the rest.
    fn http(&self) -> &[OnceLock<Box<Outcome>>] {
        self.http
            .get_or_init(|| (0..600).map(|_| OnceLock::new()).collect())
    }

    #[cold]
    fn register(&self, code: SharedString) -> Outcome {
        let [role, service, method] = self.labels.clone();
        let labels = [role, service, method, Label::new("code", code)];
        Outcome {
            duration: OnceLock::new(),
            handled: [const { OnceLock::new() }; Ending::ALL.len()],
            labels,
        }
    }
}

/// What the label `code` says.
fn code(status: Option<Status>) -> SharedString {
    match status {
        Some(Status::Grpc(code)) => code.as_str().into(),
        Some(Status::Http(status)) if registered(status) => status.to_string().into(),
        Some(Status::Http(_)) => OTHER.into(),
        None => "none".into(),
    }
}

/// Whether an HTTP status is one that is registered, and no peer's invention.
fn registered(status: u16) -> bool {
    let status = StatusCode::from_u16(status);
    status.is_ok_and(|status| status.canonical_reason().is_some())
}

impl Outcome {
    fn duration(&self, registry: &Registry) -> &Histogram {
        let make = || registry.histogram(DURATION, &self.labels);
        self.duration.get_or_init(make)
    }

    fn handled(&self, ending: Ending, registry: &Registry) -> Option<&Counter> {
        let slot = self.handled.get(ending as usize)?;
        Some(slot.get_or_init(|| {
            let [role, service, method, code] = self.labels.clone();
            let ending = Label::from_static_parts("ending", ending.as_str());
            let labels = [role, service, method, code, ending];
            registry.counter(HANDLED, &labels)
        }))
    }
}

/// Where handles come from.
#[derive(Default)]
struct Registry {
    recorder: Option<Box<dyn Recorder + Send + Sync>>,
    described: OnceLock<()>,
    installed: OnceLock<()>,
}

impl Registry {
    /// Whether there is a recorder. The facade's stand-in is a static without a size. An installed
    /// recorder without a size is in a box without memory, whose address is its alignment.
    fn is_ready(&self) -> bool {
        if self.recorder.is_some() || self.installed.get().is_some() {
            return true;
        }
        let found = with_recorder(|recorder| {
            let address = std::ptr::from_ref(recorder).cast::<()>().addr();
            size_of_val(recorder) > 0 || address <= align_of_val(recorder)
        });
        if found {
            self.installed.get_or_init(|| ());
        }
        found
    }

    fn counter(&self, name: &'static str, labels: &[Label]) -> Counter {
        self.with(|recorder| recorder.register_counter(&key(name, labels), &METADATA))
    }

    fn gauge(&self, name: &'static str, labels: &[Label]) -> Gauge {
        self.with(|recorder| recorder.register_gauge(&key(name, labels), &METADATA))
    }

    fn histogram(&self, name: &'static str, labels: &[Label]) -> Histogram {
        self.with(|recorder| recorder.register_histogram(&key(name, labels), &METADATA))
    }

    /// Runs `f` on the recorder, which has been told what the metrics mean.
    fn with<R>(&self, f: impl FnOnce(&dyn Recorder) -> R) -> R {
        let on = |recorder: &dyn Recorder| {
            self.described.get_or_init(|| describe(recorder));
            f(recorder)
        };
        match &self.recorder {
            Some(recorder) => on(&**recorder),
            None => with_recorder(on),
        }
    }
}

const METADATA: Metadata<'static> =
    Metadata::new("tower_tracer", Level::INFO, Some("tower_tracer"));

fn key(name: &'static str, labels: &[Label]) -> Key {
    Key::from_parts(KeyName::from_const_str(name), labels.to_vec())
}

fn describe(recorder: &dyn Recorder) {
    let counters = [
        (STARTED, Unit::Count, "RPCs that started."),
        (
            HANDLED,
            Unit::Count,
            "RPCs that are over, however they ended.",
        ),
        (SENT_MESSAGES, Unit::Count, "Messages that this side sent."),
        (
            RECEIVED_MESSAGES,
            Unit::Count,
            "Messages that this side received.",
        ),
        (
            SENT_BYTES,
            Unit::Bytes,
            "Bytes of the messages that this side sent.",
        ),
        (
            RECEIVED_BYTES,
            Unit::Bytes,
            "Bytes of the messages that this side received.",
        ),
    ];
    for (name, unit, text) in counters {
        recorder.describe_counter(name.into(), Some(unit), text.into());
    }
    let text = "RPCs that started and are not over.";
    recorder.describe_gauge(IN_FLIGHT.into(), Some(Unit::Count), text.into());
    let text = "Time from start to end of RPCs that are over.";
    recorder.describe_histogram(DURATION.into(), Some(Unit::Seconds), text.into());
}
