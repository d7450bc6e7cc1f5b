//! An axum router and a gRPC service on one port, traced by one layer.
//!
//! The tracer's state is the route that axum matched, a name that no caller can choose: the path is
//! chosen by the caller: fit for a log, not for a label.
//!
//! ```sh
//! cargo run -p examples --example axum --features axum
//! ```
//!
//! For gRPC on axum's own server, axum's feature `http2` has to be on.

mod echo;

use std::error::Error;

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Path},
    http::{Request, StatusCode},
    routing::{get, post},
};
use echo::{EchoClient, EchoServer, EchoService, say};
use http_body_util::BodyExt as _;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tonic::{service::Routes, transport::Channel};
use tower_tracer::{RequestParts, RpcInfo, Tracer, TracerLayer};

/// Prints a line when a request is done: when the last byte of its response was sent.
struct Log;

impl Tracer for Log {
    type State = Option<MatchedPath>;

    fn start(&self, _: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State {
        // Known here since a layer on a router runs after it has found the route.
        request.extensions()?.get().cloned()
    }

    fn finish(&self, route: Self::State, rpc: &RpcInfo) {
        let stats = rpc.stats();
        let name = rpc
            .full_method()
            .or(route.as_ref().map(MatchedPath::as_str));
        let bytes = |bytes: Option<u64>| bytes.map_or("?".to_owned(), |n| n.to_string());
        println!(
            "{:<5} {:<4} {:<20} {:<9} {:<12} received {:>4} B, sent {:>5} B",
            rpc.protocol(),
            rpc.http_method().map_or("", |method| method.as_str()),
            name.unwrap_or("unknown"),
            stats
                .status()
                .map_or("?".into(), |status| status.to_string()),
            stats.ending().map_or("?", |ending| ending.as_str()),
            bytes(stats.received().body_bytes()),
            bytes(stats.sent().body_bytes()),
        );
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let rpcs = Routes::new(EchoServer::new(EchoService)).prepare();
    let router = Router::new()
        .route(
            "/hello/{name}",
            get(async |Path(name): Path<String>| format!("Hello, {name}!")),
        )
        .route(
            "/upload",
            post(async |upload: String| upload.len().to_string()),
        )
        .route("/fail", get(async || StatusCode::SERVICE_UNAVAILABLE))
        // tonic's router answers whatever is unknown with a gRPC status; here axum answers.
        .merge(rpcs.into_axum_router().reset_fallback())
        .layer(TracerLayer::new(Log));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let uri = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, router).await });

    let client = Client::builder(TokioExecutor::new()).build_http();
    for request in [
        Request::get(format!("{uri}/hello/world")).body(Body::empty())?,
        Request::post(format!("{uri}/upload")).body(Body::from("x".repeat(1000)))?,
        Request::get(format!("{uri}/fail")).body(Body::empty())?,
        Request::get(format!("{uri}/no/such/page")).body(Body::empty())?,
    ] {
        client.request(request).await?.collect().await?;
    }

    let channel = Channel::from_shared(uri)?.connect().await?;
    EchoClient::new(channel).unary_echo(say("hello")).await?;
    Ok(())
}
