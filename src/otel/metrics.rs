//! The instruments, and what each RPC puts into them.

#[cfg(feature = "otel-bound")]
use std::sync::OnceLock;

#[cfg(feature = "otel-bound")]
use opentelemetry::metrics::BoundHistogram;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, UpDownCounter},
};

use super::{
    Conventions, GrpcMetrics,
    series::{Outcome, Series},
};
use crate::{Role, RpcInfo, Stats, Status};

/// Of the conventions, in seconds.
const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Of gRPC's own metrics (A66), in seconds.
const GRPC_SECONDS: [f64; 41] = [
    0.0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005,
    0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16,
    0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];

/// Of gRPC's own metrics (A66), in bytes.
const GRPC_BYTES: [f64; 14] = [
    0.0,
    1024.0,
    2048.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];

/// Of gRPC's own metrics (A96).
const GRPC_RETRIES: [f64; 5] = [1.0, 2.0, 3.0, 4.0, 5.0];

/// One for each side.
#[derive(Debug)]
struct Sides<I> {
    client: I,
    server: I,
}

impl<I> Sides<I> {
    fn of(&self, role: Role) -> &I {
        match role {
            Role::Client => &self.client,
            Role::Server => &self.server,
        }
    }
}

#[derive(Debug)]
pub(super) struct Instruments {
    rpc: Option<Sides<Histogram<f64>>>,
    rpc_old: Option<Sides<Histogram<f64>>>,
    http: Sides<Histogram<f64>>,
    in_flight: Option<InFlight>,
    /// Whether durations of RPCs go into bound histograms.
    bound: bool,
    grpc: Option<Grpc>,
}

/// A series of a duration.
#[derive(Debug)]
pub(super) struct Measured {
    attributes: Vec<KeyValue>,
    #[cfg(feature = "otel-bound")]
    bound: OnceLock<BoundHistogram<f64>>,
}

impl Measured {
    /// The attributes come sorted.
    pub(super) fn new(attributes: Vec<KeyValue>) -> Self {
        Self {
            attributes,
            #[cfg(feature = "otel-bound")]
            bound: OnceLock::new(),
        }
    }

    /// It is always the same histogram.
    fn record(&self, histogram: &Histogram<f64>, value: f64, bound: bool) {
        #[cfg(feature = "otel-bound")]
        if bound {
            let bind = || histogram.bind(&self.attributes);
            return self.bound.get_or_init(bind).record(value);
        }
        let _ = bound;
        histogram.record(value, &self.attributes);
    }
}

#[derive(Debug)]
struct InFlight {
    rpc: Sides<UpDownCounter<i64>>,
    http: Sides<UpDownCounter<i64>>,
}

/// Counts one more in flight for as long as it lives: the state that holds it may be dropped
/// without a finish, or a part of the start may panic.
#[derive(Debug)]
pub(super) struct Counted {
    counter: UpDownCounter<i64>,
    attributes: Vec<KeyValue>,
}

impl Counted {
    fn new(counter: &UpDownCounter<i64>, attributes: &[KeyValue]) -> Self {
        counter.add(1, attributes);
        Self {
            counter: counter.clone(),
            attributes: attributes.to_vec(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counter.add(-1, &self.attributes);
    }
}

/// gRPC's own metrics.
#[derive(Debug)]
struct Grpc {
    what: GrpcMetrics,
    attempt_started: Counter<u64>,
    attempt_duration: Histogram<f64>,
    attempt_sent: Histogram<u64>,
    attempt_received: Histogram<u64>,
    call_duration: Histogram<f64>,
    call_retries: Histogram<u64>,
    server_started: Counter<u64>,
    server_duration: Histogram<f64>,
    server_sent: Histogram<u64>,
    server_received: Histogram<u64>,
}

impl Instruments {
    pub(super) fn new(
        meter: &Meter,
        conventions: Conventions,
        in_flight: bool,
        bound: bool,
        grpc: Option<GrpcMetrics>,
    ) -> Self {
        let seconds = |name: &'static str, description: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries(SECONDS.to_vec())
                .build()
        };
        let millis = |name: &'static str, description: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("ms")
                .with_description(description)
                .with_boundaries(SECONDS.map(|seconds| seconds * 1000.0).to_vec())
                .build()
        };
        let open = |name: &'static str, unit: &'static str, description: &'static str| {
            meter
                .i64_up_down_counter(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        Self {
            rpc: conventions.has_new().then(|| Sides {
                client: seconds("rpc.client.call.duration", "Duration of outgoing RPCs."),
                server: seconds("rpc.server.call.duration", "Duration of incoming RPCs."),
            }),
            rpc_old: conventions.has_old().then(|| Sides {
                client: millis("rpc.client.duration", "Duration of outgoing RPCs."),
                server: millis("rpc.server.duration", "Duration of incoming RPCs."),
            }),
            http: Sides {
                client: seconds(
                    "http.client.request.duration",
                    "Duration of outgoing HTTP requests.",
                ),
                server: seconds(
                    "http.server.request.duration",
                    "Duration of incoming HTTP requests.",
                ),
            },
            in_flight: in_flight.then(|| InFlight {
                rpc: Sides {
                    client: open(
                        "rpc.client.active_calls",
                        "{call}",
                        "Outgoing RPCs in flight.",
                    ),
                    server: open(
                        "rpc.server.active_calls",
                        "{call}",
                        "Incoming RPCs in flight.",
                    ),
                },
                http: Sides {
                    client: open(
                        "http.client.active_requests",
                        "{request}",
                        "Outgoing HTTP requests in flight.",
                    ),
                    server: open(
                        "http.server.active_requests",
                        "{request}",
                        "Incoming HTTP requests in flight.",
                    ),
                },
            }),
            bound,
            grpc: grpc.map(|what| Grpc::new(meter, what)),
        }
    }

    pub(super) fn rpc_started(&self, series: &Series, role: Role) -> Option<Counted> {
        if let Some(grpc) = &self.grpc
            && series.is_grpc()
        {
            grpc.started(role, &series.grpc_at_start);
        }
        let in_flight = self.in_flight.as_ref().filter(|_| self.is_call(role))?;
        Some(Counted::new(in_flight.rpc.of(role), &series.in_flight))
    }

    /// `started` is the series it was counted under in [`rpc_started`](Self::rpc_started).
    pub(super) fn rpc_finished(&self, started: &Series, outcome: &Outcome, rpc: &RpcInfo) {
        let role = rpc.role();
        let cost = rpc.stats().elapsed();
        let is_call = self.is_call(role);
        if let Some(duration) = self.rpc.as_ref().filter(|_| is_call) {
            let seconds = cost.as_secs_f64();
            let measured = &outcome.measured;
            measured.record(duration.of(role), seconds, self.bound);
        }
        if let Some(duration) = self.rpc_old.as_ref().filter(|_| is_call) {
            let millis = cost.as_secs_f64() * 1000.0;
            let measured = &outcome.measured_old;
            measured.record(duration.of(role), millis, self.bound);
        }
        if let Some(grpc) = &self.grpc
            && started.is_grpc()
        {
            grpc.finished(rpc, &started.grpc_at_start, &outcome.grpc);
        }
    }

    /// An attempt is no call: the layer around the retries measures that.
    fn is_call(&self, role: Role) -> bool {
        let grpc = self.grpc.as_ref();
        role == Role::Server || grpc.is_none_or(|grpc| grpc.what.calls())
    }

    pub(super) fn http_started(&self, role: Role, in_flight: &[KeyValue]) -> Option<Counted> {
        let counter = self.in_flight.as_ref()?;
        Some(Counted::new(counter.http.of(role), in_flight))
    }

    pub(super) fn http_finished(&self, rpc: &RpcInfo, all: &[KeyValue]) {
        let seconds = rpc.stats().elapsed().as_secs_f64();
        self.http.of(rpc.role()).record(seconds, all);
    }
}

impl Grpc {
    fn new(meter: &Meter, what: GrpcMetrics) -> Self {
        let counter = |name: &'static str, unit: &'static str, description: &'static str| {
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        let duration = |name: &'static str, description: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries(GRPC_SECONDS.to_vec())
                .build()
        };
        let count = |name: &'static str, unit: &'static str, bounds: &[f64], description| {
            meter
                .u64_histogram(name)
                .with_unit(unit)
                .with_description::<&'static str>(description)
                .with_boundaries(bounds.to_vec())
                .build()
        };
        Self {
            what,
            attempt_started: counter(
                "grpc.client.attempt.started",
                "{attempt}",
                "Number of client call attempts started.",
            ),
            attempt_duration: duration(
                "grpc.client.attempt.duration",
                "Time of a client call attempt from start to end.",
            ),
            attempt_sent: count(
                "grpc.client.attempt.sent_total_compressed_message_size",
                "By",
                &GRPC_BYTES,
                "Compressed message bytes sent per client call attempt.",
            ),
            attempt_received: count(
                "grpc.client.attempt.rcvd_total_compressed_message_size",
                "By",
                &GRPC_BYTES,
                "Compressed message bytes received per client call attempt.",
            ),
            call_duration: duration(
                "grpc.client.call.duration",
                "Time of a client call from start to end, with all its attempts.",
            ),
            call_retries: count(
                "grpc.client.call.retries",
                "{retry}",
                &GRPC_RETRIES,
                "Number of retries of a client call that had some.",
            ),
            server_started: counter(
                "grpc.server.call.started",
                "{call}",
                "Number of server calls started.",
            ),
            server_duration: duration(
                "grpc.server.call.duration",
                "Time of a server call from start to end.",
            ),
            server_sent: count(
                "grpc.server.call.sent_total_compressed_message_size",
                "By",
                &GRPC_BYTES,
                "Compressed message bytes sent per server call.",
            ),
            server_received: count(
                "grpc.server.call.rcvd_total_compressed_message_size",
                "By",
                &GRPC_BYTES,
                "Compressed message bytes received per server call.",
            ),
        }
    }

    fn started(&self, role: Role, attributes: &[KeyValue]) {
        match role {
            Role::Server => self.server_started.add(1, attributes),
            Role::Client if self.what.attempts() => self.attempt_started.add(1, attributes),
            Role::Client => {}
        }
    }

    fn finished(&self, rpc: &RpcInfo, at_start: &[KeyValue], attributes: &[KeyValue]) {
        let stats = rpc.stats();
        let seconds = stats.elapsed().as_secs_f64();
        let size = |histogram: &Histogram<u64>, bytes: Option<u64>| {
            if let Some(bytes) = bytes {
                histogram.record(bytes, attributes);
            }
        };
        let (request, response) = match rpc.role() {
            Role::Server => {
                self.server_duration.record(seconds, attributes);
                (&self.server_received, &self.server_sent)
            }
            Role::Client => {
                if self.what.calls() {
                    self.call_duration.record(seconds, attributes);
                    let retries = stats.attempts().saturating_sub(1);
                    if retries > 0 {
                        self.call_retries.record(retries.into(), at_start);
                    }
                }
                if !self.what.attempts() {
                    return;
                }
                self.attempt_duration.record(seconds, attributes);
                (&self.attempt_sent, &self.attempt_received)
            }
        };
        size(request, stats.request().message_bytes());
        size(response, response_bytes(stats));
    }
}

/// The bytes of a response's messages, for A66's sizes, which are recorded with each duration.
///
/// The layer always sees the response. One that is missing, or is not gRPC's, had no message. Only a
/// successful response whose bytes the layer cannot read as messages leaves the size unknown.
fn response_bytes(stats: &Stats) -> Option<u64> {
    let response = stats.response();
    let unread = response.body_bytes().is_some_and(|bytes| bytes > 0);
    let answered = stats.status() == Some(Status::OK);
    response
        .message_bytes()
        .or_else(|| (!(unread && answered)).then_some(0))
}
