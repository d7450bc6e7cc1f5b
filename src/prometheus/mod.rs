//! Metrics for Prometheus with exemplars: from a slow bucket or a failure to the trace that shows it.
//!
//! ```
//! use axum::{Router, routing::get};
//! use tower_tracer::{TracerLayer, methods::KnownMethods, prometheus::PrometheusTracer};
//!
//! let metrics = PrometheusTracer::new().methods(KnownMethods::new(["shop.Shop/Buy"]));
//! let layer = TracerLayer::new(metrics.clone());
//!
//! // What Prometheus scrapes, with its content type.
//! let app: Router = Router::new().route("/metrics", get(async move || metrics.response()));
//! # let _ = (layer, app);
//! ```
//!
//! It has the families and labels of [`MetricsTracer`](https://docs.rs/tower-tracer/latest/tower_tracer/metrics/),
//! on the crate `prometheus-client` instead of the facade `metrics`, which has no exemplars. With feature
//! `connection` it takes [connections](https://docs.rs/tower-tracer/latest/tower_tracer/connection/) too.
//!
//! # Exemplars
//!
//! Buckets of `rpc_duration_seconds` have the `trace_id` of an RPC that fell into them. Only traces that are
//! sampled are named, so that the id leads to a trace that exists. Which RPC is named depends on how it ended:
//! a [failure](crate::Stats::failed) always is, and of the others, for each method and code, the slowest of
//! ten seconds. So the bucket of a rare slow call keeps its trace, and a call of everyday duration costs no
//! exemplar.
//!
//! The id is that of OpenTelemetry's current context, which is the RPC's if an
//! `OtelTracer` is in the same layer and feature `otel` is on; else that of the request's
//! [`traceparent`](https://www.w3.org/TR/trace-context/#traceparent-header). It is 32 hexadecimal digits, well
//! within the 128 characters that Prometheus takes.
//!
//! Prometheus keeps exemplars if it runs with `--enable-feature=exemplar-storage`.

#[cfg(feature = "connection")]
mod connections;
mod families;

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Response, header::CONTENT_TYPE};
use prometheus_client::registry::Registry;

#[cfg(feature = "connection")]
pub use self::connections::OpenConnection;
use self::families::{Counted, Families, Method};
use crate::{
    RequestParts, RpcInfo, Tracer,
    method_names::{Learned, OTHER, generated_name, is_answered},
    methods::KnownMethods,
    rpc::Protocol,
    trace_id::TraceId,
};

/// Counts and measures RPCs; see the [module](self). Clones share their figures.
#[derive(Clone)]
pub struct PrometheusTracer {
    listed: Option<KnownMethods>,
    shared: Arc<Shared>,
}

struct Shared {
    learned: Learned<()>,
    families: Families,
    #[cfg(feature = "connection")]
    connections: connections::Connections,
    registry: Mutex<Registry>,
}

impl PrometheusTracer {
    /// A tracer with a registry of its own. It knows the methods of generated clients, and learns up to 100
    /// others when they are first answered, with OK or a message; others are `_OTHER`.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let families = Families::new();
        families.register(&mut registry);
        #[cfg(feature = "connection")]
        let connections = connections::Connections::new();
        #[cfg(feature = "connection")]
        connections.register(&mut registry);
        Self {
            listed: None,
            shared: Arc::new(Shared {
                learned: Learned::default(),
                families,
                #[cfg(feature = "connection")]
                connections,
                registry: Mutex::new(registry),
            }),
        }
    }

    /// The methods to name besides those of generated clients: on a server, those it serves. Then no others
    /// are learned.
    #[must_use]
    pub fn methods(mut self, known: KnownMethods) -> Self {
        self.listed = Some(known);
        self
    }

    /// Registers the families in a registry of yours as well, to be scraped with your own.
    pub fn register(&self, registry: &mut Registry) {
        self.shared.families.register(registry);
        #[cfg(feature = "connection")]
        self.shared.connections.register(registry);
    }

    /// All series as OpenMetrics text, which is what a scrape gets with the content type
    /// [`CONTENT_TYPE`](Self::CONTENT_TYPE).
    ///
    /// ```
    /// use tower_tracer::prometheus::PrometheusTracer;
    ///
    /// let text = PrometheusTracer::new().encode();
    /// // Families begin with their first RPC.
    /// assert_eq!(text, "# EOF\n");
    /// ```
    #[must_use]
    pub fn encode(&self) -> String {
        let registry = &self.shared.registry;
        let registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }

    /// The content type of [`encode`](Self::encode). Prometheus takes exemplars only with it.
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The answer to a scrape: text and content type.
    #[must_use]
    pub fn response(&self) -> Response<String> {
        let mut response = Response::new(self.encode());
        let openmetrics = http::HeaderValue::from_static(Self::CONTENT_TYPE);
        response.headers_mut().insert(CONTENT_TYPE, openmetrics);
        response
    }

    fn name<'a>(&self, rpc: &'a RpcInfo, request: &RequestParts<'_>) -> Name<'a> {
        if rpc.protocol() == Protocol::Http {
            return Name::Known(OTHER);
        }
        let listed = || self.listed.as_ref()?.find(rpc.path());
        if let Some(name) = generated_name(rpc, request).or_else(listed) {
            return Name::Known(name);
        }
        match (rpc.full_method(), &self.listed) {
            (Some(name), None) if self.shared.learned.get(name).is_some() => Name::Known(name),
            (Some(_), None) => Name::Undecided,
            _ => Name::Known(OTHER),
        }
    }
}

/// Which method an RPC is counted under.
enum Name<'a> {
    Known(&'a str),
    /// Its end shows whether it is a method.
    Undecided,
}

impl Tracer for PrometheusTracer {
    type State = InFlight;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> InFlight {
        let families = &self.shared.families;
        let (name, undecided) = match self.name(rpc, request) {
            Name::Known(name) => (name, false),
            Name::Undecided => (OTHER, true),
        };
        let method = families.method(rpc.role(), name);
        if !undecided {
            method.started.inc();
        }
        method.in_flight.inc();
        InFlight {
            method,
            undecided,
            trace: TraceId::of_request(request),
            counted: Counted::default(),
        }
    }

    fn finish(&self, state: InFlight, rpc: &RpcInfo) {
        let families = &self.shared.families;
        let decided;
        let method = if state.undecided {
            let name = rpc.full_method().filter(|_| is_answered(rpc));
            let known = name.filter(|name| self.shared.learned.learn(name).is_some());
            decided = families.method(rpc.role(), known.unwrap_or(OTHER));
            decided.started.inc();
            &decided
        } else {
            &state.method
        };
        let trace = TraceId::current().or(state.trace);
        let trace = trace.filter(|trace| trace.is_sampled());
        families.finished(method, rpc, state.counted, trace);
    }

    /// Moves the counters of messages and bytes, unless the method is only known at the end.
    fn progress(&self, state: &mut InFlight, rpc: &RpcInfo) {
        if !state.undecided {
            state.method.count_messages(rpc.stats(), &mut state.counted);
        }
    }
}

/// An RPC that [`PrometheusTracer`] counts as in flight, until it is dropped.
pub struct InFlight {
    method: Arc<Method>,
    undecided: bool,
    /// That of the request's `traceparent`.
    trace: Option<TraceId>,
    counted: Counted,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.method.in_flight.dec();
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InFlight")
            .field(&self.method.labels)
            .finish()
    }
}

impl Default for PrometheusTracer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for PrometheusTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrometheusTracer")
            .field("methods", &self.listed)
            .finish_non_exhaustive()
    }
}

/// A value of a label.
type Text = Cow<'static, str>;
