//! What the two sides of the interop cases share: the service's generated code, and a tracer that
//! prints the record of each RPC.
//!
//! `generated.rs` is made from `testing.proto`; the test `generated_code` makes it again and compares.

#![allow(dead_code, missing_docs, unreachable_pub, unnameable_types)]

use serde_json::{Value, json};
use tower_tracer::{RequestParts, RpcInfo, Tracer, rpc::Traffic};

#[rustfmt::skip]
#[allow(clippy::all, rust_2018_idioms)]
mod generated;

pub use generated::*;

/// The header that a server is to send back in its headers.
pub const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";
/// The header that a server is to send back in its trailers.
pub const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// Prints a line of JSON for each RPC that is over.
#[derive(Clone, Copy, Debug)]
pub struct Report;

impl Tracer for Report {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        let stats = rpc.stats();
        println!(
            "{}",
            json!({
                "role": rpc.role().as_str(),
                "full_method": rpc.full_method(),
                "status": stats.status().map(|status| status.to_string()),
                "wire_status": stats.wire_status().map(|status| status.to_string()),
                "ending": stats.ending().map(|ending| ending.as_str()),
                "sent": figures(stats.sent()),
                "received": figures(stats.received()),
            })
        );
    }
}

fn figures(traffic: Traffic) -> Value {
    json!({
        "messages": traffic.messages(),
        "message_bytes": traffic.message_bytes(),
        "body_bytes": traffic.body_bytes(),
        "compressed_messages": traffic.compressed_messages(),
        "last_message_bytes": traffic.last_message_bytes(),
        "complete": traffic.is_complete(),
        "truncated": traffic.truncated(),
    })
}

/// What the command line says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `--port N`: where the server listens, 0 for any free port.
    pub port: u16,
    /// `--traced` or `--untraced`: whether there is a layer.
    pub traced: bool,
    /// `--gzip`: whether a server compresses its responses for those who accept it.
    pub gzip: bool,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Panics
    ///
    /// Where it does not say what is needed.
    pub fn from_args() -> Self {
        let mut options = Self::default();
        let mut traced = None;
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--port" => {
                    let port = args.next().expect("a number after --port");
                    options.port = port.parse().expect("a number after --port");
                }
                "--traced" => traced = Some(true),
                "--untraced" => traced = Some(false),
                "--gzip" => options.gzip = true,
                other => panic!("unknown argument {other}"),
            }
        }
        options.traced = traced.expect("--traced or --untraced");
        options
    }
}

/// A payload of this many zeros.
pub fn zeros(size: usize) -> Option<Payload> {
    Some(Payload {
        body: vec![0; size],
    })
}
