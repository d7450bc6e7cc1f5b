//! A request of a type that cannot be traced.
// error: `TracerLayer` does not know how to trace a `String`
// at: String::new()
// note: implement `tower_tracer::service::TracedRequest`

use tower::{Layer, ServiceExt, service_fn};
use tower_tracer::TracerLayer;

fn main() {
    let answer = async |_: String| Ok::<_, std::io::Error>(http::Response::new(String::new()));
    let service = TracerLayer::new(()).layer(service_fn(answer));
    let _ = service.oneshot(String::new());
}
