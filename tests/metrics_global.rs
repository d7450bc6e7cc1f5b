//! A recorder of a type without size, installed for the process after the first call.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{Request, Response};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use tower::{Layer as _, service_fn};
use tower_tracer::{TracerLayer, metrics::MetricsTracer};

static STARTED: AtomicU64 = AtomicU64::new(0);

struct Started;

struct Sizeless;

impl CounterFn for Started {
    fn increment(&self, more: u64) {
        STARTED.fetch_add(more, Ordering::Relaxed);
    }

    fn absolute(&self, _: u64) {}
}

impl Recorder for Sizeless {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match key.name() {
            "rpc_started_total" => Counter::from_arc(Arc::new(Started)),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn a_recorder_without_size_counts_once_it_is_installed() {
    let layer = TracerLayer::new(MetricsTracer::new()).server();
    let call = async || {
        let service = layer.layer(service_fn(async |_: Request<String>| {
            Ok::<_, Infallible>(Response::new(String::new()))
        }));
        service.oneshot(Request::new(String::new())).await.unwrap();
    };
    call().await;
    metrics::set_global_recorder(Sizeless).unwrap();
    assert_eq!(STARTED.load(Ordering::Relaxed), 0);
    call().await;
    call().await;
    assert_eq!(STARTED.load(Ordering::Relaxed), 2);
}
