//! A traced tonic client: it makes a call of each kind and one that fails, and prints a line for
//! each.
//!
//! ```sh
//! cargo run --example tonic_server -- 127.0.0.1:50051
//! cargo run --example tonic_client -- http://127.0.0.1:50051
//! ```

mod echo;
mod lines;

use std::{env, error::Error};

use echo::{EchoClient, say};
use lines::Lines;
use tonic::{Code, transport::Endpoint};
use tower::ServiceBuilder;
use tower_tracer::TracerLayer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::args().nth(1);
    let uri = uri.unwrap_or_else(|| "http://127.0.0.1:50051".to_owned());
    let channel = Endpoint::from_shared(uri)?.connect().await?;
    let channel = ServiceBuilder::new()
        .layer(TracerLayer::new(Lines))
        .service(channel);
    let mut client = EchoClient::new(channel);

    client.unary_echo(say("hello")).await?;

    let request = say("again").times(3);
    let mut responses = client.server_streaming_echo(request).await?.into_inner();
    while responses.message().await?.is_some() {}

    let words = tokio_stream::iter(["one", "two", "three"].map(say));
    client.client_streaming_echo(words).await?;

    let words = tokio_stream::iter(["ping", "pong"].map(say));
    let responses = client.bidirectional_streaming_echo(words).await?;
    let mut responses = responses.into_inner();
    while responses.message().await?.is_some() {}

    let request = say("unknown").failing(Code::NotFound);
    client.unary_echo(request).await.expect_err("asked to fail");
    Ok(())
}
