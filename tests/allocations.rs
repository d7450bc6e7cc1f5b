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

/// What an open connection holds.
#[cfg(feature = "connection")]
mod connections {
    use std::{future::pending, net::SocketAddr};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Join, Sink};
    use tonic::transport::server::TcpConnectInfo;
    use tower_tracer::connection::{Acceptor, ConnectionInfo, ConnectionIo, Connector};

    use super::*;

    const CONNECTIONS: u16 = 1000;
    /// RPCs on each connection, all at once, and how often they are made.
    const RPCS: u32 = 8;
    const ROUNDS: u32 = 3;

    type Io = Join<&'static [u8], Sink>;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

    /// Begins all streams of one side at a time, ends them with a HEADERS frame each, and resets the first.
    fn frames(from_client: bool) -> &'static [u8] {
        let mut frames = [if from_client { PREFACE } else { b"" }, SETTINGS].concat();
        for round in 0..ROUNDS {
            for flags in [4, 5] {
                for stream in 0..RPCS {
                    let stream = (round * RPCS + stream) * 2 + 1;
                    frames.extend([0, 0, 1, 1, flags]);
                    frames.extend(stream.to_be_bytes());
                    frames.push(0);
                }
            }
        }
        frames.extend(b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08");
        frames.leak()
    }

    /// Frames pass in both directions.
    fn pass<IO>(io: &mut ConnectionIo<IO>, read: usize, written: &[u8])
    where
        ConnectionIo<IO>: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let is_client = io.connection().role() == tower_tracer::Role::Client;
        let mut buffer = vec![0; read];
        // The client's frames are first.
        let heap = measure(|| {
            for writes in [is_client, !is_client] {
                match writes {
                    true => io.write_all(written).now_or_never().unwrap().unwrap(),
                    false => {
                        let read = io.read_exact(&mut buffer).now_or_never();
                        read.unwrap().unwrap();
                    }
                }
            }
        });
        assert_eq!(heap.count_total, 0, "bytes pass without an allocation");
        #[cfg(feature = "h2-frames")]
        assert_eq!(
            io.connection().h2().unwrap().streams_opened(),
            u64::from(ROUNDS * RPCS)
        );
    }

    /// RPCs that are found by the peer's address, or by what the response has.
    fn rpcs(connection: &ConnectionInfo, peer: Option<SocketAddr>) {
        let of_response = connection.clone();
        for _ in 0..ROUNDS {
            let running = (0..RPCS).map(|_| {
                let mut request = Request::post("/echo.Echo/UnaryEcho")
                    .header("content-type", "application/grpc")
                    .body(Body::empty())
                    .unwrap();
                let of_response = of_response.clone();
                let answer = move |_: Request<Body>| {
                    let of_response = of_response.clone();
                    async move {
                        if peer.is_some() {
                            pending::<()>().await;
                        }
                        let body = tokio_stream::pending::<Result<_, tonic::Status>>();
                        let mut response = Response::new(Body::new(StreamBody::new(body)));
                        response.extensions_mut().insert(of_response);
                        Ok::<_, Infallible>(response)
                    }
                };
                let layer = TracerLayer::new(());
                let layer = match peer {
                    Some(_) => layer.server(),
                    None => layer.client(),
                };
                request.extensions_mut().insert(TcpConnectInfo {
                    local_addr: None,
                    remote_addr: peer,
                });
                let mut call = Box::pin(layer.layer(service_fn(answer)).call(request));
                let response = call.as_mut().now_or_never();
                (call, response)
            });
            let running: Vec<_> = running.collect();
            assert_eq!(connection.rpcs_running(), RPCS as usize);
            drop(running);
        }
        assert_eq!(connection.rpcs_running(), 0);
        assert_eq!(connection.rpcs_started(), u64::from(ROUNDS * RPCS));
    }

    fn check<T>(what: &str, inside: usize, open: impl Fn(u16) -> T) {
        drop(open(CONNECTIONS));
        let mut held = Vec::with_capacity(CONNECTIONS.into());
        let heap = measure(|| held.extend((0..CONNECTIONS).map(open)));
        let outside = size_of::<T>() - inside;
        let bytes = heap.bytes_current as usize / usize::from(CONNECTIONS) + outside;
        println!("an open connection of a {what} holds {bytes} bytes, {outside} of them in its IO");
        assert!(bytes <= 1024, "{bytes} bytes");
    }

    #[test]
    fn an_open_connection_holds_at_most_a_kibibyte() {
        let (client, server) = (frames(true), frames(false));
        let acceptor = Acceptor::new(());
        check("server", size_of::<Io>(), |n| {
            let peer = SocketAddr::from(([10, 7, 7, 7], 10_000 + n));
            let io = tokio::io::join(client, tokio::io::sink());
            let mut io = acceptor.accept_between(io, None, Some(peer));
            io.set_ready();
            pass(&mut io, client.len(), server);
            rpcs(&io.connection().clone(), Some(peer));
            io
        });
        let connector = service_fn(|_: http::Uri| {
            let io = tokio::io::join(server, tokio::io::sink());
            std::future::ready(Ok::<_, Infallible>(hyper_util::rt::TokioIo::new(io)))
        });
        let connector = Connector::new(connector, ());
        check("client", size_of::<Io>(), |_| {
            let uri = http::Uri::from_static("http://greeter.default.svc.cluster.local:50051");
            let io = connector.clone().call(uri).now_or_never().unwrap();
            let mut io = io.unwrap();
            pass(io.inner_mut(), server.len(), client);
            rpcs(&io.inner().connection().clone(), None);
            io
        });
    }
}
