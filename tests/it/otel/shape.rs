//! What users shape of the OpenTelemetry tracer: their own attributes and labels, targets, headers,
//! metrics.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::telemetry::{Telemetry, attributes};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use opentelemetry::KeyValue;
use tower::ServiceBuilder;
use tower_tracer::{
    RpcInfo, Tracer, TracerLayer,
    methods::KnownMethods,
    otel::{GrpcMetrics, OtelTracer},
    rpc::Target,
};

/// A gRPC response of one message, with its code and this in its trailers.
fn answer(code: u32, trailers: HeaderMap) -> Response<BoxBody<Bytes, Infallible>> {
    let mut all = trailers;
    all.insert("grpc-status", code.into());
    let body = Full::from(&b"\0\0\0\0\x01x"[..]).with_trailers(async { Some(Ok(all)) });
    let mut response = Response::new(BoxBody::new(body));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

fn request(uri: &str) -> http::request::Builder {
    Request::post(uri).header("content-type", "application/grpc")
}

/// One call through a layer, to the end of its body. The handler tags it with its `tenant` header.
async fn call<T: Tracer>(layer: TracerLayer<T>, request: Request<String>, trailers: HeaderMap) {
    let service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(|request: Request<String>| {
            let tenant = request.headers().get("tenant");
            if let Some(tenant) = tenant.and_then(|tenant| tenant.to_str().ok()) {
                let rpc = request.extensions().get::<RpcInfo>().unwrap();
                rpc.set_tag("tenant", tenant.to_owned());
            }
            let answer = answer(0, trailers.clone());
            async { Ok::<_, Infallible>(answer) }
        });
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
}

fn known(telemetry: &Telemetry) -> OtelTracer {
    telemetry.tracer().methods(KnownMethods::new(["a.B/C"]))
}

fn span(telemetry: &Telemetry) -> Vec<String> {
    attributes(&telemetry.spans().pop().unwrap().attributes)
}

#[tokio::test]
async fn span_has_attributes_of_a_user_from_its_start_and_its_end() {
    let telemetry = Telemetry::new();
    let tracer = known(&telemetry)
        .start_attributes(|rpc, request| {
            assert!(rpc.stats().ending().is_none());
            let tenant = request.headers().get("tenant")?.to_str().ok()?;
            Some(KeyValue::new("shop.tenant", tenant.to_owned()))
        })
        .span_attributes(|rpc| {
            assert!(rpc.stats().ending().is_some());
            let bytes = rpc.stats().response().message_bytes()?;
            Some(KeyValue::new("shop.bytes", i64::try_from(bytes).ok()?))
        });
    let request = request("/a.B/C").header("tenant", "blue");
    let layer = TracerLayer::new(tracer).server();
    call(
        layer,
        request.body(String::new()).unwrap(),
        HeaderMap::new(),
    )
    .await;
    assert_eq!(
        span(&telemetry),
        [
            "rpc.method=a.B/C",
            "rpc.status_code=OK",
            "rpc.system.name=grpc",
            "shop.bytes=1",
            "shop.tenant=blue",
            "tenant=blue",
        ]
    );
}

#[tokio::test]
async fn function_that_panics_loses_its_attributes_alone() {
    let telemetry = Telemetry::new();
    let count = Arc::new(AtomicUsize::new(0));
    let panics = || {
        let count = Arc::clone(&count);
        move || -> ! {
            count.fetch_add(1, Ordering::Relaxed);
            panic!("told to panic")
        }
    };
    let (start, span_end, metric, label) = (panics(), panics(), panics(), panics());
    let tracer = known(&telemetry)
        .start_attributes(move |_, _| -> Option<KeyValue> { start() })
        .span_attributes(move |_| -> Option<KeyValue> { span_end() })
        .metric_attributes(move |_| -> Option<KeyValue> { metric() })
        .grpc_metrics(GrpcMetrics::CallsAndAttempts)
        .grpc_custom_label(move |_| label());
    let layer = TracerLayer::new(tracer).client();
    call(
        layer,
        request("/a.B/C").body(String::new()).unwrap(),
        HeaderMap::new(),
    )
    .await;
    assert_eq!(count.load(Ordering::Relaxed), 5);
    assert_eq!(
        span(&telemetry),
        [
            "rpc.method=a.B/C",
            "rpc.status_code=OK",
            "rpc.system.name=grpc"
        ]
    );
    assert_eq!(telemetry.histogram("rpc.client.call.duration")[0].count, 1);
    assert_eq!(
        telemetry.histogram("grpc.client.call.duration")[0].attributes,
        [
            "grpc.client.call.custom=",
            "grpc.method=a.B/C",
            "grpc.status=OK"
        ]
    );
}

#[tokio::test]
async fn labels_that_callers_choose_make_a_bounded_number_of_series() {
    let telemetry = Telemetry::new();
    let tracer = known(&telemetry)
        .metric_tags(["tenant"])
        .metric_attribute_combinations(10);
    let layer = TracerLayer::new(tracer).server();
    let long = "x".repeat(60_000);
    let odd = ["a\"b\\c", "two words", &long].map(str::to_owned);
    let many = (0..200).map(|n| format!("tenant {n}"));
    for tenant in odd.into_iter().chain(many) {
        let request = request("/a.B/C").header("tenant", tenant);
        call(
            layer.clone(),
            request.body(String::new()).unwrap(),
            HeaderMap::new(),
        )
        .await;
    }
    let points = telemetry.histogram("rpc.server.call.duration");
    assert_eq!(points.len(), 11);
    assert_eq!(points.iter().map(|point| point.count).sum::<u64>(), 203);
    let tenants: BTreeSet<_> = points
        .iter()
        .flat_map(|point| &point.attributes)
        .filter_map(|a| a.strip_prefix("tenant="))
        .collect();
    assert!(tenants.contains("a\"b\\c") && tenants.contains(&long[..128]));
    let overflow: Vec<_> = points
        .iter()
        .filter(|point| {
            point
                .attributes
                .contains(&"otel.metric.overflow=true".to_owned())
        })
        .map(|point| point.count)
        .collect();
    assert_eq!(overflow, [193]);
}

#[tokio::test]
async fn grpcs_metrics_have_one_custom_label() {
    let telemetry = Telemetry::new();
    let tracer = known(&telemetry)
        .grpc_metrics(GrpcMetrics::CallsAndAttempts)
        .grpc_custom_label(|rpc| Some(rpc.tag("tenant")?.into_owned()));
    let layer = TracerLayer::new(tracer).client();
    for tenant in ["blue", ""] {
        let request = request("/a.B/C").header("tenant", tenant);
        call(
            layer.clone(),
            request.body(String::new()).unwrap(),
            HeaderMap::new(),
        )
        .await;
    }
    // The handler tags the call after its start.
    let started = "grpc.client.call.custom= grpc.method=a.B/C".to_owned();
    assert_eq!(telemetry.sum("grpc.client.attempt.started"), [(started, 2)]);
    for name in ["grpc.client.call.duration", "grpc.client.attempt.duration"] {
        let mut points = telemetry.histogram(name);
        points.sort_by_key(|point| point.attributes.clone());
        let of = |label: &str| {
            [
                format!("grpc.client.call.custom={label}"),
                "grpc.method=a.B/C".to_owned(),
                "grpc.status=OK".to_owned(),
            ]
        };
        let found: Vec<_> = points.iter().map(|point| &*point.attributes).collect();
        assert_eq!(found, [&of("")[..], &of("blue")[..]]);
    }
}

#[tokio::test]
async fn target_of_a_client_is_where_grpc_and_the_conventions_have_it() {
    let endpoint = tonic::transport::Endpoint::from_static("https://shop.example");
    let name: Target = "dns:///shop.example:443".parse().unwrap();
    for target in [Target::from(&endpoint), name] {
        let telemetry = Telemetry::new();
        let tracer = known(&telemetry).grpc_metrics(GrpcMetrics::CallsAndAttempts);
        let layer = TracerLayer::new(tracer).client().target(target.clone());
        call(
            layer,
            request("/a.B/C").body(String::new()).unwrap(),
            HeaderMap::new(),
        )
        .await;
        let found = span(&telemetry);
        assert!(
            found.contains(&"server.address=shop.example".to_owned()),
            "{found:?}"
        );
        let started = telemetry.sum("grpc.client.attempt.started");
        let expected = "grpc.method=a.B/C grpc.target=dns:///shop.example:443";
        assert_eq!(started, [(expected.to_owned(), 1)]);
    }
    // An endpoint that has no host is as none.
    let endpoint = tonic::transport::Endpoint::from("/path".parse::<http::Uri>().unwrap());
    let telemetry = Telemetry::new();
    let layer = TracerLayer::new(known(&telemetry))
        .client()
        .target(&endpoint);
    call(
        layer,
        request("/a.B/C").body(String::new()).unwrap(),
        HeaderMap::new(),
    )
    .await;
    assert!(!span(&telemetry).iter().any(|a| a.starts_with("server.")));
}

#[tokio::test]
async fn targets_are_named_as_a_user_chooses() {
    let telemetry = Telemetry::new();
    let tracer = || {
        known(&telemetry)
            .grpc_metrics(GrpcMetrics::CallsAndAttempts)
            .grpc_targets(|target| target.ends_with(".internal:80"))
    };
    for target in ["http://shop.internal", "http://tenant-17.example"] {
        let layer = TracerLayer::new(tracer())
            .client()
            .target(target.parse::<Target>().unwrap());
        call(
            layer,
            request("/a.B/C").body(String::new()).unwrap(),
            HeaderMap::new(),
        )
        .await;
    }
    let mut targets: Vec<_> = telemetry
        .sum("grpc.client.attempt.started")
        .into_iter()
        .map(|(attributes, _)| attributes.split("grpc.target=").last().unwrap().to_owned())
        .collect();
    targets.sort();
    assert_eq!(targets, ["dns:///shop.internal:80", "other"]);
}

#[tokio::test]
async fn server_is_named_as_its_callers_name_it_in_spans_alone() {
    let telemetry = Telemetry::new();
    let layer = TracerLayer::new(known(&telemetry)).server();
    let with_host = request("/a.B/C").header("host", "shop.example");
    for (request, expected) in [
        (
            request("http://shop.example:50051/a.B/C"),
            vec!["server.address=shop.example", "server.port=50051"],
        ),
        (with_host, vec!["server.address=shop.example"]),
        (request("/a.B/C"), vec![]),
    ] {
        let request = request.body(String::new()).unwrap();
        call(layer.clone(), request, HeaderMap::new()).await;
        let mut found = span(&telemetry);
        found.retain(|a| a.starts_with("server."));
        assert_eq!(found, expected);
    }
    assert_eq!(telemetry.histogram("rpc.server.call.duration").len(), 1);
}

#[tokio::test]
async fn trailers_are_recorded_by_an_allow_list() {
    let telemetry = Telemetry::new();
    let tracer = known(&telemetry)
        .response_headers(["content-type"])
        .response_trailers(["retry", "key-bin", "token"]);
    let mut trailers = HeaderMap::new();
    trailers.insert("retry", HeaderValue::from_static("later"));
    trailers.insert("key-bin", HeaderValue::from_bytes(&[0xff, 0xfe]).unwrap());
    trailers.insert("other", HeaderValue::from_static("secret"));
    let mut token = HeaderValue::from_static("secret");
    token.set_sensitive(true);
    trailers.insert("token", token);
    let layer = TracerLayer::new(tracer).client();
    call(
        layer,
        request("/a.B/C").body(String::new()).unwrap(),
        trailers,
    )
    .await;
    let mut found = span(&telemetry);
    found.retain(|a| a.starts_with("rpc.response."));
    assert_eq!(
        found,
        [
            "rpc.response.header.content-type=[\"application/grpc\"]",
            "rpc.response.trailer.key-bin=[\"//4=\"]",
            "rpc.response.trailer.retry=[\"later\"]",
        ]
    );
}

#[tokio::test]
async fn response_that_ends_with_its_headers_has_its_trailers_there() {
    let telemetry = Telemetry::new();
    let tracer = known(&telemetry).response_trailers(["retry"]);
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(tracer).client())
        .service_fn(async |_: Request<String>| {
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "14")
                .header("retry", "later");
            Ok::<_, Infallible>(response.body(String::new()).unwrap())
        });
    service
        .oneshot(request("/a.B/C").body(String::new()).unwrap())
        .await
        .unwrap();
    let expected = "rpc.response.trailer.retry=[\"later\"]".to_owned();
    assert!(span(&telemetry).contains(&expected));
}

#[test]
#[should_panic(expected = "\"no header\" is not the name of a header")]
fn name_that_is_not_a_headers_is_an_error_of_the_configuration() {
    let _ = OtelTracer::new().request_headers(["tenant", "no header"]);
}

#[test]
#[should_panic(expected = "\"rpc.duration\" is not a metric of this tracer")]
fn metric_that_does_not_exist_cannot_be_left_out() {
    let _ = OtelTracer::new().without_metrics(["rpc.duration"]);
}

#[tokio::test]
async fn single_metrics_are_left_out() {
    let telemetry = Telemetry::new();
    let tracer = || known(&telemetry).grpc_metrics(GrpcMetrics::CallsAndAttempts);
    let layer = TracerLayer::new(tracer()).client();
    call(
        layer,
        request("/a.B/C").body(String::new()).unwrap(),
        HeaderMap::new(),
    )
    .await;
    let all = telemetry.metrics();
    assert!(all.len() > 4);

    let rest = Telemetry::new();
    let tracer = known(&rest)
        .grpc_metrics(GrpcMetrics::CallsAndAttempts)
        .without_metrics(["rpc.client.call.duration", "grpc.client.attempt.started"]);
    let layer = TracerLayer::new(tracer).client();
    call(
        layer,
        request("/a.B/C").body(String::new()).unwrap(),
        HeaderMap::new(),
    )
    .await;
    let mut expected = all;
    expected
        .retain(|name| name != "rpc.client.call.duration" && name != "grpc.client.attempt.started");
    assert_eq!(rest.metrics(), expected);
}

#[tokio::test(start_paused = true)]
async fn time_between_attempts_and_hedges_are_measured() {
    let telemetry = Telemetry::new();
    let calls = known(&telemetry).grpc_metrics(GrpcMetrics::Calls);
    let attempts = known(&telemetry).grpc_metrics(GrpcMetrics::Attempts);
    let inner = ServiceBuilder::new()
        .layer(TracerLayer::new(attempts).client())
        .service_fn(async |_: Request<String>| Ok::<_, Infallible>(answer(14, HeaderMap::new())));
    // It tries again after a wait, and then twice at once.
    let service = ServiceBuilder::new()
        .layer(TracerLayer::new(calls).client())
        .service_fn(|request: Request<String>| {
            let inner = inner.clone();
            async move {
                let again = || {
                    let mut copy = Request::post(request.uri().clone());
                    *copy.headers_mut().unwrap() = request.headers().clone();
                    *copy.extensions_mut().unwrap() = request.extensions().clone();
                    copy.body(String::new()).unwrap()
                };
                let first = inner.clone().oneshot(again()).await?;
                let _ = first.into_body().collect().await;
                // Durations are real ones, also where tokio's time is paused.
                std::thread::sleep(Duration::from_millis(20));
                let second = inner.clone().oneshot(again()).await?;
                let third = inner.clone().oneshot(again()).await?;
                let _ = second.into_body().collect().await;
                Ok::<_, Infallible>(third)
            }
        });
    let response = service
        .oneshot(request("/a.B/C").body(String::new()).unwrap())
        .await;
    response.unwrap().into_body().collect().await.unwrap();
    let one = |name: &str| {
        let points = telemetry.histogram(name);
        assert_eq!(points.len(), 1, "{name}");
        assert_eq!(points[0].attributes, ["grpc.method=a.B/C"]);
        (points[0].count, points[0].sum)
    };
    assert_eq!(one("grpc.client.call.retries"), (1, 1.0));
    assert_eq!(one("grpc.client.call.hedges"), (1, 1.0));
    let (count, delay) = one("grpc.client.call.retry_delay");
    assert_eq!(count, 1);
    assert!((0.02..1.0).contains(&delay), "{delay}");
}

#[tokio::test]
async fn plain_http_has_query_agent_template_and_sizes_where_they_are_asked_for() {
    let telemetry = Telemetry::new();
    let tracer = || {
        telemetry
            .tracer()
            .url_query()
            .http_body_sizes()
            .url_template(|request| Some(request.path().replace('7', "{id}")))
    };
    let uri = "http://shop.example/items/7?sig=secret&page=2";
    for layer in [
        TracerLayer::new(tracer()).client(),
        TracerLayer::new(tracer()).server(),
    ] {
        let service =
            ServiceBuilder::new()
                .layer(layer)
                .service_fn(async |_: Request<tonic::body::Body>| {
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(&b"page"[..])))
                });
        let body = tonic::body::Body::new(Full::<Bytes>::from(&b"form!"[..]));
        let request = Request::get(uri).header("user-agent", "shop/1");
        let response = service.oneshot(request.body(body).unwrap()).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let [client, server] = &telemetry.spans()[..] else {
        panic!("two spans")
    };
    assert_eq!(client.name, "GET /items/{id}");
    assert_eq!(
        attributes(&client.attributes),
        [
            "http.request.method=GET",
            "http.response.status_code=200",
            "network.protocol.version=1.1",
            "server.address=shop.example",
            "server.port=80",
            "url.full=http://shop.example/items/7?sig=REDACTED&page=2",
            "url.template=/items/{id}",
        ]
    );
    assert_eq!(
        attributes(&server.attributes),
        [
            "http.request.method=GET",
            "http.response.status_code=200",
            "network.protocol.version=1.1",
            "server.address=shop.example",
            "server.port=80",
            "url.path=/items/7",
            "url.query=sig=REDACTED&page=2",
            "url.scheme=http",
            "user_agent.original=shop/1",
        ]
    );
    for (name, sum) in [
        ("http.client.response.body.size", 4.0),
        ("http.server.response.body.size", 4.0),
    ] {
        assert_eq!(telemetry.histogram(name)[0].sum, sum);
        assert_eq!(telemetry.unit(name), "By");
    }
}

#[tokio::test]
async fn public_is_decided_for_each_request() {
    let telemetry = Telemetry::new();
    let tracer = known(&telemetry)
        .public_endpoint_if(|request| request.headers().contains_key("from-outside"));
    let layer = TracerLayer::new(tracer).server();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (outside, links) in [(false, 0), (true, 1)] {
        let mut request = request("/a.B/C").header("traceparent", parent);
        if outside {
            request = request.header("from-outside", "yes");
        }
        call(
            layer.clone(),
            request.body(String::new()).unwrap(),
            HeaderMap::new(),
        )
        .await;
        let span = telemetry.spans().pop().unwrap();
        assert_eq!(span.links.len(), links);
        let trace = span.span_context.trace_id().to_string();
        assert_eq!(trace == "4bf92f3577b34da6a3ce929d0e0e4736", !outside);
    }
}
