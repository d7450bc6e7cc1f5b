//! Functions that a user gives to the layer or to a built-in tracer. What is recorded if one panics is tested
//! beside its tracer; here, that the panic is counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tower::{Layer as _, Service as _, service_fn};
use tower_tracer::{
    RequestParts, RpcInfo, Tracer, TracerLayer,
    rpc::Failures,
    tracer::{Either, contained_panics},
};

use crate::{
    alone,
    scripted::{Step, bare_request, data, panic_on_purpose, poll_body, response, run, trailers},
};

/// How many panics one RPC with these steps in its response has contained.
fn contained<T: Tracer>(layer: TracerLayer<T>, steps: &[Step]) -> u64 {
    let before = contained_panics();
    let answer = response(steps.iter().cloned());
    let mut service = layer.layer(service_fn(move |_| {
        let answer = answer.clone();
        async { Ok::<_, tower::BoxError>(answer) }
    }));
    let mut body = run(service.call(bare_request())).unwrap().into_body();
    while !matches!(poll_body(&mut body), std::task::Poll::Ready(None)) {}
    contained_panics() - before
}

#[test]
fn a_panic_of_the_rule_of_failures_is_counted() {
    let _alone = alone();
    let failures = Failures::from_fn(|_| panic_on_purpose());
    let layer = || TracerLayer::new(()).server().failures(failures.clone());
    assert_eq!(contained(layer(), &[trailers("13")]), 1);
    assert_eq!(contained(layer(), &[trailers("5")]), 1);
}

/// Counts calls of its hook, and panics in the second. It wants no events.
struct Hook(Arc<AtomicUsize>);

impl Tracer for Hook {
    type State = usize;

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> usize {
        0
    }

    fn finish(&self, state: usize, _: &RpcInfo) {
        self.0.fetch_add(state, Relaxed);
    }

    fn progress(&self, state: &mut usize, _: &RpcInfo) {
        *state += 1;
        if *state == 2 {
            panic_on_purpose();
        }
    }
}

#[test]
fn a_panic_of_the_progress_hook_is_counted_in_whatever_stack() {
    fn check<T: Tracer>(tracer: T) {
        let layer = TracerLayer::new(tracer).progress_every(Duration::ZERO);
        let steps = [data(1), data(1), data(1), data(1), trailers("0")];
        assert_eq!(contained(layer.server(), &steps), 1);
    }
    let _alone = alone();
    let count = Arc::new(AtomicUsize::new(0));
    let hook = || Hook(Arc::clone(&count));
    check(hook());
    check((hook(), ()));
    check(vec![hook()]);
    check(Some(hook()));
    check(Arc::new(hook()));
    check(hook().boxed());
    check(hook().reloadable());
    check(hook().filter(|_| true));
    check(hook().finish_if(|_| true));
    check(Either::<Hook, ()>::Left(hook()));
    assert_eq!(count.load(Relaxed), 10 * 4);
}

#[cfg(feature = "metrics")]
#[test]
fn a_panic_of_the_function_of_labels_is_counted() {
    use tower_tracer::metrics::MetricsTracer;

    let _alone = alone();
    let tracer = MetricsTracer::new().recorder(metrics::NoopRecorder).labels(
        ["one"],
        |rpc| -> Vec<String> {
            match rpc.stats().failed() {
                false => vec!["1".to_owned()],
                true => panic_on_purpose(),
            }
        },
    );
    let layer = TracerLayer::new(tracer).server();
    assert_eq!(contained(layer.clone(), &[trailers("0")]), 0);
    assert_eq!(contained(layer, &[trailers("13")]), 1);
}

#[cfg(feature = "otel")]
#[test]
fn a_panic_of_each_function_of_attributes_is_counted() {
    use opentelemetry::KeyValue;
    use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
    use tower_tracer::otel::{GrpcMetrics, OtelTracer};

    let _alone = alone();
    let panics = |_: &RpcInfo| -> Option<KeyValue> { panic_on_purpose() };
    let (spans, meters) = (
        SdkTracerProvider::builder().build(),
        SdkMeterProvider::builder().build(),
    );
    let tracer = OtelTracer::new()
        .tracer_provider(&spans)
        .meter_provider(&meters)
        .start_attributes(|_, _| -> Option<KeyValue> { panic_on_purpose() })
        .span_attributes(panics)
        .metric_attributes(panics)
        .grpc_metrics(GrpcMetrics::CallsAndAttempts)
        .grpc_custom_label(|_| panic_on_purpose());
    let layer = TracerLayer::new(tracer).client();
    assert_eq!(contained(layer, &[data(1), trailers("0")]), 5);
}

#[cfg(feature = "live")]
#[test]
fn a_panic_of_the_guard_of_the_live_page_is_counted() {
    use tower::ServiceExt as _;
    use tower_tracer::live::Live;

    let _alone = alone();
    let live = Live::new().guard(|_| panic_on_purpose());
    for uri in ["/", "/.json", "/app.js", "/watch", "/?rpc=1"] {
        let request = http::Request::get(uri).header("host", "localhost");
        let before = contained_panics();
        let answer = live.service().oneshot(request.body(()).unwrap());
        assert_eq!(run(answer).unwrap().status(), 403);
        assert_eq!(contained_panics() - before, 1, "{uri}");
    }
}
