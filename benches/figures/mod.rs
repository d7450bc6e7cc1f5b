//! What is read of an RPC at its end, by a tracer and by a layer written by hand.

use std::{hint::black_box, time::Duration};

use tower_tracer::{RequestParts, RpcInfo, Tracer};

/// Reads what a metrics tracer reads.
#[derive(Debug)]
pub struct Figures;

impl Tracer for Figures {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        let stats = rpc.stats();
        black_box((
            rpc.full_method(),
            stats.status(),
            stats.duration(),
            stats.sent().body_bytes(),
            stats.received().body_bytes(),
        ));
    }
}

/// What the layer by hand reports.
pub fn report(method: &str, status: u16, cost: Duration, sent: u64, received: u64) {
    black_box((method, status, cost, sent, received));
}
