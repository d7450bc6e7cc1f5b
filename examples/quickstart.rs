//! A gRPC server and its client in one process, over TCP, both traced by a tracer of fifteen lines.
//!
//! It makes a call of each kind, then one that fails, one that meets its deadline, one that the
//! client leaves mid-stream and one whose handler panics. For each it prints a line per side, and
//! in the end all the events of one of them.
//!
//! ```sh
//! cargo run --example quickstart
//! ```

mod echo;

use std::{error::Error, panic, time::Duration};

use echo::{EchoClient, EchoServer, EchoService, listen, say};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonic::{
    Code, Request, Status,
    service::interceptor::InterceptedService,
    transport::{Endpoint, Server},
};
use tower::{Layer as _, ServiceBuilder};
use tower_tracer::{
    Event, Level, RequestParts, RpcInfo, Tracer, TracerLayer, rpc::Severity, service::StageLayer,
};

/// The metrics tracer: when an RPC is over, its record is complete. This one passes it on to be
/// printed; another would feed a histogram.
struct Metrics(UnboundedSender<RpcInfo>);

impl Tracer for Metrics {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        let _ = self.0.send(rpc.clone());
    }
}

/// An event of our own: the request was let in.
static LET_IN: Event = Event::new("let_in", Level::Detailed);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    leave_out_the_panic_we_ask_for();
    let (sender, mut finished) = unbounded_channel();

    // The server. Its layer keeps the time of every event; by default it keeps only start and
    // finish.
    let (incoming, uri) = listen().await?;
    let handler = StageLayer::server_handle().layer(EchoServer::new(EchoService));
    let server = Server::builder()
        .layer(TracerLayer::new(Metrics(sender.clone())).level(Level::Detailed))
        .add_service(InterceptedService::new(handler, let_in))
        .serve_with_incoming(incoming);
    tokio::spawn(server);

    // The client: the same layer.
    let channel = Endpoint::from_shared(uri)?.connect().await?;
    let channel = ServiceBuilder::new()
        .layer(TracerLayer::new(Metrics(sender)))
        .service(channel);
    let mut client = EchoClient::new(channel);

    println!("Each RPC as its two sides saw it. Sent, received: messages/bytes.\n");

    client.unary_echo(say("hello")).await?;
    print_both_sides(&mut finished).await;

    let request = say("again").times(3);
    let mut responses = client.server_streaming_echo(request).await?.into_inner();
    while responses.message().await?.is_some() {}
    print_both_sides(&mut finished).await;

    let words = tokio_stream::iter(["one", "two", "three"].map(say));
    client.client_streaming_echo(words).await?;
    print_both_sides(&mut finished).await;

    let words = tokio_stream::iter(["ping", "pong"].map(say));
    let responses = client.bidirectional_streaming_echo(words).await?;
    let mut responses = responses.into_inner();
    while responses.message().await?.is_some() {}
    let dialogue = print_both_sides(&mut finished).await;

    // An error.
    let request = say("unknown").failing(Code::NotFound);
    client.unary_echo(request).await.expect_err("asked to fail");
    print_both_sides(&mut finished).await;

    // A deadline of 30 ms, for an answer that takes ten seconds.
    let mut request = Request::new(say("late").after(Duration::from_secs(10)));
    request.set_timeout(Duration::from_millis(30));
    client.unary_echo(request).await.expect_err("too late");
    print_both_sides(&mut finished).await;

    // A stream of a thousand messages, left after the second.
    let request = say("tick").times(1000).after(Duration::from_millis(5));
    let mut responses = client.server_streaming_echo(request).await?.into_inner();
    responses.message().await?;
    responses.message().await?;
    drop(responses);
    print_both_sides(&mut finished).await;

    // A handler that panics: its stream is reset, and the server keeps running.
    let request = say("oops").panicking();
    client
        .unary_echo(request)
        .await
        .expect_err("asked to panic");
    print_both_sides(&mut finished).await;

    print_timeline(&dialogue);
    Ok(())
}

/// Runs on the server before the handler, and finds the RPC it belongs to in the request.
fn let_in(request: Request<()>) -> Result<Request<()>, Status> {
    if let Some(rpc) = request.extensions().get::<RpcInfo>() {
        rpc.record_with(LET_IN, Severity::Info, "no password is needed");
    }
    Ok(request)
}

/// Waits until an RPC is over on both sides, prints the client's line above the server's, and
/// returns the server's record.
async fn print_both_sides(finished: &mut UnboundedReceiver<RpcInfo>) -> RpcInfo {
    let mut sides = Vec::new();
    while sides.len() < 2 {
        sides.extend(finished.recv().await);
    }
    sides.sort_by_key(|rpc| rpc.role().as_str());
    for rpc in &sides {
        println!("{rpc}");
    }
    sides.remove(1)
}

/// Prints what happened to an RPC, and when.
fn print_timeline(rpc: &RpcInfo) {
    let method = rpc.full_method().unwrap_or("unknown");
    println!("\n{method} on the {}, event by event:\n", rpc.role());
    for recorded in rpc.stats().events() {
        let info = recorded.info.as_deref().unwrap_or_default();
        let line = format!(
            "{:>9} ms  {:<24}{info}",
            millis(recorded.at),
            recorded.event
        );
        println!("{}", line.trim_end());
    }
}

fn millis(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64() * 1e3)
}

/// Rust reports a panic on stderr where it happens, in the midst of the table. The one that this
/// program asks for is left out; all others are reported as ever.
fn leave_out_the_panic_we_ask_for() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&"asked to panic") {
            report(info);
        }
    }));
}
