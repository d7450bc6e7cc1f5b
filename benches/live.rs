//! What readers of the live page cost RPCs, and what very many RPCs in flight cost a page:
//! `cargo bench -p benches --features live --bench live`.
//!
//! One thread makes RPCs all the time and measures each. Meanwhile pages are asked for on another.

#![allow(missing_docs, unreachable_pub, unnameable_types)]

use std::{
    convert::Infallible,
    future::pending,
    hint::black_box,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::runtime::{Builder, Runtime};
use tower::{Service as _, ServiceBuilder, ServiceExt as _};
use tower_tracer::{
    TracerLayer,
    live::{Access, Live},
};

/// Makes RPCs until it is told to stop, and returns how long each took, in order of length.
fn make_rpcs(live: &Live, stop: &AtomicBool) -> Vec<u64> {
    let service = ServiceBuilder::new().layer(TracerLayer::new(live.tracer()).server());
    let mut service = service
        .service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
    let mut context = Context::from_waker(Waker::noop());
    let mut nanos = Vec::with_capacity(1 << 24);
    while !stop.load(Relaxed) && nanos.len() < nanos.capacity() {
        let request = Request::get("/").body(());
        let begin = Instant::now();
        let rpc = pin!(service.call(request.expect("a request")));
        let done = rpc.poll(&mut context);
        drop(black_box(done));
        nanos.push(begin.elapsed().as_nanos() as u64);
    }
    nanos.sort_unstable();
    nanos
}

/// Prints how long RPCs took while something else was done.
fn meanwhile(name: &str, live: &Live, work: impl FnOnce()) {
    let stop = Arc::new(AtomicBool::new(false));
    let rpcs = {
        let (live, stop) = (live.clone(), Arc::clone(&stop));
        thread::spawn(move || make_rpcs(&live, &stop))
    };
    work();
    stop.store(true, Relaxed);
    let nanos = rpcs.join().expect("no panic");
    let at = |part: f64| nanos[((nanos.len() - 1) as f64 * part) as usize];
    println!(
        "{name:<44} {:>5} ns {:>6} ns {:>7} ns {:>6} µs",
        at(0.5),
        at(0.99),
        at(0.9999),
        at(1.0) / 1_000,
    );
}

async fn page(live: Live, uri: &'static str) -> StatusCode {
    let request = Request::get(uri).header("host", "localhost").body(());
    let response = live.service().oneshot(request.expect("a request")).await;
    let response = response.unwrap_or_else(|error| match error {});
    let status = response.status();
    black_box(
        response
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes())
            .ok(),
    );
    status
}

/// So many readers at once, again and again for that long.
fn readers(runtime: &Runtime, live: &Live, count: usize, time: Duration) -> usize {
    let begin = Instant::now();
    let mut pages = 0;
    while begin.elapsed() < time {
        let readers: Vec<_> = (0..count)
            .map(|_| runtime.spawn(page(live.clone(), "/?format=html")))
            .collect();
        for reader in readers {
            let status = runtime.block_on(reader).expect("no panic");
            assert_eq!(status, 200);
            pages += 1;
        }
    }
    pages
}

fn hanging(live: &Live, count: usize) -> Vec<impl Future> {
    let service = ServiceBuilder::new().layer(TracerLayer::new(live.tracer()).server());
    let service = service
        .service_fn(async |_: Request<()>| pending::<Result<Response<String>, Infallible>>().await);
    let request = || Request::get("/hangs").body(()).expect("a request");
    (0..count)
        .map(|_| service.clone().call(request()))
        .collect()
}

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let time = Duration::from_millis(if is_bench { 5_000 } else { 50 });
    let count = if is_bench { 1_000 } else { 10 };
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let live = Live::new().guard(|_| Access::Everything);

    println!(
        "{:<44} {:>8} {:>9} {:>10} {:>9}",
        "an RPC, while", "p50", "p99", "p99.99", "max"
    );
    meanwhile("nothing else is done", &live, || thread::sleep(time));
    meanwhile("another thread only computes", &live, || {
        let begin = Instant::now();
        while begin.elapsed() < time {
            black_box(begin);
        }
    });
    let mut pages = 0;
    meanwhile(
        &format!("{count} readers at once ask for the page"),
        &live,
        || {
            pages = readers(&runtime, &live, count, time);
        },
    );
    let watch = Request::get("/watch").header("host", "localhost").body(());
    let watch = live.service().oneshot(watch.expect("a request"));
    let watch = runtime
        .block_on(watch)
        .unwrap_or_else(|error| match error {});
    meanwhile("a reader watches and does not read", &live, || {
        thread::sleep(time)
    });
    drop(watch);
    println!("{pages} pages were made");

    let calls = hanging(&live, 100 * count);
    meanwhile(
        &format!("pages of {} in flight are made", calls.len()),
        &live,
        || {
            let mut times: Vec<_> = (0..20)
                .map(|_| {
                    let begin = Instant::now();
                    assert_eq!(runtime.block_on(page(live.clone(), "/?format=html")), 200);
                    begin.elapsed()
                })
                .collect();
            times.sort();
            println!(
                "such a page takes {:.0?}, at most {:.0?}",
                times[10], times[19]
            );
        },
    );
}
