//! A response of a type that cannot be traced.
// error: `TracerLayer` does not know how a `Answer` ends its RPC
// at: http::Request::new(())
// note: implement `tower_tracer::service::TracedResponse`

use tower::{Layer, ServiceExt, service_fn};
use tower_tracer::TracerLayer;

struct Answer;

fn main() {
    let answer = async |_: http::Request<()>| Ok::<_, std::io::Error>(Answer);
    let service = TracerLayer::new(()).layer(service_fn(answer));
    let _ = service.oneshot(http::Request::new(()));
}
