//! What the tests share: a traced server and a traced client over TCP.

#![allow(dead_code, unreachable_pub)]

#[path = "../../../examples/echo/mod.rs"]
pub mod echo;

use std::{future::Future, time::Duration};

use echo::{EchoClient, EchoServer, EchoService, listen};
use tonic::transport::{Channel, Endpoint, Server};
use tower::ServiceBuilder;
use tower_tracer::{Tracer, TracerLayer, service::TracerService, testing::RecordingTracer};

pub type TracedClient<T = RecordingTracer> = EchoClient<TracerService<Channel, T>>;

/// A traced Echo server and a client of it, traced too.
pub struct Pair {
    pub client: TracedClient,
    pub client_side: RecordingTracer,
    pub server_side: RecordingTracer,
    pub uri: String,
}

/// Starts a server on a free port and connects a client to it, a recorder on each.
pub async fn pair() -> Pair {
    let server_side = RecordingTracer::new();
    let uri = serve(TracerLayer::new(server_side.clone())).await;
    let client_side = RecordingTracer::new();
    let client = connect(&uri, TracerLayer::new(client_side.clone())).await;
    Pair {
        client,
        client_side,
        server_side,
        uri,
    }
}

/// Starts a traced Echo server; it ends with the test's runtime.
pub async fn serve<T: Tracer>(layer: TracerLayer<T>) -> String {
    let (incoming, uri) = listen().await.unwrap();
    let server = Server::builder()
        .layer(layer)
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    uri
}

/// Connects a traced client.
pub async fn connect<T: Tracer>(uri: &str, layer: TracerLayer<T>) -> TracedClient<T> {
    let channel = Endpoint::from_shared(uri.to_owned())
        .unwrap()
        .connect()
        .await
        .unwrap();
    EchoClient::new(ServiceBuilder::new().layer(layer).service(channel))
}

/// Fails a test that hangs.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("done within ten seconds")
}
