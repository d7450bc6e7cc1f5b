//! A program of a user, which needs none of the crate's features: see `programs.sh`.
//!
//! With the argument `calls` it makes an RPC that succeeds, one that fails and one that is dropped. With
//! `panic`, its tracer panics.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use http::{Request, Response};
use tower::{Layer as _, service_fn};
use tower_tracer::{RequestParts, RpcInfo, Tracer, TracerLayer, tracer};

#[derive(Clone, Default)]
struct Count {
    started: Arc<AtomicU64>,
    finished: Arc<AtomicU64>,
    panics: bool,
}

impl Tracer for Count {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {
        self.started.fetch_add(1, Relaxed);
    }

    fn finish(&self, (): (), _: &RpcInfo) {
        assert!(!self.panics, "the tracer panics");
        self.finished.fetch_add(1, Relaxed);
    }
}

/// One call; a handler that is asked to wait waits for ever, and is dropped.
fn call(count: &Count, status: &'static str) {
    let service =
        TracerLayer::new(count.clone()).layer(service_fn(move |_: Request<String>| async move {
            if status == "wait" {
                std::future::pending::<()>().await;
            }
            let response = Response::builder().header("grpc-status", status);
            Ok::<_, Infallible>(response.body(String::new()).expect("it is well-formed"))
        }));
    let request = Request::post("/echo.Echo/UnaryEcho")
        .header("content-type", "application/grpc")
        .body(String::new())
        .expect("it is well-formed");
    let future = pin!(service.oneshot(request));
    let polled = future.poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(polled.is_pending(), status == "wait");
    if let Poll::Ready(Ok(response)) = polled {
        drop(response.into_body());
    }
}

fn main() {
    let mut count = Count::default();
    match std::env::args().nth(1).as_deref() {
        Some("calls") => {
            for status in ["0", "5", "wait"] {
                call(&count, status);
            }
            let (started, finished) = (count.started.load(Relaxed), count.finished.load(Relaxed));
            println!("{finished} of {started} finished");
        }
        Some("panic") => {
            count.panics = true;
            call(&count, "0");
            println!("contained {}", tracer::contained_panics());
        }
        other => panic!("calls or panic, not {other:?}"),
    }
}
