//! Servers and clients for `connections.sh`, whose connections are traced on both sides.
//!
//! `connections FOLDER` writes the certificate of its authority to `FOLDER/ca.pem`, and prints where it listens:
//! a line of JSON. Another one follows for each hook of a connection, and for each RPC that is over. A command is a
//! line of standard input:
//!
//! - `connect NAME URI [keepalive]` makes a client, which connects when it is used;
//! - `unary NAME` and `stream NAME` make a call, the second one without an end;
//! - `disconnect NAME` drops the client and its calls;
//! - `show` prints the connections that are open.

#[path = "../../examples/echo/mod.rs"]
mod echo;

use std::{
    collections::HashMap,
    error::Error,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, routing::get};
use echo::{EchoClient, EchoServer, EchoService, say};
use hyper_util::client::legacy::connect::HttpConnector;
use metrics_exporter_prometheus::PrometheusBuilder;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    task::JoinHandle,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use tower::ServiceBuilder;
use tower_tracer::{
    RequestParts, RpcInfo, Tracer, TracerLayer,
    connection::{ConnectionInfo, ConnectionTracer, Connector, GoAway, Incoming},
    metrics::{DURATION_BUCKETS, MetricsTracer},
    service::TracerService,
};

type Tracers = Arc<(MetricsTracer, Report)>;
type Failure = Box<dyn Error + Send + Sync>;

/// How often a silent peer is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_millis(300);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_millis(700);
/// The age of the connections of one server.
const AGE: Duration = Duration::from_millis(800);

/// Prints connections and RPCs, and keeps the connections that are open.
#[derive(Clone, Default)]
struct Report(Arc<Mutex<Vec<ConnectionInfo>>>);

impl Report {
    fn with_open<T>(&self, act: impl FnOnce(&mut Vec<ConnectionInfo>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tracer for Report {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        let stats = rpc.stats();
        let line = json!({
            "rpc": rpc.method(),
            "role": rpc.role().as_str(),
            "code": stats.code().map(|code| code.to_string()),
            "ending": stats.ending().map(|ending| ending.as_str()),
            "connection": rpc.connection().map(ConnectionInfo::number),
        });
        println!("{line}");
    }
}

impl ConnectionTracer for Report {
    type State = ();

    fn opened(&self, connection: &ConnectionInfo) {
        self.with_open(|open| open.push(connection.clone()));
        println!("{}", line("opened", connection));
    }

    fn ready(&self, (): &mut (), connection: &ConnectionInfo) {
        println!("{}", line("ready", connection));
    }

    fn closed(&self, (): (), connection: &ConnectionInfo) {
        self.with_open(|open| open.retain(|other| other.number() != connection.number()));
        println!("{}", line("closed", connection));
    }
}

fn line(hook: &str, connection: &ConnectionInfo) -> Value {
    let goaway = |goaway: GoAway| json!([goaway.code_name(), goaway.last_stream]);
    let h2 = connection.h2().map(|h2| {
        json!({
            "goaway_received": h2.goaway_received().map(goaway),
            "goaway_sent": h2.goaway_sent().map(goaway),
            "streams_opened": h2.streams_opened(),
            "streams_open": h2.streams_open(),
        })
    });
    json!({
        "hook": hook,
        "number": connection.number(),
        "role": connection.role().as_str(),
        "local": connection.local().map(|address| address.to_string()),
        "peer": connection.peer().map(|address| address.to_string()),
        "target": connection.target(),
        "attempt": connection.attempt(),
        "tls": connection.is_tls(),
        "end": connection.end().map(|end| end.as_str()),
        "error": connection.end().and_then(|end| end.error_kind()).map(|kind| kind.to_string()),
        "received": connection.received().bytes(),
        "sent": connection.sent().bytes(),
        "rpcs_started": connection.rpcs_started(),
        "rpcs_running": connection.rpcs_running(),
        "rpcs_cut_off": connection.rpcs_cut_off(),
        "h2": h2,
    })
}

/// Serves Echo on a free port, and returns the port.
fn serve(server: Server, tracers: Tracers) -> Result<u16, Failure> {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?.with_nodelay(Some(true));
    let port = incoming.local_addr()?.port();
    let mut server = server.layer(TracerLayer::new(tracers.clone()).server());
    let served = server.add_service(EchoServer::new(EchoService));
    tokio::spawn(served.serve_with_incoming(Incoming::new(incoming, tracers)));
    Ok(port)
}

/// A certificate for `localhost`, whose authority is written to the folder.
fn identity(folder: &Path) -> Result<Identity, Failure> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // The same name on both would be a certificate that signs itself.
    params
        .distinguished_name
        .push(DnType::CommonName, "authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    std::fs::write(folder.join("ca.pem"), authority.pem())?;
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(vec!["localhost".to_owned()])?;
    let certificate = params.signed_by(&key, &authority)?;
    Ok(Identity::from_pem(certificate.pem(), key.serialize_pem()))
}

/// A client, and the calls that it has made.
struct Client {
    echo: EchoClient<TracerService<Channel, Tracers>>,
    calls: Vec<JoinHandle<()>>,
}

impl Client {
    fn new(uri: &str, keepalive: bool, tracers: Tracers) -> Result<Self, Failure> {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        let mut endpoint = Endpoint::from_shared(uri.to_owned())?;
        if keepalive {
            endpoint = endpoint
                .http2_keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        }
        let connector = Connector::new(http, tracers.clone());
        let channel = endpoint.connect_with_connector_lazy(connector);
        let layer = TracerLayer::new(tracers).client();
        let channel = ServiceBuilder::new().layer(layer).service(channel);
        Ok(Self {
            echo: EchoClient::new(channel),
            calls: Vec::new(),
        })
    }

    fn unary(&mut self) {
        let mut echo = self.echo.clone();
        self.calls.push(tokio::spawn(async move {
            saw(echo.unary_echo(say("hello")).await.map(drop));
        }));
    }

    fn stream(&mut self) {
        let mut echo = self.echo.clone();
        self.calls.push(tokio::spawn(async move {
            let endless = say("tick").times(u32::MAX).after(Duration::from_millis(50));
            let responses = match echo.server_streaming_echo(endless).await {
                Ok(responses) => responses,
                Err(status) => return saw(Err(status)),
            };
            let mut responses = responses.into_inner();
            let mut count = 0;
            saw(loop {
                match responses.message().await {
                    Ok(None) => break Ok(()),
                    Err(status) => break Err(status),
                    Ok(Some(_)) => count += 1,
                }
                if count == 3 {
                    println!("{}", json!({"streams": true}));
                }
            });
        }));
    }
}

/// What the caller saw of a call.
fn saw(result: Result<(), Status>) {
    let code = result.map_or_else(|status| status.code(), |()| Code::Ok);
    println!(
        "{}",
        json!({"caller": tower_tracer::Code::from(code).to_string()})
    );
}

impl Drop for Client {
    fn drop(&mut self) {
        for call in &self.calls {
            call.abort();
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).ok_or("usage: connections FOLDER")?;
    let recorder = PrometheusBuilder::new()
        .set_buckets(&DURATION_BUCKETS)?
        .install_recorder()?;
    let report = Report::default();
    let tracers = Arc::new((MetricsTracer::new(), report.clone()));

    let metrics = TcpListener::bind("127.0.0.1:0").await?;
    let metrics_port = metrics.local_addr()?.port();
    let scrape = get(move || std::future::ready(recorder.render()));
    let scraped = axum::serve(metrics, Router::new().route("/metrics", scrape));
    tokio::spawn(async { scraped.await });

    let tls = ServerTlsConfig::new().identity(identity(Path::new(&folder))?);
    let keepalive = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    let listening = json!({
        "metrics": metrics_port,
        "plain": serve(Server::builder(), tracers.clone())?,
        "tls": serve(Server::builder().tls_config(tls)?, tracers.clone())?,
        "age": serve(Server::builder().max_connection_age(AGE), tracers.clone())?,
        "keepalive": serve(keepalive, tracers.clone())?,
    });
    println!("{listening}");

    let mut clients = HashMap::new();
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    while let Some(command) = commands.next_line().await? {
        let words: Vec<_> = command.split(' ').collect();
        match words[..] {
            ["connect", name, uri, ref options @ ..] => {
                let client = Client::new(uri, options.contains(&"keepalive"), tracers.clone())?;
                clients.insert(name.to_owned(), client);
            }
            ["disconnect", name] => drop(clients.remove(name)),
            ["unary", name] => clients.get_mut(name).ok_or("no such client")?.unary(),
            ["stream", name] => clients.get_mut(name).ok_or("no such client")?.stream(),
            ["show"] => {
                let open = report.with_open(|open| open.clone());
                let open: Vec<_> = open.iter().map(|connection| line("", connection)).collect();
                println!("{}", json!({"open": open}));
            }
            _ => return Err(format!("no command: {command}").into()),
        }
    }
    Ok(())
}
