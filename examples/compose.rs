//! Builds a stack of tracers from a TOML file, and swaps it while a stream is running.
//!
//! `cargo run -p examples --example compose --features compose [-- FILE]`; without a file it reads `examples/compose.toml`.

// What is public here a test calls.
#![allow(unreachable_pub, clippy::missing_errors_doc)]

mod echo;

use std::{
    env,
    error::Error,
    fmt, fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use echo::{EchoClient, EchoServer, EchoService, listen, say};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tower_tracer::{RpcInfo, Tracer, TracerLayer, on_finish, tracer::BoxTracer};

/// What takes over while a stream is running.
pub const NEXT: &str = r#"
    [[tracer]]
    name = "log"
    prefix = "new stack:"
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/compose.toml");
    let file = env::args().nth(1).unwrap_or_else(|| default.to_owned());
    let toml = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    run(&toml, NEXT, Arc::new(|line| println!("{line}"))).await
}

/// Serves under one stack, starts a stream, swaps the stack, makes a call, ends the stream.
pub async fn run(first: &str, next: &str, print: Print) -> Result<(), Box<dyn Error>> {
    let tracer = stack(first, &print)?.reloadable();
    let (incoming, uri) = listen().await?;
    let server = Server::builder()
        .layer(TracerLayer::new(tracer.clone()).server())
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let mut client = EchoClient::connect(uri).await?;

    let (send, requests) = mpsc::channel(1);
    send.send(say("one")).await?;
    let stream = client.bidirectional_streaming_echo(ReceiverStream::new(requests));
    let mut responses = stream.await?.into_inner();
    responses.message().await?;

    tracer.set(stack(next, &print)?);
    print("The stack is swapped; the stream goes on.".to_owned());
    client.unary_echo(say("hello")).await?;

    send.send(say("two")).await?;
    responses.message().await?;
    drop(send);
    while responses.message().await?.is_some() {}
    Ok(())
}

/// Takes the lines that tracers print.
pub type Print = Arc<dyn Fn(String) + Send + Sync>;

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    tracer: Vec<Entry>,
}

/// One tracer, and what is put around it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    skip: Vec<String>,
    #[serde(default)]
    failed: bool,
    slow_ms: Option<u64>,
    sample: Option<f64>,
}

/// Builds the stack that a TOML text describes.
pub fn stack(toml: &str, print: &Print) -> Result<Vec<BoxTracer>, ConfigError> {
    let config: Config = toml::from_str(toml).map_err(|error| ConfigError(error.to_string()))?;
    let numbered = config.tracer.into_iter().zip(1..);
    numbered
        .map(|(entry, number)| {
            let name = entry.name.clone();
            tracer(entry, Arc::clone(print))
                .map_err(|wrong| ConfigError(format!("tracer {number}, {name:?}: {wrong}")))
        })
        .collect()
}

fn tracer(entry: Entry, print: Print) -> Result<BoxTracer, String> {
    let prefix = entry.prefix;
    let mut tracer = match &*entry.name {
        "log" => on_finish(move |rpc| print(format!("{prefix} {}", line(rpc)))).boxed(),
        "count" => {
            let (all, failed) = (AtomicU64::new(0), AtomicU64::new(0));
            on_finish(move |rpc| {
                let failures = u64::from(rpc.stats().failed());
                let all = all.fetch_add(1, Relaxed) + 1;
                let failed = failed.fetch_add(failures, Relaxed) + failures;
                print(format!("{prefix} {all} RPCs, {failed} failed"));
            })
            .boxed()
        }
        _ => return Err(r#"unknown tracer; allowed are "log" and "count""#.to_owned()),
    };

    let slow = entry.slow_ms.map(Duration::from_millis);
    if entry.failed || slow.is_some() {
        let wanted = move |rpc: &RpcInfo| {
            let stats = rpc.stats();
            entry.failed && stats.failed() || slow.is_some_and(|slow| stats.elapsed() >= slow)
        };
        tracer = tracer.finish_if(wanted).boxed();
    }
    if let Some(ratio) = entry.sample {
        let sampled = tracer.sample(ratio);
        tracer = sampled.map_err(|wrong| wrong.to_string())?.boxed();
    }
    for skipped in entry.skip {
        tracer = match &*skipped {
            "health" => tracer.filter(|rpc| !rpc.is_health_check()).boxed(),
            "reflection" => tracer.filter(|rpc| !rpc.is_reflection()).boxed(),
            _ => {
                return Err(format!(
                    r#"cannot skip {skipped:?}; allowed are "health" and "reflection""#
                ));
            }
        };
    }
    Ok(tracer)
}

fn line(rpc: &RpcInfo) -> String {
    let method = rpc.full_method().unwrap_or("unknown method");
    let status = rpc.stats().status();
    let status = status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
    let messages = rpc.stats().sent().messages().unwrap_or(0);
    format!("{method} {status}, {messages} sent")
}

/// What is wrong with a configuration, and what is allowed.
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As it displays: this is what `main` prints.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for ConfigError {}
