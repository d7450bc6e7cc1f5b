//! The live page: a front server that calls a store, and clients that call both in every way: quickly,
//! slowly, failing, hanging, streaming.
//!
//! ```sh
//! cargo run -p examples --example live --features live
//! ```
//!
//! Open the address that it prints, or ask for it with `curl`. An argument is another port; 0 is a free one.

mod echo;

use std::{error::Error, time::Duration};

use echo::{EchoClient, EchoRequest, EchoResponse, EchoServer, EchoService, Unary, listen, say};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tokio::time::{interval, sleep, timeout};
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};
use tower::{Layer as _, ServiceBuilder};
use tower_tracer::{
    Level, RpcInfo, Tracer, TracerLayer,
    connection::{Connector, Incoming},
    live::{Live, LiveTracer},
    otel::OtelTracer,
    rpc::Endpoint as Peer,
    service::{RpcGuard, StageLayer, TracedRequest, TracedResponse, TracerService},
};

/// OpenTelemetry sends the ids of traces, so that the page shows a client's call and the RPC that serves it as one.
/// It comes first: what it sends is there for the next tracer to see.
type Tracers = (OtelTracer, LiveTracer);

type Client = EchoClient<TracerService<Channel, Tracers>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args()
        .nth(1)
        .map_or(Ok(6680), |port| port.parse())?;
    let live = Live::new()
        .name("shop")
        .trace_link("http://localhost:16686/trace/{trace_id}");

    // Level Detailed records the time of each event, for the picture of one RPC.
    let spans = SdkTracerProvider::builder().build();
    let layer = || {
        let otel = OtelTracer::new()
            .tracer_provider(&spans)
            .propagator(TraceContextPropagator::new());
        TracerLayer::new((otel, live.tracer())).level(Level::Detailed)
    };

    // The store, and the front that calls it.
    let (incoming, store) = listen().await?;
    let service = Server::builder()
        .layer(layer())
        .add_service(EchoServer::new(EchoService));
    tokio::spawn(service.serve_with_incoming(Incoming::new(incoming, live.tracer())));
    let store = connect(&store, layer(), live.tracer(), "store").await?;
    let (incoming, front) = listen().await?;
    let handler = EchoServer::new(Unary({
        let store = store.clone();
        move |request| ask_store(store.clone(), request)
    }));
    let handler = StageLayer::server_handle().layer(handler);
    tokio::spawn(
        Server::builder()
            .layer(layer())
            .add_service(handler)
            .serve_with_incoming(Incoming::new(incoming, live.tracer())),
    );
    let front = connect(&front, layer(), live.tracer(), "front").await?;

    tokio::spawn(calls(front));
    tokio::spawn(streams(store.clone()));
    tokio::spawn(waves(store));
    tokio::spawn(jobs(layer()));

    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}/", listener.local_addr()?);
    live.serve_on(listener).await?;
    Ok(())
}

async fn connect(
    uri: &str,
    layer: TracerLayer<Tracers>,
    connections: LiveTracer,
    name: &'static str,
) -> Result<Client, Box<dyn Error>> {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    let channel = Endpoint::from_shared(uri.to_owned())?
        .connect_with_connector(Connector::new(http, connections))
        .await?;
    let layer = layer.client().callee(Peer::new(name));
    Ok(EchoClient::new(
        ServiceBuilder::new().layer(layer).service(channel),
    ))
}

/// What the front does: it looks something up, and asks again if the store is not available.
async fn ask_store(
    mut store: Client,
    request: Request<EchoRequest>,
) -> Result<Response<EchoResponse>, Status> {
    if let Some(rpc) = request.extensions().get::<RpcInfo>() {
        rpc.set_tag(
            "tenant",
            if request.get_ref().delay_ms > 0 {
                "blue"
            } else {
                "green"
            },
        );
    }
    let deadline = request.metadata().get("grpc-timeout").cloned();
    let request = request.into_inner();
    store.unary_echo(say("price")).await?;
    let ask = |request: EchoRequest| {
        let mut request = Request::new(request);
        if let Some(deadline) = &deadline {
            request
                .metadata_mut()
                .insert("grpc-timeout", deadline.clone());
        }
        request
    };
    match store.unary_echo(ask(request.clone())).await {
        Err(status) if status.code() == Code::Unavailable => {
            sleep(Duration::from_millis(20)).await;
            store.unary_echo(ask(request.failing(Code::Ok))).await
        }
        answer => answer,
    }
}

/// Unary calls of the front: quick, slow, failing, and some that run out of time.
async fn calls(front: Client) {
    let mut tick = interval(Duration::from_millis(20));
    for number in 0_u64.. {
        tick.tick().await;
        let request = match number % 20 {
            3 => say("slow").after(Duration::from_millis(50 + number * 37 % 400)),
            7 => say("no such item").failing(Code::NotFound),
            11 => say("the store restarts").failing(Code::Unavailable),
            13 if number % 60 == 13 => say("late").after(Duration::from_secs(5)),
            _ => say("item"),
        };
        let mut front = front.clone();
        tokio::spawn(async move {
            let late = request.message == "late";
            let mut request = Request::new(request);
            if late {
                request.set_timeout(Duration::from_millis(1_500));
            }
            let _ = front.unary_echo(request).await;
        });
    }
}

/// Streams that are open for a long time, and some whose caller goes away.
async fn streams(store: Client) {
    for _ in 0..3 {
        let mut store = store.clone();
        tokio::spawn(async move {
            let watch = say("price changed")
                .times(u32::MAX)
                .after(Duration::from_millis(400));
            if let Ok(messages) = store.server_streaming_echo(watch).await {
                let mut messages = messages.into_inner();
                while let Ok(Some(_)) = messages.message().await {}
            }
        });
    }
    loop {
        let mut store = store.clone();
        let chat =
            tokio_stream::iter((0..5).map(|_| say("hello").after(Duration::from_millis(80))));
        let chat = async {
            let mut answers = store.bidirectional_streaming_echo(chat).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<_, Status>(())
        };
        // Every second caller goes before the end.
        let _ = timeout(Duration::from_millis(250), chat).await;
        sleep(Duration::from_millis(150)).await;
    }
}

/// Calls that hang: twelve more every six seconds, which are given up three seconds later.
async fn waves(store: Client) {
    loop {
        sleep(Duration::from_secs(3)).await;
        let hanging = (0..12).map(|_| {
            let mut store = store.clone();
            tokio::spawn(async move {
                let request = say("lock").after(Duration::from_secs(600));
                let _ = timeout(Duration::from_secs(3), store.unary_echo(request)).await;
            })
        });
        let hanging: Vec<_> = hanging.collect();
        for call in hanging {
            let _ = call.await;
        }
    }
}

/// A request that is not HTTP, with a name that a page must not take for markup.
struct Job(Option<RpcInfo>);

impl TracedRequest for Job {
    fn path(&self) -> &str {
        "/jobs/<script>document.title=1</script>"
    }

    fn set_rpc(&mut self, rpc: RpcInfo) -> Option<RpcInfo> {
        self.0.replace(rpc)
    }

    fn rpc(&self) -> Option<&RpcInfo> {
        self.0.as_ref()
    }
}

/// It is done.
struct JobDone;

impl TracedResponse for JobDone {
    type Traced<T: Tracer> = Self;

    fn attach<T: Tracer>(self, rpc: RpcGuard<T>) -> Self {
        rpc.finish(tower_tracer::Status::OK);
        self
    }
}

/// A service that is neither HTTP nor quick.
async fn jobs(layer: TracerLayer<Tracers>) {
    let work = ServiceBuilder::new()
        .layer(layer.server())
        .service_fn(async |job: Job| {
            if let Some(rpc) = &job.0 {
                rpc.set_tag("note", "<script>document.title=2</script>");
            }
            sleep(Duration::from_secs(4)).await;
            Ok::<_, std::io::Error>(JobDone)
        });
    loop {
        let _ = work.clone().oneshot(Job(None)).await;
    }
}
