//! `OTEL_SEMCONV_STABILITY_OPT_IN`, read from the environment of a process of its own.

#[path = "it/support/telemetry.rs"]
mod telemetry;

use std::{convert::Infallible, env, process::Command};

use opentelemetry_sdk::trace::SpanData;
use telemetry::{Telemetry, attributes};
use tower::ServiceBuilder;
use tower_tracer::{TracerLayer, methods::KnownMethods};

const OPT_IN: &str = "OTEL_SEMCONV_STABILITY_OPT_IN";

/// Tells the test that it is the process it has started.
const STARTED: &str = "TOWER_TRACER_TEST_STARTED";

/// Prints what one call leaves.
#[tokio::main(flavor = "current_thread")]
async fn one_call() {
    let telemetry = Telemetry::new();
    let tracer = telemetry.tracer().methods(KnownMethods::new(["a.B/C"]));
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(tracer).server())
        .service_fn(async |_: http::Request<String>| {
            let response = http::Response::builder().header("grpc-status", "0");
            Ok::<_, Infallible>(response.body(String::new()).unwrap())
        });
    let request = http::Request::post("/a.B/C").header("content-type", "application/grpc");
    let request = request.body(String::new()).unwrap();
    service.oneshot(request).await.unwrap();
    let names = |span: &SpanData| attributes(&span.attributes).join(" ");
    println!("metrics: {}", telemetry.metrics().join(" "));
    println!("span: {}", names(&telemetry.spans()[0]));
}

#[test]
fn the_environment_says_which_conventions_are_followed() {
    if env::var_os(STARTED).is_some() {
        return one_call();
    }
    let new = (
        "metrics: rpc.server.call.duration",
        "span: rpc.method=a.B/C rpc.status_code=OK rpc.system.name=grpc",
    );
    let both = (
        "metrics: rpc.server.call.duration rpc.server.duration",
        "span: rpc.grpc.status_code=0 rpc.method=a.B/C rpc.service=a.B \
         rpc.status_code=OK rpc.system.name=grpc rpc.system=grpc",
    );
    for (asked, (metrics, span)) in [
        (None, new),
        (Some(""), new),
        (Some("rpc"), new),
        (Some("http,database"), new),
        (Some("rpc/duplicate"), new),
        (Some("rpc/dup"), both),
        (Some("http/dup, rpc/dup"), both),
        // With both asked for, the duplicates win.
        (Some("rpc,rpc/dup"), both),
        (Some("rpc/dup,rpc"), both),
    ] {
        let mut child = Command::new(env::current_exe().unwrap());
        child.arg("--nocapture").env(STARTED, "1");
        match asked {
            Some(asked) => child.env(OPT_IN, asked),
            None => child.env_remove(OPT_IN),
        };
        let output = child.output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{printed}");
        for expected in [metrics, span] {
            assert!(
                printed.lines().any(|line| line == expected),
                "{asked:?}: {printed}"
            );
        }
    }
}
