//! The instruments, and what each RPC puts into them.

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter, MeterProvider as _, NoopMeterProvider, UpDownCounter},
};

use super::{
    OtelTracer,
    attempts::Attempts,
    grpc_metrics::Grpc,
    meters::{Added, BYTES, Meters, with},
    series::{Outcome, Series},
};
use crate::{Role, RpcInfo};

/// Of the conventions, in seconds.
const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

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
    /// Of the request and of the response.
    http_bodies: Option<Sides<[Histogram<u64>; 2]>>,
    in_flight: Option<InFlight>,
    /// Whether durations of RPCs go into bound histograms.
    bound: bool,
    grpc: Option<Grpc>,
    #[cfg(feature = "connection")]
    pub(super) connections: super::connections::Instruments,
}

/// All metrics.
pub(super) const NAMES: &[&str] = &[
    "rpc.client.call.duration",
    "rpc.server.call.duration",
    "rpc.client.duration",
    "rpc.server.duration",
    "http.client.request.duration",
    "http.server.request.duration",
    "http.client.request.body.size",
    "http.client.response.body.size",
    "http.server.request.body.size",
    "http.server.response.body.size",
    "http.client.active_requests",
    "http.server.active_requests",
    "tower_tracer.client.active_calls",
    "tower_tracer.server.active_calls",
    "grpc.client.attempt.started",
    "grpc.client.attempt.duration",
    "grpc.client.attempt.sent_total_compressed_message_size",
    "grpc.client.attempt.rcvd_total_compressed_message_size",
    "grpc.client.call.duration",
    "grpc.client.call.retries",
    "grpc.client.call.hedges",
    "grpc.client.call.retry_delay",
    "grpc.server.call.started",
    "grpc.server.call.duration",
    "grpc.server.call.sent_total_compressed_message_size",
    "grpc.server.call.rcvd_total_compressed_message_size",
    #[cfg(feature = "connection")]
    "grpc.subchannel.connection_attempts_succeeded",
    #[cfg(feature = "connection")]
    "grpc.subchannel.connection_attempts_failed",
    #[cfg(feature = "connection")]
    "grpc.subchannel.disconnections",
    #[cfg(feature = "connection")]
    "grpc.subchannel.open_connections",
    #[cfg(feature = "connection")]
    "http.client.connection.duration",
    "http.client.open_connections",
    #[cfg(feature = "connection")]
    "grpc.server.tls.handshakes",
    #[cfg(feature = "connection")]
    "tower_tracer.server.active_connections",
    #[cfg(feature = "connection")]
    "tower_tracer.server.connection.duration",
    #[cfg(feature = "connection")]
    "tower_tracer.server.tls_handshake.duration",
];

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

impl Instruments {
    pub(super) fn new(meter: &Meter, tracer: &OtelTracer, may_be_bound: bool) -> Self {
        let conventions = tracer.wording.conventions;
        let meter = &Meters {
            meter,
            none: NoopMeterProvider::new().meter(""),
            left_out: &tracer.left_out,
        };
        let seconds = |name: &'static str, description: &'static str| {
            meter
                .of(name)
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries(SECONDS.to_vec())
                .build()
        };
        let millis = |name: &'static str, description: &'static str| {
            meter
                .of(name)
                .f64_histogram(name)
                .with_unit("ms")
                .with_description(description)
                .with_boundaries(SECONDS.map(|seconds| seconds * 1000.0).to_vec())
                .build()
        };
        let open = |name: &'static str, unit: &'static str, description: &'static str| {
            meter
                .of(name)
                .i64_up_down_counter(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        let body = |name: &'static str, description: &'static str| {
            meter
                .of(name)
                .u64_histogram(name)
                .with_unit("By")
                .with_description(description)
                .with_boundaries(BYTES.to_vec())
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
            in_flight: tracer.in_flight.then(|| InFlight {
                rpc: Sides {
                    client: open(
                        "tower_tracer.client.active_calls",
                        "{call}",
                        "Outgoing RPCs in flight.",
                    ),
                    server: open(
                        "tower_tracer.server.active_calls",
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
            http_bodies: tracer.http_body_sizes.then(|| Sides {
                client: [
                    body(
                        "http.client.request.body.size",
                        "Size of HTTP client request bodies.",
                    ),
                    body(
                        "http.client.response.body.size",
                        "Size of HTTP client response bodies.",
                    ),
                ],
                server: [
                    body(
                        "http.server.request.body.size",
                        "Size of HTTP server request bodies.",
                    ),
                    body(
                        "http.server.response.body.size",
                        "Size of HTTP server response bodies.",
                    ),
                ],
            }),
            bound: tracer.bound && may_be_bound,
            grpc: tracer.grpc_metrics.map(|what| Grpc::new(meter, what)),
            #[cfg(feature = "connection")]
            connections: super::connections::Instruments::new(meter),
        }
    }

    pub(super) fn rpc_started(
        &self,
        series: &Series,
        role: Role,
        custom: Option<KeyValue>,
    ) -> Option<Counted> {
        if let Some(grpc) = &self.grpc
            && series.is_grpc()
        {
            grpc.started(role, &series.grpc_at_start, custom);
        }
        let in_flight = self.in_flight.as_ref().filter(|_| self.is_call(role))?;
        Some(Counted::new(in_flight.rpc.of(role), &series.in_flight))
    }

    /// `started` is the series it was counted under in [`rpc_started`](Self::rpc_started).
    pub(super) fn rpc_finished(
        &self,
        started: &Series,
        outcome: &Outcome,
        rpc: &RpcInfo,
        added: &Added,
        attempts: &Attempts,
    ) {
        let role = rpc.role();
        let cost = rpc.stats().elapsed();
        let is_call = self.is_call(role);
        if let Some(duration) = self.rpc.as_ref().filter(|_| is_call) {
            let seconds = cost.as_secs_f64();
            let measured = &outcome.measured;
            measured.record(duration.of(role), seconds, self.bound, &added.attributes);
        }
        if let Some(duration) = self.rpc_old.as_ref().filter(|_| is_call) {
            let millis = cost.as_secs_f64() * 1000.0;
            let measured = &outcome.measured_old;
            measured.record(duration.of(role), millis, self.bound, &added.attributes);
        }
        if let Some(grpc) = &self.grpc
            && started.is_grpc()
        {
            grpc.finished(rpc, &started.grpc_at_start, &outcome.grpc, added, attempts);
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

    pub(super) fn http_finished(
        &self,
        rpc: &RpcInfo,
        measured: Vec<KeyValue>,
        added: Vec<KeyValue>,
    ) {
        let attributes = match added.is_empty() {
            true => measured,
            false => with(&measured, &added),
        };
        let stats = rpc.stats();
        let seconds = stats.elapsed().as_secs_f64();
        self.http.of(rpc.role()).record(seconds, &attributes);
        let Some(bodies) = &self.http_bodies else {
            return;
        };
        let sizes = [stats.request().body_bytes(), stats.response().body_bytes()];
        for (histogram, size) in bodies.of(rpc.role()).iter().zip(sizes) {
            if let Some(size) = size {
                histogram.record(size, &attributes);
            }
        }
    }
}
