//! A server of tonic for browsers, with a layer below gRPC-Web, which sees what is on the wire, and one above it.
//! Prints its address, and then a line for each record.

#[path = "../../../examples/echo/mod.rs"]
mod echo;
mod record;

use echo::{EchoServer, EchoService, listen};
use serde_json::json;
use tonic::transport::Server;
use tonic_web::GrpcWebLayer;
use tower_http::cors::CorsLayer;
use tower_tracer::{RpcInfo, TracerLayer, on_finish};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let printed = |place: &'static str| {
        let print = move |rpc: &RpcInfo| {
            println!("{}", json!({ "place": place, "record": record::json(rpc) }));
        };
        TracerLayer::new(on_finish(print)).server()
    };
    let (incoming, uri) = listen().await?;
    println!("{uri}");
    Server::builder()
        .accept_http1(true)
        // Outside of the layers: a preflight is not an RPC.
        .layer(CorsLayer::permissive())
        .layer(printed("wire"))
        .layer(GrpcWebLayer::new())
        .layer(printed("grpc"))
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
