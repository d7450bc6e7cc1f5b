//! Headers and trailers of any values, under all built-in tracers: `grpc-status`, `grpc-message`,
//! `grpc-timeout`, trace context and baggage among them.
#![no_main]

use std::{sync::LazyLock, time::Duration};

use http::HeaderValue;
use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use opentelemetry::propagation::TextMapCompositePropagator;
use opentelemetry_sdk::{
    metrics::SdkMeterProvider,
    propagation::{BaggagePropagator, TraceContextPropagator},
    trace::SdkTracerProvider,
};
use tower_tracer::{
    Code, Role, Status, live::Live, metrics::MetricsTracer, otel::OtelTracer,
    prometheus::PrometheusTracer, testing::RecordingTracer, tracing::TracingTracer,
};
use tower_tracer_fuzz::{
    exchange_with, headers, pick, request, response, scripted::Scripted, scripted::Step, value,
};

const REQUEST: [&str; 14] = [
    "baggage",
    "connect-timeout-ms",
    "content-length",
    "content-type",
    "forwarded",
    "grpc-encoding",
    "grpc-previous-rpc-attempts",
    "grpc-timeout",
    "host",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-proto",
];
const RESPONSE: [&str; 5] = [
    "content-length",
    "content-type",
    "grpc-encoding",
    "grpc-message",
    "grpc-status",
];

/// Nothing is exported: the spans and metrics are made and dropped.
static PROVIDERS: LazyLock<(SdkTracerProvider, SdkMeterProvider)> = LazyLock::new(|| {
    let spans = SdkTracerProvider::builder();
    (spans.build(), SdkMeterProvider::builder().build())
});
static LIVE: LazyLock<Live> = LazyLock::new(Live::new);

fn otel() -> OtelTracer {
    let (spans, metrics) = &*PROVIDERS;
    OtelTracer::new()
        .tracer_provider(spans)
        .meter_provider(metrics)
        .propagator(TextMapCompositePropagator::new(vec![
            Box::new(TraceContextPropagator::new()),
            Box::new(BaggagePropagator::new()),
        ]))
        .trust_forwarded()
        .request_headers(REQUEST)
        .response_headers(RESPONSE)
        .response_trailers(RESPONSE)
}

/// As the specification says: one to eight digits and a unit.
fn timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|d| d.is_ascii_digit());
    let nanos = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1_u128,
        _ => return None,
    };
    let nanos = nanos * digits.parse::<u128>().ok().filter(|_| is_number)?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(
        seconds,
        u32::try_from(nanos % 1_000_000_000).ok()?,
    ))
}

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let role = pick(u, &[Role::Client, Role::Server])?;
    let mut asked = request("application/grpc");
    for _ in 0..u.int_in_range(0..=5)? {
        let name = pick(u, &REQUEST)?;
        let value = value(u, 200)?;
        // A deadline that has passed changes the status, which is not looked at here.
        if name != "content-type" {
            asked.headers_mut().append(name, value);
        }
    }
    let given = asked.headers().get("grpc-timeout").and_then(timeout);
    let mut answer = response(200, "application/grpc", &[]);
    for _ in 0..u.int_in_range(0..=2)? {
        let name = pick(u, &RESPONSE[..3])?;
        let value = value(u, 40)?;
        if name != "content-type" {
            answer.headers_mut().append(name, value);
        }
    }
    let mut trailers = headers([]);
    for _ in 0..u.int_in_range(0..=4)? {
        let name = pick(u, &RESPONSE[3..])?;
        trailers.append(
            name,
            value(u, if name == "grpc-status" { 3 } else { 4_000 })?,
        );
    }
    let sent = trailers.get("grpc-status").cloned();
    *answer.body_mut() = Scripted::new([Step::Trailers(trailers)]);

    let recorder = RecordingTracer::new();
    let tracers = (
        (otel(), MetricsTracer::new(), PrometheusTracer::new()),
        (TracingTracer::new(), LIVE.tracer(), recorder.clone()),
    );
    exchange_with(tracers, role, asked, answer);
    let rpc = recorder.only_finished();
    let _ = (format!("{rpc}"), format!("{rpc:?}"));
    assert_eq!(rpc.timeout(), given);
    let code = sent.as_ref().and_then(|sent| {
        Code::ALL
            .into_iter()
            .find(|code| sent == &(*code as u8).to_string())
    });
    assert_eq!(
        rpc.stats().status(),
        Some(Status::Grpc(code.unwrap_or(Code::Unknown)))
    );
    assert_eq!(rpc.stats().wire_status(), code.map(Status::Grpc));
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = check(&mut Unstructured::new(data));
});
