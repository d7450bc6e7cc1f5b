//! Calls of every kind, for the examples that show where their figures go.

#![allow(dead_code, unreachable_pub)]

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    task::JoinHandle,
};
use tokio_stream::Stream;
use tonic::{
    Request, Status,
    body::Body,
    transport::{Channel, Endpoint, Server, server::Connected},
};
use tower::{Service as _, ServiceBuilder, ServiceExt as _};
use tower_tracer::{Tracer, TracerLayer, service::TracerService};

use super::echo::{EchoClient, EchoRequest, EchoServer, EchoService, listen, say};

/// The methods of the Echo service.
pub const METHODS: [&str; 4] = [
    "echo.Echo/UnaryEcho",
    "echo.Echo/ServerStreamingEcho",
    "echo.Echo/ClientStreamingEcho",
    "echo.Echo/BidirectionalStreamingEcho",
];

pub type Traced<T> = TracerService<Channel, T>;

/// A server of Echo on a free port of the loopback address.
pub struct Served {
    pub uri: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

pub async fn serve<T: Tracer>(layer: TracerLayer<T>) -> std::io::Result<Served> {
    let (incoming, uri) = listen().await?;
    Ok(serve_incoming(Server::builder(), layer, incoming, uri))
}

/// A server of Echo for these connections, which come to `uri`.
pub fn serve_incoming<T, S, IO>(
    server: Server,
    layer: TracerLayer<T>,
    incoming: S,
    uri: String,
) -> Served
where
    T: Tracer,
    S: Stream<Item = std::io::Result<IO>> + Send + 'static,
    IO: AsyncRead
        + AsyncWrite
        + Connected<ConnectInfo: Clone + Send + Sync>
        + Unpin
        + Send
        + 'static,
{
    let (stop, stopped) = oneshot::channel();
    let mut server = server.layer(layer);
    let server = server
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming_shutdown(incoming, async { drop(stopped.await) });
    let server = tokio::spawn(server);
    Served { uri, stop, server }
}

impl Served {
    /// Waits until all connections are closed: to be called when the clients are dropped.
    pub async fn end(self) {
        let _ = self.stop.send(());
        let _ = self.server.await;
        // Of a call that was cancelled, the handler goes right after its connection.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A connection to it.
pub async fn connect<T: Tracer>(
    uri: &str,
    layer: TracerLayer<T>,
) -> Result<Traced<T>, tonic::transport::Error> {
    let channel = Endpoint::from_shared(uri.to_owned())?.connect().await?;
    Ok(ServiceBuilder::new().layer(layer).service(channel))
}

/// Makes this many rounds of calls, all at once.
pub async fn rounds<T: Tracer>(channel: &Traced<T>, count: usize) -> Result<(), Status> {
    let rounds = (0..count).map(|_| round(channel));
    futures_util::future::try_join_all(rounds).await.map(drop)
}

/// One call of each kind: all four kinds of method, a failure, a call cancelled by its caller, one
/// that exceeds its deadline, a method that does not exist, and a path that is not a method's.
async fn round<T: Tracer>(channel: &Traced<T>) -> Result<(), Status> {
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

    // The caller goes after the first of two messages.
    let request = EchoRequest {
        count: 2,
        delay_ms: 2_000,
        ..say("first")
    };
    let mut responses = echo.server_streaming_echo(request).await?.into_inner();
    responses.message().await?;
    drop(responses);

    let mut request = Request::new(EchoRequest {
        delay_ms: 60_000,
        ..say("late")
    });
    request.set_timeout(Duration::from_millis(500));
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
