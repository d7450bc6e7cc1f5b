//! The client of the `grpc` crate, which no tower layer fits, against a server of tonic: both traced by
//! `TracerLayer`, the client through an interceptor.
//!
//! For each call it prints a line per side, and checks that both sides recorded the same. What the client's
//! record lacks is in ARCHITECTURE.md.
//!
//! ```sh
//! cargo run --manifest-path examples/grpc-crate/Cargo.toml
//! ```

#[path = "../../echo/mod.rs"]
mod echo;
mod intercept;

use std::{
    error::Error,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use echo::{EchoRequest, EchoResponse, EchoServer, EchoService, listen, say};
use grpc::{
    client::{
        CallOptions, Channel, ChannelOptions, Invoke, RecvStream as _, ResponseStreamItem,
        SendOptions, SendStream as _, interceptor::InvokeExt as _,
    },
    core::{RecvMessage, RequestHeaders, SendMessage},
    credentials::LocalChannelCredentials,
};
use intercept::Traced;
use prost::Message;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};
use tonic::{Code, transport::Server};
use tower_tracer::{Ending, RequestParts, Role, RpcInfo, Status, Tracer, TracerLayer, rpc::Target};

/// Passes each record on, and a header from the client to the server.
struct Records(UnboundedSender<RpcInfo>);

const CALLER: &str = "x-caller";

impl Tracer for Records {
    type State = ();

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) {
        if rpc.role() == Role::Client {
            if let Some(headers) = request.headers_mut() {
                headers.insert(CALLER, http::HeaderValue::from_static("example"));
            }
        } else if let Some(caller) = request.headers().get(CALLER) {
            let caller = caller.to_str().unwrap_or_default().to_owned();
            rpc.set_tag("caller", caller);
        }
    }

    fn finish(&self, (): (), rpc: &RpcInfo) {
        let _ = self.0.send(rpc.clone());
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (sender, mut finished) = unbounded_channel();

    let (incoming, uri) = listen().await?;
    let server = Server::builder()
        .layer(TracerLayer::new(Records(sender.clone())))
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    tokio::spawn(server);

    // The interceptor does not see the channel's target, so the layer is configured with it.
    let target = uri.replace("http://", "dns:///");
    let channel = Channel::new(
        target.as_str(),
        LocalChannelCredentials::new_arc(),
        ChannelOptions::default(),
    );
    let layer = TracerLayer::new(Records(sender)).target(target.parse::<Target>()?);
    let channel = channel.with_interceptor(Traced::new(layer));

    println!("Each RPC as its two sides saw it. Sent, received: messages/bytes.\n");

    call(&channel, "UnaryEcho", say("hello"), usize::MAX).await;
    let [client, server] = both_sides(&mut finished).await?;
    assert_eq!(client.stats().status(), Some(Status::OK));
    assert!(client.timeout().is_some_and(|left| left <= TIMEOUT));
    assert_eq!(server.timeout(), None, "`grpc` sends deadlines now");
    let callee = client.callee().address();
    assert_eq!(callee.map(|address| address.to_string()), Some(target));

    let request = say("again").times(3);
    call(&channel, "ServerStreamingEcho", request, usize::MAX).await;
    let [client, _] = both_sides(&mut finished).await?;
    assert_eq!(client.stats().received().messages(), Some(3));

    // An error.
    let request = say("unknown").failing(Code::NotFound);
    call(&channel, "UnaryEcho", request, usize::MAX).await;
    let [client, _] = both_sides(&mut finished).await?;
    let not_found = tower_tracer::Code::NotFound.into();
    assert_eq!(client.stats().status(), Some(not_found));

    // A stream of a thousand messages, left after the second.
    let request = say("tick").times(1000).after(Duration::from_millis(5));
    call(&channel, "ServerStreamingEcho", request, 2).await;
    let [client, server] = records(&mut finished).await?;
    for rpc in [&client, &server] {
        assert_eq!(rpc.stats().ending(), Some(Ending::Cancelled));
    }
    assert_eq!(client.stats().received().messages(), Some(2));
    Ok(())
}

/// What the caller allows a call. This version of `grpc` neither sends nor applies it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Makes a call, and drops it after so many messages.
async fn call(channel: &impl Invoke, method: &str, request: EchoRequest, messages: usize) {
    let headers = RequestHeaders::new().with_method_name(format!("/echo.Echo/{method}"));
    let mut options = CallOptions::new();
    options.set_deadline(Instant::now() + TIMEOUT);
    let (mut send, mut receive) = channel.invoke(headers, options).await;
    let last = SendOptions::new().with_final_msg(true);
    let _ = send.send(&Prost(request), last).await;
    let mut response = Prost(EchoResponse::default());
    let mut received = 0;
    while received < messages {
        match receive.recv(&mut response).await {
            ResponseStreamItem::Headers(_) => {}
            ResponseStreamItem::Message => received += 1,
            ResponseStreamItem::Trailers(_) | ResponseStreamItem::StreamClosed => break,
        }
    }
}

/// A message of prost, as `grpc` takes it.
struct Prost<M>(M);

impl<M: Message> SendMessage for Prost<M> {
    fn encode(&self) -> Result<Box<dyn Buf + Send + Sync>, String> {
        Ok(Box::new(Bytes::from(self.0.encode_to_vec())))
    }
}

impl<M: Message + Default> RecvMessage for Prost<M> {
    fn decode(&mut self, data: &mut dyn Buf) -> Result<(), String> {
        self.0 = M::decode(data).map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// The records of an RPC, the client's first, after a check that they agree.
async fn both_sides(
    finished: &mut UnboundedReceiver<RpcInfo>,
) -> Result<[RpcInfo; 2], Box<dyn Error>> {
    let [client, server] = records(finished).await?;
    assert_eq!(client.path(), server.path());
    assert_eq!(client.protocol(), server.protocol());
    assert_eq!(server.tag("caller").as_deref(), Some("example"));
    let [ours, theirs] = [&client, &server].map(|rpc| rpc.stats());
    assert_eq!(ours.status(), theirs.status());
    for (sent, received) in [
        (ours.sent(), theirs.received()),
        (theirs.sent(), ours.received()),
    ] {
        assert_eq!(sent.messages(), received.messages());
        assert_eq!(sent.message_bytes(), received.message_bytes());
    }
    Ok([client, server])
}

/// Waits until an RPC is over on both sides, and prints the client's line above the server's.
async fn records(
    finished: &mut UnboundedReceiver<RpcInfo>,
) -> Result<[RpcInfo; 2], Box<dyn Error>> {
    let mut sides = Vec::new();
    while sides.len() < 2 {
        let next = timeout(Duration::from_secs(10), finished.recv()).await?;
        sides.extend(next);
    }
    sides.sort_by_key(|rpc| rpc.role().as_str());
    for rpc in &sides {
        println!("{rpc}");
    }
    Ok(sides.try_into().expect("there are two"))
}
