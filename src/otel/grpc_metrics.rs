//! gRPC's own metrics, of A66 and A96.

use std::iter;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram},
};

use super::{
    GrpcMetrics,
    attempts::Attempts,
    meters::{Added, BYTES, Meters, with},
};
use crate::{Role, RpcInfo, Stats, Status, buckets};

/// Of gRPC's own metrics (A96).
const GRPC_RETRIES: [f64; 5] = [1.0, 2.0, 3.0, 4.0, 5.0];

/// gRPC's own metrics.
#[derive(Debug)]
pub(super) struct Grpc {
    pub(super) what: GrpcMetrics,
    attempt_started: Counter<u64>,
    attempt_duration: Histogram<f64>,
    attempt_sent: Histogram<u64>,
    attempt_received: Histogram<u64>,
    call_duration: Histogram<f64>,
    call_retries: Histogram<u64>,
    call_hedges: Histogram<u64>,
    call_retry_delay: Histogram<f64>,
    server_started: Counter<u64>,
    server_duration: Histogram<f64>,
    server_sent: Histogram<u64>,
    server_received: Histogram<u64>,
}

impl Grpc {
    pub(super) fn new(meter: &Meters<'_>, what: GrpcMetrics) -> Self {
        let counter = |name: &'static str, unit: &'static str, description: &'static str| {
            meter
                .of(name)
                .u64_counter(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        let duration = |name: &'static str, description: &'static str| {
            meter
                .of(name)
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries(iter::once(0.0).chain(buckets::SECONDS).collect())
                .build()
        };
        let count = |name: &'static str, unit: &'static str, bounds: &[f64], description| {
            meter
                .of(name)
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
                &BYTES,
                "Compressed message bytes sent per client call attempt.",
            ),
            attempt_received: count(
                "grpc.client.attempt.rcvd_total_compressed_message_size",
                "By",
                &BYTES,
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
            call_hedges: count(
                "grpc.client.call.hedges",
                "{hedge}",
                &GRPC_RETRIES,
                "Number of hedges of a client call that had some.",
            ),
            call_retry_delay: duration(
                "grpc.client.call.retry_delay",
                "Time of a client call that retried in which no attempt ran.",
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
                &BYTES,
                "Compressed message bytes sent per server call.",
            ),
            server_received: count(
                "grpc.server.call.rcvd_total_compressed_message_size",
                "By",
                &BYTES,
                "Compressed message bytes received per server call.",
            ),
        }
    }

    pub(super) fn started(&self, role: Role, attributes: &[KeyValue], custom: Option<KeyValue>) {
        match role {
            Role::Server => self.server_started.add(1, attributes),
            Role::Client if self.what.attempts() => match custom {
                None => self.attempt_started.add(1, attributes),
                Some(custom) => self.attempt_started.add(1, &with(attributes, &[custom])),
            },
            Role::Client => {}
        }
    }

    pub(super) fn finished(
        &self,
        rpc: &RpcInfo,
        at_start: &[KeyValue],
        attributes: &[KeyValue],
        added: &Added,
        attempts: &Attempts,
    ) {
        let stats = rpc.stats();
        let seconds = stats.elapsed().as_secs_f64();
        let (request, response) = (stats.request().message_bytes(), response_bytes(stats));
        let size = |histogram: &Histogram<u64>, bytes: Option<u64>, attributes: &[KeyValue]| {
            if let Some(bytes) = bytes {
                histogram.record(bytes, attributes);
            }
        };
        if rpc.role() == Role::Server {
            self.server_duration.record(seconds, attributes);
            size(&self.server_received, request, attributes);
            size(&self.server_sent, response, attributes);
            return;
        }
        let labelled = added.grpc.clone().map(|custom| {
            let custom = [custom];
            (with(at_start, &custom), with(attributes, &custom))
        });
        let (at_start, attributes) = match &labelled {
            Some((at_start, attributes)) => (&**at_start, &**attributes),
            None => (at_start, attributes),
        };
        if self.what.calls() {
            self.call_duration.record(seconds, attributes);
            let hedges = attempts.hedges();
            let retries = stats.attempts().saturating_sub(1 + hedges);
            if retries > 0 {
                self.call_retries.record(retries.into(), at_start);
                let delay = attempts.delay().as_secs_f64();
                self.call_retry_delay.record(delay, at_start);
            }
            if hedges > 0 {
                self.call_hedges.record(hedges.into(), at_start);
            }
        }
        if self.what.attempts() {
            self.attempt_duration.record(seconds, attributes);
            size(&self.attempt_sent, request, attributes);
            size(&self.attempt_received, response, attributes);
        }
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
