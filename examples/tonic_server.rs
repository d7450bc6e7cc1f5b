//! A traced tonic server: it prints a line for each RPC that is over, whoever calls it.
//!
//! ```sh
//! cargo run --example tonic_server -- 127.0.0.1:50051
//! cargo run --example tonic_client -- http://127.0.0.1:50051
//! ```
//!
//! It first prints the address it listens on (port 0 takes a free one), and serves until Ctrl-C.

mod echo;
mod lines;

use std::{env, error::Error};

use echo::{EchoServer, EchoService};
use lines::Lines;
use tonic::transport::{Server, server::TcpIncoming};
use tower_tracer::TracerLayer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:50051").parse()?;
    let incoming = TcpIncoming::bind(address)?.with_nodelay(Some(true));
    println!("listening on {}", incoming.local_addr()?);

    Server::builder()
        .layer(TracerLayer::new(Lines))
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming_shutdown(incoming, async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    Ok(())
}
