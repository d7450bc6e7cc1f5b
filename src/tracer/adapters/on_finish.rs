use std::fmt;

use crate::{
    rpc::RpcInfo,
    tracer::{RequestParts, Tracer},
};

/// A tracer from a closure, which is called once with each RPC, when it is over.
///
/// ```
/// use std::sync::mpsc;
/// use tower_tracer::on_finish;
///
/// let (costs, all_costs) = mpsc::channel();
/// let tracer = on_finish(move |rpc| {
///     let _ = costs.send((rpc.path().to_owned(), rpc.stats().duration()));
/// });
/// # mod doc { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/call.rs")); }
/// # doc::call(tracer, ["/shop.Cart/Add"]);
///
/// // A call of the cart later:
/// let (path, cost) = all_costs.recv().unwrap();
/// assert_eq!(path, "/shop.Cart/Add");
/// assert!(cost.is_some());
/// ```
pub fn on_finish<F>(finish: F) -> OnFinish<F>
where
    F: Fn(&RpcInfo) + Send + Sync + 'static,
{
    OnFinish(finish)
}

/// A closure as a tracer; made by [`on_finish`](crate::on_finish).
#[derive(Clone)]
pub struct OnFinish<F>(F);

impl<F> Tracer for OnFinish<F>
where
    F: Fn(&RpcInfo) + Send + Sync + 'static,
{
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        (self.0)(rpc);
    }
}

impl<F> fmt::Debug for OnFinish<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnFinish").finish_non_exhaustive()
    }
}
