//! Connections over real sockets: each that opens closes once, with the reason that was seen, and RPCs know theirs.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::support::tcp::echo::{EchoClient, EchoRequest, EchoServer, EchoService};
use crate::support::telemetry::Telemetry;
use futures_util::FutureExt as _;
use hyper_util::client::legacy::connect::HttpConnector;
use metrics_exporter_prometheus::PrometheusBuilder;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, pki_types::PrivateKeyDer},
};
use tokio_stream::StreamExt as _;
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
    server::TcpIncoming,
};
use tower_tracer::{
    RpcInfo, TracerLayer,
    connection::{Acceptor, ConnectionEnd, ConnectionInfo, ConnectionTracer, Connector, Incoming},
    metrics::MetricsTracer,
    on_finish,
    testing::RecordingTracer,
};

/// A server whose connections and RPCs a recorder sees. It stops when the sender is dropped.
struct Served {
    recorder: RecordingTracer,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
}

async fn serve(server: Server) -> Served {
    let recorder = RecordingTracer::new();
    serve_with(server, recorder.clone(), recorder).await
}

async fn serve_with(
    server: Server,
    recorder: RecordingTracer,
    connections: impl ConnectionTracer,
) -> Served {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = incoming.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let served = server
        .layer(TracerLayer::new(recorder.clone()).server())
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming_shutdown(Incoming::new(incoming, connections), async {
            let _ = stopped.await;
        });
    tokio::spawn(served);
    Served {
        recorder,
        address,
        stop,
    }
}

fn http() -> HttpConnector {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    http
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).unwrap()
}

async fn connect(address: SocketAddr, recorder: &RecordingTracer) -> EchoClient<Channel> {
    let connector = Connector::new(http(), recorder.clone());
    EchoClient::new(
        endpoint(address)
            .connect_with_connector(connector)
            .await
            .unwrap(),
    )
}

fn ask(message: &str) -> EchoRequest {
    EchoRequest {
        message: message.to_owned(),
        ..EchoRequest::default()
    }
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s: {what}");
}

async fn closed(recorder: &RecordingTracer, count: usize) -> Vec<String> {
    let closed = |log: &[String]| log.iter().filter(|l| l.starts_with("closed")).count();
    until("closed", || closed(&recorder.connection_log()) >= count).await;
    recorder.connection_log()
}

#[tokio::test]
async fn connection_opens_serves_rpcs_and_closes_on_both_sides() {
    let served = serve(Server::builder()).await;
    let client_side = RecordingTracer::new();
    let mut client = connect(served.address, &client_side).await;
    for _ in 0..3 {
        client.unary_echo(ask("hello")).await.unwrap();
    }
    served.recorder.wait_finished(3).await;
    let [server] = &served.recorder.connections()[..] else {
        panic!("{:?}", served.recorder.connection_log());
    };
    let [of_client] = &client_side.connections()[..] else {
        panic!("{:?}", client_side.connection_log());
    };

    assert_eq!((server.rpcs_started(), server.rpcs_running()), (3, 0));
    assert_eq!(server.is_tls(), Some(false));
    assert_eq!(of_client.is_tls(), Some(false));
    assert!(server.end().is_none() && of_client.end().is_none());
    assert!(server.number() != of_client.number());
    // Each side is the other's peer.
    let text = |address: Option<tower_tracer::rpc::Address<'_>>| address.unwrap().to_string();
    assert_eq!(text(server.local()), text(of_client.peer()));
    assert_eq!(text(server.peer()), text(of_client.local()));
    assert_eq!(
        of_client.target().unwrap(),
        format!("http://{}", served.address)
    );
    assert_eq!(of_client.attempt(), Some(1));
    assert!(of_client.connect_time().is_some() && of_client.handshake_time().is_none());
    assert!(server.handshake_time().is_some() && server.connect_time().is_none());
    for rpc in served.recorder.finished() {
        assert_eq!(rpc.connection().unwrap().number(), server.number());
    }

    drop(client);
    assert_eq!(
        closed(&served.recorder, 1).await,
        ["opened server", "ready server", "closed server peer_closed"],
    );
    // Its RPCs are between the ends of their connection.
    let log = served.recorder.full_log();
    assert_eq!(log[..3], ["opened server", "ready server", "start"]);
    let last = log.len() - 1;
    assert!(log[last - 1].starts_with("finish"), "{log:?}");
    assert_eq!(log[last], "closed server peer_closed");
    assert_eq!(log.iter().filter(|line| *line == "start").count(), 3);
    assert_eq!(
        closed(&client_side, 1).await,
        ["opened client", "ready client", "closed client closed"],
    );
    // What one side wrote the other side read.
    assert_eq!(server.received().bytes(), of_client.sent().bytes());
    assert_eq!(server.sent().bytes(), of_client.received().bytes());
    assert!(server.received().bytes() > 0 && server.received().calls() > 0);
    assert_eq!(server.rpcs_cut_off(), 0);
    let line = server.to_string();
    assert!(
        line.contains(" peer_closed after ") && line.ends_with(" 3 RPCs"),
        "{line}"
    );
}

#[tokio::test]
async fn rpcs_in_flight_are_those_of_the_connection_and_are_cut_off_with_it() {
    let served = serve(Server::builder()).await;
    let client_side = RecordingTracer::new();
    let mut client = connect(served.address, &client_side).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        // It answers and never ends.
        let request = EchoRequest {
            count: 1000,
            delay_ms: 10_000,
            ..ask("slow")
        };
        let client = client.clone();
        streams.push(tokio::spawn(async move {
            let mut client = client;
            client.server_streaming_echo(request).await
        }));
    }
    until("three run", || {
        let connections = served.recorder.connections();
        connections.first().is_some_and(|c| c.rpcs_running() == 3)
    })
    .await;
    let server = served.recorder.connections().remove(0);
    let methods: Vec<_> = server
        .rpcs()
        .iter()
        .map(|rpc| rpc.method().unwrap().to_owned())
        .collect();
    assert_eq!(methods, ["ServerStreamingEcho"; 3]);
    client.unary_echo(ask("beside")).await.unwrap();
    until("one is over", || {
        server.rpcs_started() == 4 && server.rpcs_running() == 3
    })
    .await;

    for stream in streams {
        stream.abort();
    }
    drop(client);
    closed(&served.recorder, 1).await;
    until("none runs", || server.rpcs_running() == 0).await;
    assert!(server.rpcs().is_empty());
    assert!(server.rpcs_cut_off() <= 3);
}

#[tokio::test]
async fn peer_that_only_connects_and_one_that_speaks_http_1_are_seen() {
    let served = serve(Server::builder()).await;
    drop(TcpStream::connect(served.address).await.unwrap());
    assert_eq!(
        closed(&served.recorder, 1).await,
        ["opened server", "ready server", "closed server peer_closed"],
    );
    assert_eq!(served.recorder.connections()[0].received().bytes(), 0);
    assert_eq!(served.recorder.connections()[0].is_tls(), None);

    let mut tcp = TcpStream::connect(served.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer)).await;
    drop(tcp);
    let log = closed(&served.recorder, 2).await;
    assert_eq!(log.len(), 6, "{log:?}");
    assert_eq!(served.recorder.connections()[1].rpcs_started(), 0);
}

#[tokio::test]
async fn refused_and_abandoned_attempts_end_as_such_and_the_next_one_counts() {
    let client_side = RecordingTracer::new();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let connector = Connector::new(http(), client_side.clone());
    let channel = endpoint(address).connect_with_connector_lazy(connector);
    let mut client = EchoClient::new(channel);
    for _ in 0..2 {
        let error = client.unary_echo(ask("refused")).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unavailable);
    }
    closed(&client_side, 2).await;
    let [first, second] = &client_side.connections()[..] else {
        panic!("{:?}", client_side.connection_log());
    };
    let refused = ConnectionEnd::ConnectFailed(std::io::ErrorKind::ConnectionRefused);
    assert_eq!((first.end(), second.end()), (Some(refused), Some(refused)));
    assert_eq!((first.attempt(), second.attempt()), (Some(1), Some(2)));

    // A connector that hangs, under a timeout of tonic's.
    let hanging = tower::service_fn(|_: http::Uri| {
        std::future::pending::<Result<hyper_util::rt::TokioIo<TcpStream>, std::io::Error>>()
    });
    let recorder = RecordingTracer::new();
    let connector = Connector::new(hanging, recorder.clone());
    let endpoint = endpoint(address).connect_timeout(Duration::from_millis(50));
    endpoint
        .connect_with_connector(connector)
        .await
        .unwrap_err();
    assert_eq!(
        closed(&recorder, 1).await,
        ["opened client", "closed client abandoned"],
    );
}

struct Keys {
    authority: Certificate,
    server: Identity,
    /// The same as `server`, for rustls.
    acceptor: TlsAcceptor,
}

/// A certificate of `localhost`; one that has expired if asked.
fn keys(expired: bool) -> Keys {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    if expired {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let of_rustls = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], of_rustls)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Keys {
        authority: Certificate::from_pem(authority.pem()),
        server: Identity::from_pem(certificate.pem(), key.serialize_pem()),
        acceptor: TlsAcceptor::from(Arc::new(config)),
    }
}

fn tls_client(
    address: SocketAddr,
    keys: &Keys,
    recorder: &RecordingTracer,
) -> (Endpoint, Connector<HttpConnector>) {
    let tls = ClientTlsConfig::new().ca_certificate(keys.authority.clone());
    let uri = format!("https://localhost:{}", address.port());
    let endpoint = Endpoint::from_shared(uri).unwrap();
    let endpoint = endpoint.tls_config(tls.domain_name("localhost")).unwrap();
    (endpoint, Connector::new(http(), recorder.clone()))
}

async fn tls_server(keys: &Keys) -> Served {
    let tls = ServerTlsConfig::new().identity(keys.server.clone());
    serve(Server::builder().tls_config(tls).unwrap()).await
}

#[tokio::test]
async fn tls_that_succeeds_is_ready_after_its_handshake_and_keeps_the_peer_address() {
    let keys = keys(false);
    let served = tls_server(&keys).await;
    let client_side = RecordingTracer::new();
    let (endpoint, connector) = tls_client(served.address, &keys, &client_side);
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    EchoClient::new(channel)
        .unary_echo(ask("secret"))
        .await
        .unwrap();
    let rpc = served.recorder.wait_finished(1).await.remove(0);
    let server = served.recorder.connections().remove(0);
    assert_eq!(server.is_tls(), Some(true));
    assert_eq!(client_side.connections()[0].is_tls(), Some(true));
    assert!(server.handshake_time().unwrap() > Duration::from_micros(100));
    assert_eq!(rpc.connection().unwrap().number(), server.number());
    assert_eq!(
        rpc.peer().socket().unwrap().to_string(),
        server.peer().unwrap().to_string()
    );
    // The peer's goodbye is inside TLS: the first that is seen may be this side's own close.
    let log = closed(&served.recorder, 1).await;
    assert_eq!(log[..2], ["opened server", "ready server"]);
    assert!(log[2].ends_with("closed"), "{log:?}");
}

#[tokio::test]
async fn handshakes_that_fail_are_never_ready() {
    let good = keys(false);
    let expired = keys(true);
    let other = keys(false);
    for (server, client) in [(&expired, &expired), (&good, &other)] {
        let served = tls_server(server).await;
        let client_side = RecordingTracer::new();
        let (endpoint, connector) = tls_client(served.address, client, &client_side);
        endpoint
            .connect_with_connector(connector)
            .await
            .unwrap_err();
        assert_eq!(
            closed(&served.recorder, 1).await,
            ["opened server", "closed server handshake_failed"],
        );
        // The client's TLS is above the connector, which connected.
        let log = closed(&client_side, 1).await;
        assert_eq!(log[..2], ["opened client", "ready client"]);
    }

    // A peer that speaks no TLS, one that leaves, and one that never finishes while the server stops.
    let served = tls_server(&good).await;
    let mut plain = TcpStream::connect(served.address).await.unwrap();
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    closed(&served.recorder, 1).await;
    drop(TcpStream::connect(served.address).await.unwrap());
    closed(&served.recorder, 2).await;
    let waits = TcpStream::connect(served.address).await.unwrap();
    until("accepted", || served.recorder.connections().len() == 3).await;
    drop(served.stop);
    let log = closed(&served.recorder, 3).await;
    let failed = log
        .iter()
        .filter(|line| *line == "closed server handshake_failed");
    assert_eq!(failed.count(), 3, "{log:?}");
    drop(waits);
}

#[tokio::test]
async fn server_that_stops_closes_its_connections_and_another_one_gets_a_new_connection() {
    let served = serve(Server::builder().max_connection_age(Duration::from_millis(200))).await;
    let client_side = RecordingTracer::new();
    let mut client = connect(served.address, &client_side).await;
    client.unary_echo(ask("one")).await.unwrap();
    let log = closed(&served.recorder, 1).await;
    assert_eq!(log.len(), 3, "{log:?}");
    closed(&client_side, 1).await;
    client.unary_echo(ask("two")).await.unwrap();
    assert_eq!(client_side.connections().len(), 2);
    assert_eq!(client_side.connections()[1].attempt(), Some(1));
    #[cfg(feature = "h2-frames")]
    {
        let h2 = client_side.connections()[0].h2().unwrap();
        assert_eq!(h2.goaway_received().unwrap().code_name(), "NO_ERROR");
        assert_eq!((h2.streams_opened(), h2.streams_open()), (1, Some(0)));
        let server = served.recorder.connections()[0].h2().unwrap();
        // It sends a second one, with its last stream.
        assert_eq!(server.goaway_sent().unwrap().last_stream, 1);
    }
    drop(served.stop);
    closed(&served.recorder, 2).await;
    closed(&client_side, 2).await;
}

/// The streams of a TLS handshake that a user makes, below the wrapper.
fn tls_streams(
    listener: TcpListener,
    keys: &Keys,
) -> impl tokio_stream::Stream<Item = std::io::Result<tokio_rustls::server::TlsStream<TcpStream>>>
+ Send
+ 'static {
    let acceptor = keys.acceptor.clone();
    tokio_stream::wrappers::TcpListenerStream::new(listener).then(move |tcp| {
        let acceptor = acceptor.clone();
        async move { acceptor.accept(tcp?).await }
    })
}

#[tokio::test]
async fn tls_below_the_wrapper_is_plain_text_whose_peer_and_rpcs_are_known() {
    let keys = keys(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let recorder = RecordingTracer::new();
    let incoming = Incoming::new(Box::pin(tls_streams(listener, &keys)), recorder.clone());
    let server = Server::builder()
        .layer(TracerLayer::new(recorder.clone()).server())
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let client_side = RecordingTracer::new();
    let (endpoint, connector) = tls_client(address, &keys, &client_side);
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let mut client = EchoClient::new(channel);
    client.unary_echo(ask("secret")).await.unwrap();
    let rpc = recorder.wait_finished(1).await.remove(0);
    let server = recorder.connections().remove(0);
    let client_connection = client_side.connections().remove(0);
    assert_eq!(server.is_tls(), Some(false));
    assert_eq!(client_connection.is_tls(), Some(true));
    assert_eq!(
        server.peer().unwrap().to_string(),
        client_connection.local().unwrap().to_string()
    );
    assert_eq!(server.local().unwrap().to_string(), address.to_string());
    assert_eq!(rpc.connection().unwrap().number(), server.number());
    assert_eq!((server.rpcs_started(), server.rpcs_running()), (1, 0));
    #[cfg(feature = "h2-frames")]
    {
        assert_eq!(server.h2().unwrap().streams_opened(), 1);
        assert_eq!(client_connection.h2(), None, "it is encrypted here");
    }
    drop(client);
    assert_eq!(
        closed(&recorder, 1).await,
        ["opened server", "ready server", "closed server peer_closed"],
    );
    // Its address leads to no connection any more.
    assert_eq!(server.rpcs_cut_off(), 0);
}

#[tokio::test]
async fn axum_listener_of_tls_streams_says_the_peer() {
    struct TlsListener(TcpListener, TlsAcceptor);

    impl axum::serve::Listener for TlsListener {
        type Io = tokio_rustls::server::TlsStream<TcpStream>;
        type Addr = SocketAddr;

        async fn accept(&mut self) -> (Self::Io, SocketAddr) {
            let (tcp, peer) = self.0.accept().await.unwrap();
            (self.1.accept(tcp).await.unwrap(), peer)
        }

        fn local_addr(&self) -> std::io::Result<SocketAddr> {
            self.0.local_addr()
        }
    }

    let keys = keys(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let recorder = RecordingTracer::new();
    let listener = TlsListener(listener, keys.acceptor.clone());
    let incoming = Incoming::new(listener, recorder.clone());
    let router = axum::Router::new()
        .route("/", axum::routing::any(async || ""))
        .layer(TracerLayer::new(recorder.clone()).server());
    let service = router.into_make_service_with_connect_info::<ConnectionInfo>();
    tokio::spawn(async move { axum::serve(incoming, service).await });
    let client_side = RecordingTracer::new();
    let (endpoint, connector) = tls_client(address, &keys, &client_side);
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let request = http::Request::new(tonic::body::Body::empty());
    tower::ServiceExt::oneshot(channel, request).await.unwrap();
    let connection = recorder.connections().remove(0);
    let client_address = client_side.connections()[0].local().unwrap().to_string();
    assert_eq!(connection.peer().unwrap().to_string(), client_address);
    let rpc = recorder.wait_finished(1).await.remove(0);
    assert_eq!(rpc.peer().socket().unwrap().to_string(), client_address);
    assert_eq!(rpc.connection().unwrap().number(), connection.number());
}

/// hyper-util's server on a connection that is ready, with the layer and the Echo service.
async fn serve_connection(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: ConnectionInfo,
    recorder: RecordingTracer,
) {
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
        service::TowerToHyperService,
    };

    let routes = tonic::service::Routes::new(EchoServer::new(EchoService));
    let service = tower::ServiceBuilder::new()
        .map_request(move |request: http::Request<hyper::body::Incoming>| {
            let mut request = request.map(tonic::body::Body::new);
            request.extensions_mut().insert(connection.clone());
            request
        })
        .layer(TracerLayer::new(recorder).server())
        .service(routes.prepare());
    let service = TowerToHyperService::new(service);
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(io), service)
        .await;
}

#[tokio::test]
async fn accept_loop_says_when_a_connection_is_ready_with_tls_above_the_wrapper_and_without() {
    let keys = keys(false);
    for tls in [false, true] {
        let recorder = RecordingTracer::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptor, of_server) = (Acceptor::new(recorder.clone()), recorder.clone());
        let tls_acceptor = tls.then(|| keys.acceptor.clone());
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let io = acceptor.accept(tcp);
                let (recorder, tls_acceptor) = (of_server.clone(), tls_acceptor.clone());
                let connection = io.connection().clone();
                tokio::spawn(async move {
                    let Some(tls) = tls_acceptor else {
                        io.set_ready();
                        return serve_connection(io, connection, recorder).await;
                    };
                    if let Ok(io) = tls.accept(io).await {
                        io.get_ref().0.set_ready();
                        serve_connection(io, connection, recorder).await;
                    }
                });
            }
        });
        let client_side = RecordingTracer::new();
        let mut client = match tls {
            false => connect(address, &client_side).await,
            true => {
                let (endpoint, connector) = tls_client(address, &keys, &client_side);
                EchoClient::new(endpoint.connect_with_connector(connector).await.unwrap())
            }
        };
        for _ in 0..3 {
            client.unary_echo(ask("hello")).await.unwrap();
        }
        let connection = recorder.connections().remove(0);
        for rpc in recorder.wait_finished(3).await {
            assert_eq!(rpc.connection().unwrap().number(), connection.number());
            let peer = connection.peer().unwrap().to_string();
            assert_eq!(rpc.peer().socket().unwrap().to_string(), peer);
        }
        assert_eq!(
            (connection.rpcs_started(), connection.rpcs_running()),
            (3, 0)
        );
        assert_eq!(connection.is_tls(), Some(tls));
        assert!(connection.handshake_time().is_some());
        #[cfg(feature = "h2-frames")]
        assert_eq!(connection.h2().is_none(), tls);
        drop(client);
        let log = closed(&recorder, 1).await;
        assert_eq!(log[..2], ["opened server", "ready server"]);
        assert!(log[2].ends_with("closed"), "{log:?}");
        if tls {
            let mut plain = TcpStream::connect(address).await.unwrap();
            plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let log = closed(&recorder, 2).await;
            assert_eq!(
                log[3..],
                ["opened server", "closed server handshake_failed"]
            );
        }
    }
}

/// What a peer says first: a server's SETTINGS, after a client's preface.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn peer_that_does_not_answer_a_keepalive_ping_is_closed() {
    let soon = Duration::from_millis(50);
    let server = Server::builder()
        .http2_keepalive_interval(Some(soon))
        .http2_keepalive_timeout(Some(soon));
    let served = serve(server).await;
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    silent
        .write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SETTINGS].concat())
        .await
        .unwrap();
    assert_eq!(
        closed(&served.recorder, 1).await,
        ["opened server", "ready server", "closed server closed"],
    );

    // The other way round, in the middle of an RPC.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client_side = RecordingTracer::new();
    let connector = Connector::new(http(), client_side.clone());
    let endpoint = endpoint(address)
        .http2_keep_alive_interval(soon)
        .keep_alive_timeout(soon);
    let channel = endpoint.connect_with_connector_lazy(connector);
    let channel = tower::ServiceBuilder::new()
        .layer(TracerLayer::new(client_side.clone()).client())
        .service(channel);
    let call = tokio::spawn(async move { EchoClient::new(channel).unary_echo(ask("?")).await });
    let (mut silent_server, _) = listener.accept().await.unwrap();
    silent_server.write_all(SETTINGS).await.unwrap();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(
        closed(&client_side, 1).await,
        ["opened client", "ready client", "closed client closed"],
    );
    let rpc = client_side.wait_finished(1).await.remove(0);
    assert_eq!(rpc.stats().code(), Some(error.code().into()));
    assert_eq!(
        rpc.stats().ending(),
        Some(tower_tracer::Ending::ServiceError)
    );
    drop((silent, silent_server));
}

#[test]
fn server_that_dies_in_the_middle_of_an_rpc_and_comes_back_is_connected_to_again() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let begin = |runtime: &tokio::runtime::Runtime, address: Option<SocketAddr>| {
        let recorder = RecordingTracer::new();
        let served = runtime.block_on(async {
            let address = address.unwrap_or(([127, 0, 0, 1], 0).into());
            let incoming = TcpIncoming::bind(address).unwrap();
            let address = incoming.local_addr().unwrap();
            let server = Server::builder()
                .layer(TracerLayer::new(recorder.clone()).server())
                .add_service(EchoServer::new(EchoService))
                .serve_with_incoming(Incoming::new(incoming, recorder.clone()));
            tokio::spawn(server);
            address
        });
        (recorder, served)
    };
    let first_runtime = runtime();
    let (first, address) = begin(&first_runtime, None);
    let client_runtime = runtime();
    let client_side = RecordingTracer::new();
    let connector = Connector::new(http(), client_side.clone());
    client_runtime.block_on(async {
        let channel = endpoint(address).connect_with_connector_lazy(connector);
        let layer = TracerLayer::new(client_side.clone()).client();
        let channel = tower::ServiceBuilder::new().layer(layer).service(channel);
        let mut client = EchoClient::new(channel);
        let slow = EchoRequest {
            count: 1000,
            delay_ms: 10,
            ..ask("tick")
        };
        let mut stream = client
            .server_streaming_echo(slow)
            .await
            .unwrap()
            .into_inner();
        stream.message().await.unwrap();

        first_runtime.shutdown_background();
        while let Ok(Some(_)) = stream.message().await {}
        let log = closed(&first, 1).await;
        assert_eq!(
            log,
            ["opened server", "ready server", "closed server closed"]
        );
        first.wait_finished(1).await;
        let server = first.connections().remove(0);
        assert_eq!((server.rpcs_started(), server.rpcs_running()), (1, 0));
        let log = closed(&client_side, 1).await;
        assert_eq!(
            log,
            ["opened client", "ready client", "closed client peer_closed"]
        );
        let cut = client_side.wait_finished(1).await.remove(0);
        assert!(cut.stats().failed(), "{cut}");

        client.unary_echo(ask("too early")).await.unwrap_err();
        let log = closed(&client_side, 2).await;
        assert_eq!(log[3..], ["opened client", "closed client connect_failed"]);

        let again = move || {
            let runtime = runtime();
            let (second, _) = begin(&runtime, Some(address));
            (runtime, second)
        };
        let (second_runtime, second) = tokio::task::spawn_blocking(again).await.unwrap();
        client.unary_echo(ask("back")).await.unwrap();
        let back = client_side.connections().remove(2);
        assert_eq!(back.attempt(), Some(2));
        assert_eq!(second.connections().len(), 1);
        drop(client);
        closed(&client_side, 3).await;
        let log = closed(&second, 1).await;
        assert_eq!(log[..2], ["opened server", "ready server"]);
        // The client says GOAWAY first. After that the server, on a thread of its own, may close first.
        let ends = ["closed server peer_closed", "closed server closed"];
        assert!(log.len() == 3 && ends.contains(&&*log[2]), "{log:?}");
        second_runtime.shutdown_background();
    });
}

#[cfg(unix)]
#[tokio::test]
async fn unix_sockets_have_their_path() {
    use tokio::net::{UnixListener, UnixStream};
    use tokio_stream::wrappers::UnixListenerStream;

    let path = std::env::temp_dir().join(format!("tower-tracer-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let recorder = RecordingTracer::new();
    let listener = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
    let server = Server::builder()
        .layer(TracerLayer::new(recorder.clone()).server())
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(Incoming::new(listener, recorder.clone()));
    tokio::spawn(server);
    let client_side = RecordingTracer::new();
    let to = path.clone();
    let unix = tower::service_fn(move |_: http::Uri| {
        let to = to.clone();
        async move {
            UnixStream::connect(to)
                .await
                .map(hyper_util::rt::TokioIo::new)
        }
    });
    let connector = Connector::new(unix, client_side.clone());
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    EchoClient::new(channel)
        .unary_echo(ask("unix"))
        .await
        .unwrap();
    let name = format!("unix:{}", path.display());
    assert_eq!(recorder.connections()[0].local().unwrap().to_string(), name);
    assert_eq!(
        recorder.connections()[0].peer().unwrap().to_string(),
        "unix:"
    );
    assert_eq!(
        client_side.connections()[0].peer().unwrap().to_string(),
        name
    );
    // No address tells the connections of a Unix socket apart.
    assert!(recorder.wait_finished(1).await[0].connection().is_none());
    let _ = std::fs::remove_file(&path);
}

#[tokio::test]
async fn axum_handlers_and_their_records_have_the_connection() {
    use axum::{Router, extract::ConnectInfo, routing::get};

    let recorder = RecordingTracer::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = Incoming::new(listener, recorder.clone());
    let handler = |ConnectInfo(connection): ConnectInfo<ConnectionInfo>| async move {
        format!("{} {}", connection.number(), connection.rpcs_running())
    };
    let router = Router::new()
        .route("/", get(handler))
        .layer(TracerLayer::new(recorder.clone()).server());
    let service = router.into_make_service_with_connect_info::<ConnectionInfo>();
    tokio::spawn(async move { axum::serve(incoming, service).await });
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    tcp.write_all(request).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    let connection = recorder.connections().remove(0);
    let expected = format!("{} 1", connection.number());
    assert!(
        answer.ends_with(&expected),
        "{answer:?} is not {expected:?}"
    );
    let rpc = recorder.wait_finished(1).await.remove(0);
    assert_eq!(rpc.connection().unwrap().number(), connection.number());
    assert_eq!(rpc.peer().socket(), Some(tcp.local_addr().unwrap()));
    closed(&recorder, 1).await;
}

#[tokio::test]
async fn hyper_util_s_client_says_which_connection_a_response_came_on() {
    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/", axum::routing::get(async || "hello"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let recorder = RecordingTracer::new();
    let connector = Connector::new(HttpConnector::new(), recorder.clone());
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<bytes::Bytes>>(connector);
    let client = tower::ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()).client())
        .service(client);
    for _ in 0..2 {
        let request = http::Request::get(&uri).body(Empty::new()).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        let rpc = recorder.started().pop().unwrap();
        assert_eq!(rpc.connection().unwrap().rpcs_running(), 1);
        response.into_body().collect().await.unwrap();
        assert_eq!(rpc.connection().unwrap().rpcs_running(), 0);
    }
    let connections = recorder.connections();
    assert_eq!(
        connections.len(),
        1,
        "the second call uses the first one's connection"
    );
    assert_eq!(connections[0].rpcs_started(), 2);
    drop(client);
    closed(&recorder, 1).await;
}

#[tokio::test]
async fn proxy_has_the_connection_of_its_call_on_that_call_alone() {
    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/", axum::routing::get(async || "hello"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let upstream = RecordingTracer::new();
    let connector = Connector::new(HttpConnector::new(), upstream.clone());
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<bytes::Bytes>>(connector);
    // A server that hands on its request, and its call's response as it is.
    let server = RecordingTracer::new();
    let proxy = tower::ServiceBuilder::new()
        .layer(TracerLayer::new(server.clone()).server())
        .layer(TracerLayer::new(upstream.clone()).client())
        .layer(TracerLayer::new(()).client())
        .service(client);
    let request = http::Request::get(&uri).body(Empty::new()).unwrap();
    let response = proxy.oneshot(request).await.unwrap();

    let connection = upstream.connections().remove(0);
    assert_eq!(
        connection.rpcs_running(),
        1,
        "once, though two layers see it"
    );
    response.into_body().collect().await.unwrap();
    assert_eq!(
        server
            .only_finished()
            .connection()
            .map(ConnectionInfo::number),
        None
    );
    let call = upstream.only_finished();
    assert_eq!(call.connection().unwrap().number(), connection.number());
    assert_eq!(
        (connection.rpcs_started(), connection.rpcs_running()),
        (1, 0)
    );
}

#[tokio::test]
async fn bytes_pass_unchanged_whatever_they_are_and_however_they_are_split() {
    let mut random = 1_u64;
    let mut next = move || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    for round in 0..200 {
        let sent: Vec<u8> = (0..next() % 5000).map(|_| next() as u8).collect();
        let (one, other) = tokio::io::duplex(1 + next() % 700);
        let mut io = Acceptor::new(()).accept(one);
        let connection = io.connection().clone();
        let chunk = 1 + next() % 900;
        let expected = sent.clone();
        let echo = tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(other);
            let back = tokio::spawn(async move {
                let mut back = Vec::new();
                read.read_to_end(&mut back).await.unwrap();
                back
            });
            for part in expected.chunks(chunk) {
                write.write_all(part).await.unwrap();
            }
            write.shutdown().await.unwrap();
            back.await.unwrap()
        });
        let mut received = Vec::new();
        io.read_to_end(&mut received).await.unwrap();
        for part in sent.chunks(chunk) {
            io.write_all(part).await.unwrap();
        }
        io.shutdown().await.unwrap();
        let back = echo.await.unwrap();
        assert!(received == sent && back == sent, "round {round}");
        assert_eq!(connection.received().bytes(), sent.len() as u64);
        assert_eq!(connection.sent().bytes(), sent.len() as u64);
        io.set_ready();
        drop(io);
        assert_eq!(connection.end(), Some(ConnectionEnd::PeerClosed));
    }
}

/// Opens and drops 10,000 connections, 1000 at a time; every second one is never ready.
fn open_ten_thousand(tracer: impl ConnectionTracer, text: impl Fn() -> String) {
    let acceptor = Acceptor::new(tracer);
    for _ in 0..10 {
        let open: Vec<_> = (0..1000_u32)
            .map(|n| {
                let peer = SocketAddr::from((std::net::Ipv4Addr::from(0x0A00_0000 + n), 40_000));
                let io = acceptor.accept_between(tokio::io::empty(), None, Some(peer));
                if n % 2 == 0 {
                    io.set_ready();
                }
                io
            })
            .collect();
        let text = text();
        assert!(
            text.contains("rpc_connections_open{role=\"server\"} 500"),
            "{text}"
        );
        drop(open);
    }
    let text = text();
    for line in [
        "rpc_connections_open{role=\"server\"} 0",
        "rpc_connections_opened_total{role=\"server\"} 10000",
        "rpc_connections_closed_total{role=\"server\",end=\"closed\"} 5000",
        "rpc_connections_closed_total{role=\"server\",end=\"handshake_failed\"} 5000",
        "rpc_connection_setup_seconds_count{role=\"server\"} 5000",
        "rpc_connection_lifetime_seconds_count{role=\"server\"} 5000",
        "rpc_connection_sent_bytes_total{role=\"server\"} 0",
        "rpc_connection_received_bytes_total{role=\"server\"} 0",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
}

#[tokio::test]
async fn ten_thousand_connections_leave_none_open() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let metrics = MetricsTracer::new().recorder(recorder);
    open_ten_thousand(metrics, || handle.render());
}

#[cfg(feature = "prometheus")]
#[tokio::test]
async fn ten_thousand_connections_leave_none_open_in_prometheus_client() {
    let metrics = tower_tracer::prometheus::PrometheusTracer::new();
    open_ten_thousand(metrics.clone(), || metrics.encode());
}

#[tokio::test]
async fn opentelemetry_has_the_names_of_a94_and_a118() {
    let keys = keys(false);
    let telemetry = Telemetry::new();
    let tracer = Arc::new(telemetry.tracer());
    let tls = ServerTlsConfig::new().identity(keys.server.clone());
    let server = Server::builder().tls_config(tls).unwrap();
    let served = serve_with(server, RecordingTracer::new(), tracer.clone()).await;
    drop(TcpStream::connect(served.address).await.unwrap());
    let tls = ClientTlsConfig::new().ca_certificate(keys.authority.clone());
    let uri = format!("https://localhost:{}", served.address.port());
    let endpoint = Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap();
    let connector = Connector::new(http(), tracer.clone());
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    EchoClient::new(channel)
        .unary_echo(ask("hello"))
        .await
        .unwrap();
    drop(tracer);
    let names = [
        "grpc.server.tls.handshakes",
        "grpc.subchannel.connection_attempts_succeeded",
        "grpc.subchannel.disconnections",
        "grpc.subchannel.open_connections",
        "http.client.connection.duration",
        "http.client.open_connections",
        "tower_tracer.server.active_connections",
        "tower_tracer.server.connection.duration",
        "tower_tracer.server.tls_handshake.duration",
    ];
    until("all metrics", || {
        names
            .iter()
            .all(|name| telemetry.metrics().iter().any(|m| m == name))
    })
    .await;
    let target = format!("grpc.target=dns:///localhost:{}", served.address.port());
    let only = |name: &str, attributes: &str, value: i64| {
        assert_eq!(
            telemetry.sum(name),
            [(attributes.to_owned(), value)],
            "{name}"
        );
    };
    only("grpc.subchannel.connection_attempts_succeeded", &target, 1);
    let closed = format!("grpc.disconnect_error=subchannel shutdown {target}");
    only("grpc.subchannel.disconnections", &closed, 1);
    only("grpc.subchannel.open_connections", &target, 0);
    let server = format!(
        "http.connection.state=unknown server.address=localhost server.port={}",
        served.address.port()
    );
    only("http.client.open_connections", &server, 0);
    only(
        "grpc.server.tls.handshakes",
        "grpc.tls.handshake.result=SUCCESS",
        1,
    );
    only("tower_tracer.server.active_connections", "", 0);
    let ended: u64 = telemetry
        .histogram("tower_tracer.server.connection.duration")
        .iter()
        .map(|p| p.count)
        .sum();
    assert_eq!(ended, 2);
}

/// A job that keeps its RPC keeps no connection open, and a connection that is closed keeps no RPC.
#[tokio::test]
async fn connection_is_found_while_it_is_open_only() {
    let (sender, finished) = std::sync::mpsc::channel();
    let tracer = on_finish(move |rpc: &RpcInfo| {
        // Over: it is not among those in flight any more.
        let running = rpc.connection().map(|connection| connection.rpcs_running());
        sender.send((rpc.clone(), running)).unwrap();
    });
    let call = |peer: SocketAddr, tracer| {
        let service = tower::ServiceBuilder::new()
            .layer(TracerLayer::new(tracer).server())
            .service_fn(async |_: http::Request<String>| {
                Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
            });
        let mut request = http::Request::new(String::new());
        request
            .extensions_mut()
            .insert(axum::extract::ConnectInfo(peer));
        service.oneshot(request)
    };
    let twice_peer: SocketAddr = "10.9.8.7:67".parse().unwrap();
    let cut_peer: SocketAddr = "10.9.8.7:66".parse().unwrap();
    let hanging = |peer: SocketAddr| async move {
        let service = tower::ServiceBuilder::new()
            .layer(TracerLayer::new(()).server())
            .service_fn(|_: http::Request<String>| {
                std::future::pending::<Result<http::Response<String>, std::convert::Infallible>>()
            });
        let mut request = http::Request::new(String::new());
        request
            .extensions_mut()
            .insert(axum::extract::ConnectInfo(peer));
        service.oneshot(request).await
    };
    let tracer = Arc::new(tracer);
    let peer: SocketAddr = "10.9.8.7:65".parse().unwrap();
    let io = Acceptor::new(()).accept_between(tokio::io::empty(), None, Some(peer));
    call(peer, tracer.clone()).await.unwrap();
    let (rpc, running) = finished.recv().unwrap();
    assert_eq!(rpc.connection().unwrap().number(), io.connection().number());
    assert_eq!(running, Some(0));
    // It is cut off with its connection.
    let cut = Acceptor::new(()).accept_between(tokio::io::empty(), None, Some(cut_peer));
    let connection = cut.connection().clone();
    let mut hangs = Box::pin(hanging(cut_peer));
    assert!(hangs.as_mut().now_or_never().is_none());
    assert_eq!(connection.rpcs_running(), 1);
    drop(cut);
    assert_eq!(connection.rpcs_cut_off(), 1);
    assert_eq!(connection.rpcs_running(), 1);
    drop(hangs);
    assert_eq!(
        (connection.rpcs_running(), connection.rpcs_cut_off()),
        (0, 1)
    );

    // Two layers see one RPC: each record has the connection, which lists the RPC once.
    let io_twice = Acceptor::new(()).accept_between(tokio::io::empty(), None, Some(twice_peer));
    let layer = || TracerLayer::new(tracer.clone()).server();
    let service = tower::ServiceBuilder::new()
        .layer(layer())
        .layer(layer())
        .service_fn(async |request: http::Request<String>| {
            let rpc = request.extensions().get::<RpcInfo>().unwrap();
            assert_eq!(rpc.connection().unwrap().rpcs_running(), 1);
            Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
        });
    let mut request = http::Request::new(String::new());
    let info = axum::extract::ConnectInfo(twice_peer);
    request.extensions_mut().insert(info);
    service.oneshot(request).await.unwrap();
    for _ in 0..2 {
        let (rpc, _) = finished.recv().unwrap();
        assert_eq!(
            rpc.connection().unwrap().number(),
            io_twice.connection().number()
        );
    }
    assert_eq!(io_twice.connection().rpcs_started(), 1);
    assert_eq!(io_twice.connection().rpcs_running(), 0);

    // Two connections of one address: which of them it is cannot be known.
    let second = Acceptor::new(()).accept_between(tokio::io::empty(), None, Some(peer));
    call(peer, tracer.clone()).await.unwrap();
    assert!(finished.recv().unwrap().0.connection().is_none());
    drop((io, second));
    call(peer, tracer).await.unwrap();
    assert!(finished.recv().unwrap().0.connection().is_none());
}
