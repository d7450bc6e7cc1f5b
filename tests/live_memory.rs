//! The live page's memory has a bound, whatever peers send.

use std::{convert::Infallible, fs, future::pending};

use http::{Request, Response};
use tower::{Service as _, ServiceBuilder};
use tower_tracer::{
    Event, Level, RpcInfo, TracerLayer,
    live::{Access, Live},
};

/// How much memory the process has, in bytes; `None` if the system does not say.
fn memory() -> Option<usize> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4_096)
}

#[tokio::test]
async fn large_rpcs_of_many_methods_take_no_more_than_is_documented() {
    let Some(before) = memory() else { return };
    let live = Live::new().guard(|_| Access::Everything);
    let layer = TracerLayer::new(live.tracer()).server();
    let service = ServiceBuilder::new().layer(layer.clone());
    let mut service = service.service_fn(async |request: Request<()>| {
        let rpc = request.extensions().get::<RpcInfo>().unwrap();
        for number in 0..64 {
            let value = "v".repeat(2_000);
            rpc.set_tag(format!("{number}{value}"), value);
        }
        rpc.record_with(
            Event::new("big", Level::Base),
            Default::default(),
            "i".repeat(60_000),
        );
        Err::<Response<String>, _>(std::io::Error::other("e".repeat(60_000)))
    });
    // Each has 16 kB of samples, in all twenty times what may be kept.
    for number in 0..20_000 {
        let path = format!("/a.B/M{}", number % 1_000);
        let request = Request::post(path).header("content-type", "application/grpc");
        let _ = service.call(request.body(()).unwrap()).await;
    }
    // And more in flight than are tracked, with paths of 1 kB.
    let service = ServiceBuilder::new().layer(layer);
    let service = service
        .service_fn(async |_: Request<()>| pending::<Result<Response<String>, Infallible>>().await);
    let path = format!("/a.B/{}", "p".repeat(1_000));
    let calls: Vec<_> = (0..120_000)
        .map(|_| {
            service
                .clone()
                .call(Request::post(&*path).body(()).unwrap())
        })
        .collect();
    let with_calls = memory().unwrap_or_default();
    drop(calls);
    let grown = memory()
        .unwrap_or_default()
        .max(with_calls)
        .saturating_sub(before);
    // What the calls themselves hold is the caller's.
    let calls = 120_000 * 2_500;
    println!("{} MB with all calls", grown >> 20);
    assert!(grown < (200 << 20) + calls, "{} MB", grown >> 20);
}
