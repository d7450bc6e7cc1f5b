//! A request that is passed on without end gathers no records, whatever its tracers put into it.

use std::{
    convert::Infallible,
    iter,
    sync::{Arc, Mutex},
};

use allocation_counter::measure;
use futures_util::FutureExt as _;
use http::{Request, Response};
use metrics::NoopRecorder;
use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
use tonic::body::Body;
use tower::{Layer as _, Service as _, service_fn};
use tower_tracer::{
    RpcInfo, Tracer, TracerLayer, metrics::MetricsTracer, on_finish, otel, tracing::TracingTracer,
};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

fn grpc() -> Request<Body> {
    let request = Request::post("/a.B/C").header("content-type", "application/grpc");
    request.body(Body::empty()).unwrap()
}

/// Calls again and again, each time with the extensions that the handler got, and returns the last
/// request: so each record is the child of the one before.
fn pass_on<T: Tracer>(
    layers: [TracerLayer<T>; 2],
    times: usize,
    first: Request<Body>,
) -> Request<Body> {
    let received = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&received);
    let handler = service_fn(move |request: Request<Body>| {
        *seen.lock().unwrap() = Some(request);
        let response = Response::builder().header("grpc-status", "0");
        std::future::ready(Ok::<_, Infallible>(response.body(Body::empty()).unwrap()))
    });
    let mut services = layers.map(|layer| layer.layer(handler.clone()));
    let mut request = first;
    for time in 0..times {
        let service = &mut services[time % 2];
        service.call(request).now_or_never().unwrap().unwrap();
        let passed_on = received.lock().unwrap().take().unwrap();
        // A new request, of which the rest is the old one's.
        request = grpc();
        *request.extensions_mut() = passed_on.into_parts().0.extensions;
    }
    request
}

fn ancestors(request: &Request<Body>) -> usize {
    let rpc = request.extensions().get::<RpcInfo>().unwrap();
    iter::successors(rpc.parent(), |rpc| rpc.parent()).count()
}

/// Bytes that are held after so many passes.
fn held<T: Tracer>(layers: impl Fn() -> [TracerLayer<T>; 2], times: usize) -> i64 {
    let layers = layers();
    let first = pass_on(layers.clone(), 200, grpc());
    let mut last = None;
    let held = measure(|| last = Some(pass_on(layers, times, first))).bytes_current;
    assert!(ancestors(last.as_ref().unwrap()) <= 64);
    held
}

// Ending 49.
#[test]
fn a_request_that_is_passed_on_200_000_times_holds_no_more_than_65_records() {
    // As attempts of one call, and as servers that call and clients that are called in turn.
    let attempts = || [(), ()].map(|()| TracerLayer::new(()).client());
    let in_turn = || [TracerLayer::new(()).server(), TracerLayer::new(()).client()];
    let few = held(attempts, 1_000);
    for many in [held(attempts, 200_000), held(in_turn, 200_000)] {
        assert!(
            many - few < 100_000,
            "{many} bytes after 200,000, {few} after 1,000"
        );
    }
}

#[test]
fn the_built_in_tracers_hold_no_more_of_it_either() {
    let _on = tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::sink))
        .set_default();
    let spans = SdkTracerProvider::builder().build();
    let meters = SdkMeterProvider::builder().build();
    let layers = || {
        let all = Arc::new((
            otel::OtelTracer::new()
                .tracer_provider(&spans)
                .meter_provider(&meters),
            TracingTracer::new(),
            MetricsTracer::new().recorder(NoopRecorder),
        ));
        [
            TracerLayer::new(Arc::clone(&all)).server(),
            TracerLayer::new(all).client(),
        ]
    };
    let few = held(layers, 1_000);
    let many = held(layers, 20_000);
    assert!(
        many - few < 200_000,
        "{many} bytes after 20,000, {few} after 1,000"
    );
}

/// The first of a new chain is not an attempt, has no parent, and samples as the old chain does.
#[test]
fn a_new_chain_inherits_the_draw_of_the_old_one() {
    let parents = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&parents);
    let draws = Arc::new(Mutex::new(Vec::new()));
    let drawn = Arc::clone(&draws);
    let layer = TracerLayer::new(
        on_finish(move |rpc: &RpcInfo| {
            let outer = rpc.same_request_parent().is_some();
            seen.lock()
                .unwrap()
                .push((rpc.parent().is_some(), outer, rpc.attempt()));
        })
        .filter(move |candidate| {
            drawn.lock().unwrap().push(candidate.draw());
            true
        }),
    )
    .client();
    pass_on([layer.clone(), layer], 150, grpc());
    for (number, kept) in parents.lock().unwrap().iter().enumerate() {
        let linked = number % 65 != 0;
        assert_eq!(*kept, (linked, linked, 1), "record {number}");
    }
    let draws = draws.lock().unwrap();
    assert!(
        draws.len() == 150 && draws.iter().all(|draw| *draw == draws[0]),
        "{draws:?}"
    );
}
