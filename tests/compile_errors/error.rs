//! A service whose error has no text.
// error: `NoText` doesn't implement `std::fmt::Display`
// at: http::Request::new(())
// note: Display

use tower::{Layer, ServiceExt, service_fn};
use tower_tracer::TracerLayer;

struct NoText;

fn main() {
    let answer = async |_: http::Request<()>| Err::<http::Response<String>, _>(NoText);
    let service = TracerLayer::new(()).layer(service_fn(answer));
    let _ = service.oneshot(http::Request::new(()));
}
