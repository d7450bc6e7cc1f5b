//! The tracer of `tonic_server` and `tonic_client`: a line for each RPC that is over.

use std::io::{Write as _, stdout};

use tower_tracer::{RequestParts, RpcInfo, Tracer, rpc::Traffic};

/// Prints a line of `key=value` fields when an RPC is over; `-` is what is not known.
///
/// Its names are safe to print: those of a method that is not gRPC's form are unknown. In a server
/// under load the lines would go to a thread that writes them, since `finish` must not wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines;

impl Tracer for Lines {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        let stats = rpc.stats();
        let unknown = || "-".to_owned();
        let line = format!(
            "role={} method={} status={} ending={} cost={} sent={} received={}\n",
            rpc.role(),
            rpc.full_method().unwrap_or("-"),
            stats.status().map_or_else(unknown, |s| s.to_string()),
            stats.ending().map_or_else(unknown, |e| e.to_string()),
            stats
                .duration()
                .map_or_else(unknown, |c| format!("{:.3}ms", c.as_secs_f64() * 1e3)),
            figures(stats.sent()),
            figures(stats.received()),
        );
        // Not `println!`, which panics when the reader is gone.
        let mut out = stdout().lock();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

/// Messages and their bytes.
fn figures(traffic: Traffic) -> String {
    let show = |figure: Option<u64>| figure.map_or("-".to_owned(), |n| n.to_string());
    format!(
        "{}/{}",
        show(traffic.messages()),
        show(traffic.message_bytes())
    )
}
