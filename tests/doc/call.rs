// The service that documentation examples call.

use std::{convert::Infallible, thread, time::Duration};

use http::{Request, Response, StatusCode};
use tower::{Service as _, ServiceBuilder};
use tower_tracer::{Tracer, TracerLayer};

/// Calls a traced server once for each path. A path that ends in `Slow` takes 300 milliseconds, one
/// that ends in `Fail` is answered with an error.
pub(super) fn call<const N: usize>(tracer: impl Tracer, paths: [&'static str; N]) {
    let mut service = ServiceBuilder::new()
        .layer(TracerLayer::new(tracer).server())
        .service_fn(async |request: Request<String>| {
            let path = request.uri().path();
            if path.ends_with("Slow") {
                thread::sleep(Duration::from_millis(300));
            }
            let mut response = Response::new(String::new());
            if path.ends_with("Fail") {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            Ok::<_, Infallible>(response)
        });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for path in paths {
        let request = Request::get(path).body(String::new()).unwrap();
        drop(runtime.block_on(service.call(request)));
    }
}
