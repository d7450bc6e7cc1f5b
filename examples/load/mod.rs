//! Calls of every kind, for the examples that show where their figures go.

#![allow(dead_code, unreachable_pub)]

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::{
    Request, Status,
    body::Body,
    transport::{Channel, Endpoint, Server},
};
use tower::{Service as _, ServiceBuilder, ServiceExt as _};
use tower_tracer::{Tracer, TracerLayer, TracerService};

use crate::echo::{EchoClient, EchoRequest, EchoServer, EchoService, listen, say};

/// The methods of the Echo service.
pub const METHODS: [&str; 4] = [
    "echo.Echo/UnaryEcho",
    "echo.Echo/ServerStreamingEcho",
    "echo.Echo/ClientStreamingEcho",
    "echo.Echo/BidirectionalStreamingEcho",
];

/// How many calls a round makes.
pub const CALLS_OF_A_ROUND: usize = 9;

pub type Traced<T> = TracerService<Channel, T>;

/// Serves Echo on a free port of the loopback address until the program ends; returns its URI.
pub async fn serve<T: Tracer>(layer: TracerLayer<T>) -> std::io::Result<String> {
    let (incoming, uri) = listen().await?;
    let server = Server::builder()
        .layer(layer)
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    Ok(uri)
}

/// A connection to it.
pub async fn connect<T: Tracer>(
    uri: &str,
    layer: TracerLayer<T>,
) -> Result<Traced<T>, tonic::transport::Error> {
    let channel = Endpoint::from_shared(uri.to_owned())?.connect().await?;
    Ok(ServiceBuilder::new().layer(layer).service(channel))
}

/// One call of each kind: all four kinds of method, a failure, a call cancelled by its caller, one
/// that runs out of time, a method that does not exist, and a path that is no method's.
pub async fn round<T: Tracer>(channel: &Traced<T>) -> Result<(), Status> {
    let mut echo = EchoClient::new(channel.clone());

    echo.unary_echo(say("hello")).await?;

    let request = EchoRequest {
        count: 3,
        ..say("three times")
    };
    let mut responses = echo.server_streaming_echo(request).await?.into_inner();
    while responses.message().await?.is_some() {}

    let requests = tokio_stream::iter([say("a"), say("b")]);
    echo.client_streaming_echo(requests).await?;

    let requests = tokio_stream::iter([say("a"), say("b")]);
    let responses = echo.bidirectional_streaming_echo(requests).await?;
    let mut responses = responses.into_inner();
    while responses.message().await?.is_some() {}

    let request = EchoRequest {
        code: tonic::Code::NotFound as u32,
        ..say("no such thing")
    };
    let _ = echo.unary_echo(request).await;

    // The first request is answered; then the caller goes.
    let requests = tokio_stream::once(say("first")).chain(tokio_stream::pending());
    let responses = echo.bidirectional_streaming_echo(requests).await?;
    let mut responses = responses.into_inner();
    responses.message().await?;
    drop(responses);

    let mut request = Request::new(EchoRequest {
        delay_ms: 60_000,
        ..say("late")
    });
    request.set_timeout(Duration::from_millis(30));
    let _ = echo.unary_echo(request).await;

    for path in ["/echo.Echo/Nonsense", "/a%22b,%20c%0Ad=e/%F0%9F%A6%80?q=1"] {
        let mut request = http::Request::new(Body::empty());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(path);
        let content_type = http::HeaderValue::from_static("application/grpc");
        request.headers_mut().insert("content-type", content_type);
        let mut channel = channel.clone();
        let response = async { channel.ready().await?.call(request).await };
        drop(
            response
                .await
                .map_err(|error| Status::from_error(error.into()))?,
        );
    }
    Ok(())
}
