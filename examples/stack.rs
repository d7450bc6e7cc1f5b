//! Layers on layers, and one RPC inside of another.
//!
//! Two servers in one process, `front` and `back`; the handler of `front` calls `back`. Both sides
//! of `front` have two tracer layers, the outer one with two tracers. It shows in which order
//! tracers start and finish, what [`RpcInfo::parent`] is, and the three places where code finds its
//! record: the request's extensions, [`RpcInfo::current`], the response's extensions.
//!
//! ```sh
//! cargo run --example stack
//! ```

mod echo;

use std::error::Error;

use echo::{EchoClient, EchoRequest, EchoResponse, EchoServer, EchoService, Unary, listen, say};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server},
};
use tower::ServiceBuilder;
use tower_tracer::{
    RequestParts, RpcInfo, Tracer, TracerLayer, rpc::Endpoint, service::TracerService,
};

/// Prints its start and its finish, and the ancestors of this RPC.
struct Say {
    layer: &'static str,
    name: &'static str,
}

impl Tracer for Say {
    type State = ();

    fn start(&self, rpc: &RpcInfo, _: &mut RequestParts<'_>) {
        // The tracers of one layer share one record; its tag is what `family` below calls it by.
        rpc.set_tag("layer", self.layer);
        println!("start   {:<2} of {}", self.name, family(rpc));
    }

    fn finish(&self, (): (), rpc: &RpcInfo) {
        println!("finish  {:<2} of {}", self.name, family(rpc));
    }
}

/// Two tracers in one layer.
fn outer() -> TracerLayer<(Say, Say)> {
    let tracer = |name| Say {
        layer: "outer",
        name,
    };
    TracerLayer::new((tracer("a"), tracer("b"))).callee(Endpoint::new("front"))
}

/// One tracer in another layer.
fn inner() -> TracerLayer<Say> {
    let tracer = Say {
        layer: "inner",
        name: "c",
    };
    TracerLayer::new(tracer).callee(Endpoint::new("front"))
}

/// And one more, for `back`.
fn only() -> TracerLayer<Say> {
    let tracer = Say {
        layer: "only",
        name: "d",
    };
    TracerLayer::new(tracer).callee(Endpoint::new("back"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (incoming, uri) = listen().await?;
    let server = Server::builder()
        .layer(only())
        .add_service(EchoServer::new(EchoService));
    tokio::spawn(server.serve_with_incoming(incoming));
    let channel = Channel::from_shared(uri)?.connect().await?;
    let back = EchoClient::new(ServiceBuilder::new().layer(only()).service(channel));

    let (incoming, uri) = listen().await?;
    let server = Server::builder()
        .layer(outer())
        .layer(inner())
        .add_service(EchoServer::new(Unary(move |request| {
            handle(request, back.clone())
        })));
    tokio::spawn(server.serve_with_incoming(incoming));
    let channel = Channel::from_shared(uri)?.connect().await?;
    let mut front = EchoClient::new(
        ServiceBuilder::new()
            .layer(outer().insert_into_response())
            .layer(inner())
            .service(channel),
    );

    let response = front.unary_echo(say("hello")).await?;

    // The third place, for the caller: the layer is configured to put the record there.
    let rpc = response.extensions().get().map(family);
    println!("caller  from the response:   {}", rpc.unwrap_or_default());
    Ok(())
}

/// The handler of `front`: finds its record, then calls `back`.
async fn handle(
    request: Request<EchoRequest>,
    mut back: EchoClient<TracerService<Channel, Say>>,
) -> Result<Response<EchoResponse>, Status> {
    // The first place: a handle that can be taken along, to a spawned task for example.
    let rpc = request.extensions().get().map(family);
    println!("handler from the request:    {}", rpc.unwrap_or_default());

    // The second, for code that sees no request: what is current while the RPC is polled.
    let rpc = RpcInfo::current().as_ref().map(family);
    println!("handler current:             {}", rpc.unwrap_or_default());

    // The current record is also the parent of the RPCs that are started here.
    let response = back.unary_echo(request.into_inner()).await?;
    Ok(Response::new(response.into_inner()))
}

/// The name of a record, followed by those of its parents.
///
/// Records are linked inside a process: what links the server's to its client's, across the wire,
/// is a trace context in the headers, and a matter of the tracer.
fn family(rpc: &RpcInfo) -> String {
    let callee = rpc.callee().name().unwrap_or("?");
    let layer = rpc.tag("layer").unwrap_or_default();
    let name = format!("{callee} {} {layer}", rpc.role());
    match rpc.parent() {
        None => name,
        Some(parent) => format!("{name} < {}", family(parent)),
    }
}
