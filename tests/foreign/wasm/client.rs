//! A generated client of tonic in a browser, with the layer on it.
#![cfg(all(target_family = "wasm", target_os = "unknown"))]

#[rustfmt::skip]
#[allow(clippy::all)]
mod generated;
mod record;

use std::time::Duration;

use generated::{EchoRequest, EchoResponse, echo_client::EchoClient};
use serde_json::json;
use tonic::{
    Request, Response, Status,
    client::GrpcService,
    codegen::{Body, Bytes, StdError},
};
use tonic_web_wasm_client::Client;
use tower::ServiceBuilder;
use tower_tracer::{
    TracerLayer, metrics::MetricsTracer, otel::OtelTracer, prometheus::PrometheusTracer,
    testing::RecordingTracer, tracing::TracingTracer,
};
use wasm_bindgen::prelude::wasm_bindgen;
use web_time::Instant;

/// Makes the calls, one after the other, and gives as JSON what the callers saw and what was recorded of each.
#[wasm_bindgen]
pub async fn run(server: String, closed: String) -> String {
    std::panic::set_hook(Box::new(|panic| {
        wasm_bindgen::throw_str(&panic.to_string())
    }));

    let recorder = RecordingTracer::new();
    let prometheus = PrometheusTracer::new();
    let layer = TracerLayer::new((
        recorder.clone(),
        prometheus.clone(),
        TracingTracer::new(),
        OtelTracer::new(),
        MetricsTracer::new(),
    ));
    let layer = layer.error_type::<tonic_web_wasm_client::Error>();
    let client = |server: String| {
        let service = ServiceBuilder::new().layer(layer.clone());
        EchoClient::new(service.service(Client::new(server)))
    };

    let mut calls = Vec::new();
    let mut add = |name: &str, seen: Result<Vec<String>, Status>| {
        let (messages, status) = match seen {
            Ok(messages) => (messages, None),
            Err(status) => (Vec::new(), Some(status)),
        };
        // Of one that it drops, a caller sees no status.
        let code = status.map_or(0, |status| i32::from(status.code()));
        calls.push(json!({
            "call": name,
            "caller": { "messages": messages, "code": code },
            "record": record::json(&recorder.only_finished()),
            "log": recorder.log(),
            "deadline": recorder.only_finished().deadline().map(left),
        }));
        recorder.clear();
    };

    let mut echo = client(server.clone());
    let hello = EchoRequest {
        message: "hello".to_owned(),
        ..EchoRequest::default()
    };

    let mut request = Request::new(hello.clone());
    request.set_timeout(Duration::from_secs(3600));
    add("unary", message(echo.unary_echo(request).await));

    let failing = EchoRequest {
        message: "no such thing".to_owned(),
        code: tonic::Code::NotFound as u32,
        ..EchoRequest::default()
    };
    add("error", message(echo.unary_echo(failing).await));

    let three = EchoRequest {
        count: 3,
        ..hello.clone()
    };
    add("stream", stream(&mut echo, three, usize::MAX).await);

    let failing = EchoRequest {
        count: 2,
        code: tonic::Code::Aborted as u32,
        ..hello.clone()
    };
    add(
        "failing_stream",
        stream(&mut echo, failing, usize::MAX).await,
    );

    // It would take 100 seconds.
    let slow = EchoRequest {
        count: 1000,
        delay_ms: 100,
        ..hello.clone()
    };
    add("dropped_stream", stream(&mut echo, slow, 2).await);

    let answer = client(closed).unary_echo(hello).await;
    add("unreachable", message(answer));

    json!({ "calls": calls, "prometheus": prometheus.encode() }).to_string()
}

fn message(answer: Result<Response<EchoResponse>, Status>) -> Result<Vec<String>, Status> {
    answer.map(|answer| vec![answer.into_inner().message])
}

/// Reads at most so many messages of a server stream.
async fn stream<S>(
    echo: &mut EchoClient<S>,
    request: EchoRequest,
    most: usize,
) -> Result<Vec<String>, Status>
where
    S: GrpcService<tonic::body::Body>,
    S::Error: Into<StdError>,
    S::ResponseBody: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    let mut messages = Vec::new();
    let mut responses = echo.server_streaming_echo(request).await?.into_inner();
    while messages.len() < most
        && let Some(response) = responses.message().await?
    {
        messages.push(response.message);
    }
    Ok(messages)
}

/// Seconds until then.
fn left(deadline: Instant) -> f64 {
    deadline.duration_since(Instant::now()).as_secs_f64()
}
