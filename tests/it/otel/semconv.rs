//! Every name that the tracers emit is one of the conventions, or one that this file lists.
//!
//! The list of the conventions is checked in. For a new version, `.ci/semconv.py` writes a new one.

use std::{collections::BTreeSet, convert::Infallible};

use crate::support::telemetry::Telemetry;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use opentelemetry::KeyValue;
use tower::ServiceBuilder;
use tower_tracer::{
    TracerLayer,
    methods::KnownMethods,
    otel::{Conventions, GrpcMetrics, OtelTracer},
};

const REGISTRY: &str = include_str!("semconv/1.45.0.txt");

/// Names that are not OpenTelemetry's, and whose they are.
const OTHERS: [(&str, &str); 16] = [
    ("grpc.client.attempt.duration", "gRFC A66"),
    (
        "grpc.client.attempt.rcvd_total_compressed_message_size",
        "gRFC A66",
    ),
    (
        "grpc.client.attempt.sent_total_compressed_message_size",
        "gRFC A66",
    ),
    ("grpc.client.attempt.started", "gRFC A66"),
    ("grpc.client.call.duration", "gRFC A66"),
    ("grpc.method", "gRFC A66"),
    (
        "grpc.server.call.rcvd_total_compressed_message_size",
        "gRFC A66",
    ),
    (
        "grpc.server.call.sent_total_compressed_message_size",
        "gRFC A66",
    ),
    ("grpc.server.call.duration", "gRFC A66"),
    ("grpc.server.call.started", "gRFC A66"),
    ("grpc.status", "gRFC A66"),
    ("grpc.target", "gRFC A66"),
    ("message-size", "gRFC A72"),
    ("sequence-number", "gRFC A72"),
    ("tower_tracer.client.active_calls", "this crate"),
    ("tower_tracer.server.active_calls", "this crate"),
];

/// Whether a name is in the registry, and whether it is stable there.
fn registered(name: &str) -> Option<bool> {
    REGISTRY.lines().find_map(|line| {
        let (known, stable) = match line.strip_suffix(" stable") {
            Some(known) => (known, true),
            None => (line, false),
        };
        let found = match known.strip_suffix("<key>") {
            Some(prefix) => name.strip_prefix(prefix).is_some_and(|key| !key.is_empty()),
            None => known == name,
        };
        found.then_some(stable)
    })
}

type Body = http_body_util::combinators::BoxBody<bytes::Bytes, Infallible>;

/// One RPC and one exchange of plain HTTP on a side, with all that can be turned on.
async fn emit(conventions: Conventions) -> BTreeSet<String> {
    let telemetry = Telemetry::new();
    let tracer = || -> OtelTracer {
        telemetry
            .tracer()
            .conventions(conventions)
            .methods(KnownMethods::new(["a.B/C"]))
            .grpc_metrics(GrpcMetrics::CallsAndAttempts)
            .in_flight()
            .message_events()
            .trust_forwarded()
            .request_headers(["tenant"])
            .response_headers(["tenant"])
            .response_trailers(["tenant"])
            .http_body_sizes()
            .url_query()
            .http_route(|_| Some("/{all}".to_owned()))
            .url_template(|_| Some("/{all}".to_owned()))
    };
    for layer in [
        TracerLayer::new(tracer()).client(),
        TracerLayer::new(tracer()).server(),
    ] {
        let service = ServiceBuilder::new().layer(layer).service_fn(
            |request: Request<tonic::body::Body>| async move {
                let is_grpc = request.headers().contains_key("content-type");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "13".parse().unwrap());
                trailers.insert("tenant", "blue".parse().unwrap());
                let body = Full::from(&b"\0\0\0\0\x01x"[..])
                    .with_trailers(async move { is_grpc.then_some(Ok(trailers)) });
                let mut response = Response::new(Body::new(body));
                response
                    .headers_mut()
                    .insert("tenant", "blue".parse().unwrap());
                match is_grpc {
                    true => {
                        let grpc = "application/grpc".parse().unwrap();
                        response.headers_mut().insert("content-type", grpc);
                    }
                    false => *response.status_mut() = StatusCode::BAD_GATEWAY,
                }
                Ok::<_, Infallible>(response)
            },
        );
        for (path, grpc) in [("a.B/C", true), ("a.B/D", true), ("page?sig=x", false)] {
            let mut request = Request::post(format!("http://shop.example:1/{path}"))
                .header("tenant", "blue")
                .header("user-agent", "test")
                .header("x-forwarded-for", "10.0.0.1");
            if grpc {
                request = request.header("content-type", "application/grpc");
            }
            let request = request.body(tonic::body::Body::empty()).unwrap();
            let response = service.clone().oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
    }
    let mut names = BTreeSet::new();
    let mut add = |attributes: &[KeyValue]| {
        names.extend(attributes.iter().map(|a| a.key.as_str().to_owned()));
    };
    let schema = match conventions {
        Conventions::New => Some("https://opentelemetry.io/schemas/1.45.0"),
        _ => None,
    };
    for span in telemetry.spans() {
        assert_eq!(span.instrumentation_scope.schema_url(), schema);
        add(&span.attributes);
        span.events.iter().for_each(|event| add(&event.attributes));
    }
    for metric in telemetry.metrics() {
        assert_eq!(telemetry.schema_url(&metric).as_deref(), schema);
        names.extend(telemetry.label_names(&metric));
        names.insert(metric);
    }
    names
}

#[tokio::test]
async fn every_name_is_of_the_conventions_or_listed() {
    let names = emit(Conventions::New).await;
    let unknown: Vec<_> = names
        .iter()
        .filter(|name| registered(name).is_none())
        .map(|name| &**name)
        .collect();
    let mut others = OTHERS.map(|(name, _)| name);
    others.sort_unstable();
    assert_eq!(unknown, others);

    // What is not stable is an opt-in.
    let unstable: Vec<_> = names
        .iter()
        .filter(|name| registered(name) == Some(false))
        .map(|name| &**name)
        .collect();
    assert_eq!(
        unstable,
        [
            "http.client.active_requests",
            "http.client.request.body.size",
            "http.client.response.body.size",
            "http.server.active_requests",
            "http.server.request.body.size",
            "http.server.response.body.size",
            "rpc.request.header.tenant",
            "rpc.response.header.tenant",
            "rpc.response.trailer.tenant",
            "url.template",
        ]
    );
    // All that are stable for RPC are there.
    for line in REGISTRY.lines().filter(|line| line.starts_with("rpc.")) {
        if let Some(name) = line.strip_suffix(" stable") {
            assert!(names.contains(name), "{name}");
        }
    }
}

#[tokio::test]
async fn old_conventions_have_their_own_names_and_no_schema() {
    let old = [
        "rpc.client.duration",
        "rpc.grpc.request.metadata.tenant",
        "rpc.grpc.response.metadata.tenant",
        "rpc.grpc.status_code",
        "rpc.server.duration",
        "rpc.service",
        "rpc.system",
    ];
    let legacy = emit(Conventions::Legacy).await;
    let both = emit(Conventions::Both).await;
    for name in old {
        assert!(legacy.contains(name) && both.contains(name), "{name}");
    }
    for name in [
        "rpc.system.name",
        "rpc.status_code",
        "rpc.server.call.duration",
    ] {
        assert!(!legacy.contains(name) && both.contains(name), "{name}");
    }
}
