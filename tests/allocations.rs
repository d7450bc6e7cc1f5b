//! How many heap allocations the layer makes per RPC, above those made without it.

#![allow(missing_docs, unreachable_pub)]

#[path = "../benches/call/mod.rs"]
mod call;
#[path = "../benches/hand_written/mod.rs"]
#[allow(dead_code, unreachable_pub, missing_debug_implementations)]
mod hand_written;

use std::{convert::Infallible, sync::Mutex};

use allocation_counter::measure;
use call::Side;
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body_util::StreamBody;
use tonic::body::Body;
use tower::{Layer, Service, layer::util::Identity, service_fn};
use tower_tracer::{
    Level, RequestParts, RpcInfo, Tracer, TracerLayer, on_finish, testing::RecordingTracer,
};

/// Allocations of one call of `messages` messages each way, once all is warm.
fn allocations<L, S, B>(layer: &L, side: &Side, messages: usize) -> u64
where
    L: Layer<call::Handler, Service = S>,
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>>,
    B: http_body::Body,
{
    let mut service = layer.layer(call::handler(messages));
    call::call(&mut service, side, messages);
    measure(|| call::call(&mut service, side, messages)).count_total
}

fn above_none<L, S, B>(layer: &L, messages: usize) -> u64
where
    L: Layer<call::Handler, Service = S>,
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>>,
    B: http_body::Body,
{
    above_none_on(layer, &Side::Client, messages)
}

fn above_none_on<L, S, B>(layer: &L, side: &Side, messages: usize) -> u64
where
    L: Layer<call::Handler, Service = S>,
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>>,
    B: http_body::Body,
{
    allocations(layer, side, messages) - allocations(&Identity::new(), side, messages)
}

/// Wants to hear of every message, and keeps nothing.
struct Listener;

impl Tracer for Listener {
    type State = u64;

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> u64 {
        0
    }

    fn finish(&self, _: u64, _: &RpcInfo) {}

    fn wants_events(&self) -> bool {
        true
    }

    fn on_event(&self, seen: &mut u64, _: &RpcInfo, _: &tower_tracer::tracer::StreamEvent<'_>) {
        *seen += 1;
    }
}

#[test]
fn an_rpc_allocates_an_extension_and_a_request_body_and_less_than_by_hand() {
    let by_hand = above_none(&hand_written::HandWrittenLayer(Some(|_, _, _, _, _| {})), 1);
    assert_eq!(by_hand, 3, "record, extension, request body");
    let server = Side::server().expect("a connection");
    // The record's memory is that of the call that warmed all up.
    for (layer, side) in [
        (TracerLayer::new(()).client(), Side::Client),
        (TracerLayer::new(()).server(), server),
    ] {
        assert_eq!(above_none_on(&layer, &side, 1), 2, "{layer:?}");
    }
    // However many tracers share them.
    let layer = TracerLayer::new(((), (), ()));
    assert_eq!(above_none(&layer, 1), 2);
}

#[test]
fn a_record_that_is_kept_costs_one_more_allocation() {
    let kept = Mutex::new(Vec::with_capacity(10));
    let keep = on_finish(move |rpc| kept.lock().unwrap().push(rpc.clone()));
    assert_eq!(above_none(&TracerLayer::new(keep), 1), 3);
}

#[test]
fn a_message_allocates_nothing_at_any_level() {
    for level in [Level::Base, Level::Detailed] {
        let layer = TracerLayer::new(()).level(level);
        assert_eq!(above_none(&layer, 1), above_none(&layer, 1_000));
    }
    let layer = TracerLayer::new(Listener);
    assert_eq!(above_none(&layer, 1), 4, "one more, for the state to share");
    assert_eq!(above_none(&layer, 1_000), 4);
}

#[test]
fn an_untraced_request_allocates_nothing() {
    assert_eq!(
        above_none(&TracerLayer::new(()).level(Level::Disabled), 1),
        0
    );
    assert_eq!(above_none(&TracerLayer::new(None::<RecordingTracer>), 1), 0);
    assert_eq!(
        above_none(
            &TracerLayer::new((None::<RecordingTracer>, None::<Listener>)),
            1
        ),
        0
    );
    assert_eq!(
        above_none(&TracerLayer::new(Vec::<RecordingTracer>::new()), 1),
        0
    );
}

type Echoed = Result<Response<Body>, Infallible>;

fn echo(request: Request<Body>) -> std::future::Ready<Echoed> {
    let response = Response::builder().header("content-type", "application/grpc");
    std::future::ready(Ok(response.body(request.into_body()).unwrap()))
}

type Echo = tower::util::ServiceFn<fn(Request<Body>) -> std::future::Ready<Echoed>>;

/// How many bytes a stream holds whose both bodies are open, on the heap and in its response.
fn bytes_in_flight<L, B>(layer: &L) -> usize
where
    L: Layer<Echo>,
    L::Service: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
{
    const STREAMS: usize = 1000;
    let mut service = layer.layer(service_fn(echo as fn(_) -> _));
    let mut held = Vec::with_capacity(STREAMS);
    let heap = measure(|| {
        held.extend((0..STREAMS).map(|_| {
            let body = StreamBody::new(tokio_stream::pending::<Result<_, tonic::Status>>());
            let request = Request::post("/echo.Echo/UnaryEcho")
                .header("content-type", "application/grpc")
                .body(Body::new(body))
                .unwrap();
            service.call(request).now_or_never().unwrap().unwrap()
        }));
    });
    heap.bytes_current as usize / STREAMS + size_of::<Response<B>>()
}

#[test]
fn an_rpc_in_flight_holds_less_than_a_kibibyte() {
    let none = bytes_in_flight(&Identity::new());
    for level in [Level::Base, Level::Detailed] {
        let held = bytes_in_flight(&TracerLayer::new(()).level(level)) - none;
        println!("an RPC in flight holds {held} bytes at level {level:?}");
        assert!(held < 1024, "{held} bytes at level {level:?}");
    }
}
