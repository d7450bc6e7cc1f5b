//! A closure in place of a tracer.
// error: is not a tracer
// at: |rpc: &RpcInfo| println!("{rpc}")
// note: a closure becomes a tracer by `tower_tracer::on_finish(|rpc| …)`

use tower_tracer::{RpcInfo, TracerLayer};

fn main() {
    let _ = TracerLayer::new(|rpc: &RpcInfo| println!("{rpc}"));
}
