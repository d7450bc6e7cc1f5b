//! A record without a holder is reused, and never shows what it held before.

use std::{
    convert::Infallible,
    future::Future as _,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::{Duration, SystemTime},
};

use allocation_counter::measure;
use http::{Request, Response};
use tonic::{body::Body, transport::server::TcpConnectInfo};
use tower::{Layer as _, Service, service_fn};
use tower_tracer::{
    Event, Level, RequestParts, RpcInfo, Tracer, TracerLayer, on_finish,
    rpc::{Endpoint, MethodPath, Severity},
    service::{RpcGuard, TracedRequest, TracedResponse},
};

static STEP: Event = Event::new("step", Level::Base);

/// What was seen of RPCs when they began and when they were over: where each one's record lay, and all
/// that it said but times.
type Seen = Arc<Mutex<Vec<(usize, String)>>>;

struct Look(Seen);

impl Look {
    fn at(&self, rpc: &RpcInfo) {
        let at = std::ptr::from_ref(rpc.stats()).addr();
        self.0.lock().unwrap().push((at, all_of(rpc)));
    }
}

impl Tracer for Look {
    type State = ();

    fn start(&self, rpc: &RpcInfo, _: &mut RequestParts<'_>) {
        self.at(rpc);
    }

    fn finish(&self, (): (), rpc: &RpcInfo) {
        self.at(rpc);
    }
}

fn look(seen: &Seen) -> Look {
    Look(Arc::clone(seen))
}

fn all_of(rpc: &RpcInfo) -> String {
    let stats = rpc.stats();
    let names: Vec<_> = stats.events().iter().map(|e| e.event.name()).collect();
    let moved = [stats.request(), stats.response()].map(|traffic| {
        let timed = [traffic.first_message_at(), traffic.last_message_at()].map(|at| at.is_some());
        let counted = (traffic.messages(), traffic.compressed_messages());
        let bytes = (traffic.message_bytes(), traffic.body_bytes());
        let ended = (traffic.is_complete(), traffic.truncated());
        format!(
            "{counted:?} {bytes:?} {ended:?} {:?} {timed:?}",
            traffic.last_message_bytes()
        )
    });
    let called = (rpc.path(), rpc.full_method(), rpc.http_method());
    let ends = [rpc.caller(), rpc.callee()]
        .map(|end| format!("{:?} {:?} {:?}", end.name(), end.address(), end.socket()));
    let is_over = stats.duration().is_some();
    let time = (rpc.timeout(), rpc.deadline().is_some(), rpc.attempt());
    let above = rpc.parent().map(RpcInfo::path);
    let added = (rpc.tags(), names, stats.events_left_out(), stats.attempts());
    let status = (stats.status(), stats.wire_status(), stats.raw_status());
    let ending = (
        stats.ending(),
        stats.http_status(),
        stats.error(),
        stats.panic(),
    );
    let rest = (rpc.role(), rpc.protocol(), rpc.level());
    format!(
        "{called:?}\n{ends:?}\n{time:?}\n{above:?}\n{added:?}\n{status:?}\n{ending:?}\n{rest:?} {is_over}\n{moved:?}"
    )
}

/// Makes one RPC, whatever becomes of it.
type Scene = fn(&Seen);

/// Polled once, then dropped.
fn call<S: Service<Request<Body>>>(mut service: S, request: Request<Body>) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let future = service.call(request);
        let _ = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
    }));
}

/// A call of gRPC without a message.
fn call_grpc<S: Service<Request<Body>>>(service: S, path: &str) {
    call(service, grpc(path).body(Body::empty()).unwrap());
}

fn grpc(path: &str) -> http::request::Builder {
    Request::post(path).header("content-type", "application/grpc")
}

fn answer(status: &'static str) -> Result<Response<Body>, Infallible> {
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response
        .header("grpc-status", status)
        .body(Body::empty())
        .unwrap())
}

fn plain(seen: &Seen) {
    let layer = TracerLayer::new(look(seen));
    let ok = service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
    call(
        layer.layer(ok),
        Request::get("/plain").body(Body::empty()).unwrap(),
    );
}

fn full(seen: &Seen) {
    let layer = TracerLayer::new(look(seen))
        .server()
        .level(Level::Detailed)
        .server_timeout(Duration::from_secs(3))
        .caller(Endpoint::new("them").tag("zone", "a"))
        .callee(Endpoint::new("us").address("us:1"));
    let handler = service_fn(async |request: Request<Body>| {
        let rpc: &RpcInfo = request.extensions().get().unwrap();
        for n in 0..70 {
            rpc.set_tag(format!("tag {n}"), "value");
            rpc.record_with(Event::new("own", Level::Base), Severity::Warn, "text");
        }
        rpc.record(STEP);
        let message = Response::builder().header("content-type", "application/grpc");
        let message = message
            .header("grpc-status", "7")
            .header("grpc-message", "no");
        Ok::<_, Infallible>(message.body(Body::empty()).unwrap())
    });
    let from = TcpConnectInfo {
        local_addr: Some(([127, 0, 0, 1], 1).into()),
        remote_addr: Some(([127, 0, 0, 1], 2).into()),
    };
    let request = grpc("/full.Service/Method")
        .header("grpc-timeout", "5S")
        .header("grpc-previous-rpc-attempts", "3")
        .extension(from)
        .body(Body::new("\0\0\0\0\x02ab".to_owned()))
        .unwrap();
    call(layer.layer(handler), request);
}

fn own_method(seen: &Seen) {
    let layer = TracerLayer::new(look(seen)).client();
    let ok = service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let request = Request::builder().method("PURGE").uri("/own");
    call(layer.layer(ok), request.body(Body::empty()).unwrap());
}

fn garbled(seen: &Seen) {
    let layer = TracerLayer::new(look(seen)).client();
    let handler = service_fn(async |_: Request<Body>| answer("none"));
    call_grpc(layer.layer(handler), "/a.B/Garbled");
}

fn failed(seen: &Seen) {
    let layer = TracerLayer::new(look(seen)).client();
    let handler = service_fn(async |_: Request<Body>| {
        Err::<Response<Body>, _>(tonic::Status::unavailable("gone"))
    });
    call_grpc(layer.layer(handler), "/a.B/Failed");
}

fn panicked(seen: &Seen) {
    let layer = TracerLayer::new(look(seen)).server();
    let handler = service_fn(
        async |_: Request<Body>| -> Result<Response<Body>, Infallible> {
            std::panic::resume_unwind(Box::new("broken"))
        },
    );
    call_grpc(layer.layer(handler), "/a.B/Panicked");
}

fn cancelled(seen: &Seen) {
    let layer = TracerLayer::new(look(seen)).server();
    let handler = service_fn(async |_: Request<Body>| {
        std::future::pending::<Result<Response<Body>, Infallible>>().await
    });
    call_grpc(layer.layer(handler), "/a.B/Cancelled");
}

/// An attempt under a call under a served RPC.
fn nested(seen: &Seen) {
    let seen_by_handler = Arc::clone(seen);
    let handler = service_fn(move |_: Request<Body>| {
        let layer = || TracerLayer::new(look(&seen_by_handler)).client();
        let ok = service_fn(async |_: Request<Body>| answer("0"));
        let service = layer().layer(layer().layer(ok));
        async move {
            call_grpc(service, "/a.B/Under");
            answer("0")
        }
    });
    let service = TracerLayer::new(look(seen)).server().layer(handler);
    call_grpc(service, "/a.B/ParentLink");
}

fn not_http(seen: &Seen) {
    let layer = TracerLayer::new(look(seen)).client();
    let mut service = layer.layer(service_fn(async |_: Watched| Ok::<_, Infallible>(Answered)));
    let _ = pin!(service.call(Watched("/a.B/NotHttp".into())))
        .poll(&mut Context::from_waker(Waker::noop()));
}

const SCENES: [Scene; 9] = [
    plain, full, own_method, garbled, failed, panicked, cancelled, nested, not_http,
];

/// Runs scenes one after the other in a thread that has no memory yet, and says what was seen of the
/// last one and whether all of that lay where an earlier record had lain.
fn alone_in_a_thread(scenes: &[Scene]) -> (Vec<String>, bool) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let seen = Seen::default();
            let mut before = Vec::new();
            for scene in scenes {
                before.append(&mut seen.lock().unwrap());
                scene(&seen);
            }
            let last = std::mem::take(&mut *seen.lock().unwrap());
            let again = last
                .iter()
                .all(|(at, _)| before.iter().any(|(a, _)| a == at));
            (last.into_iter().map(|(_, all)| all).collect(), again)
        });
        run.join().unwrap()
    })
}

#[test]
fn a_pooled_record_reads_like_a_fresh_one() {
    for last in SCENES {
        let (fresh, again) = alone_in_a_thread(&[last]);
        assert!(!fresh.is_empty() && !again);
        for first in SCENES {
            // As many records as the last one needs.
            let (used, again) = alone_in_a_thread(&[nested, first, last]);
            assert!(again, "nothing was used again");
            assert_eq!(used, fresh);
        }
    }
}

#[test]
fn a_held_record_is_not_reused() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeper = Arc::clone(&kept);
    let layer = TracerLayer::new(on_finish(move |rpc| {
        keeper.lock().unwrap().push(rpc.clone())
    }));
    for number in 0..200 {
        let handler = service_fn(move |request: Request<Body>| {
            let rpc: &RpcInfo = request.extensions().get().unwrap();
            rpc.set_tag("number", number.to_string());
            std::future::ready(answer("0"))
        });
        let request = grpc(&format!("/a.B/M{number}"))
            .body(Body::empty())
            .unwrap();
        call(layer.layer(handler), request);
    }
    let kept = kept.lock().unwrap();
    assert_eq!(kept.len(), 200);
    for (number, rpc) in kept.iter().enumerate() {
        assert_eq!(rpc.method(), Some(&*format!("M{number}")));
        assert_eq!(rpc.tag("number").as_deref(), Some(&*number.to_string()));
    }
}

#[test]
fn a_reused_record_has_no_start_of_an_earlier_rpc() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&starts);
    let layer = TracerLayer::new(on_finish(move |rpc| {
        seen.lock().unwrap().push(rpc.stats().start_time());
    }));
    let mut service = layer.layer(service_fn(async |_: Request<Body>| answer("0")));
    call(&mut service, Request::default());
    std::thread::sleep(Duration::from_millis(20));
    let between = SystemTime::now();
    std::thread::sleep(Duration::from_millis(20));
    call(&mut service, Request::default());
    let starts = starts.lock().unwrap();
    assert!(starts[0] < between && between < starts[1], "{starts:?}");
}

/// A draw belongs to one tree of RPCs.
#[test]
fn a_reused_record_has_no_draw_of_an_earlier_rpc() {
    let drawn = Arc::new(Mutex::new(Vec::new()));
    let layer = |drawn: &Arc<Mutex<Vec<f64>>>| {
        let drawn = Arc::clone(drawn);
        TracerLayer::new(().filter(move |candidate| {
            drawn.lock().unwrap().push(candidate.draw());
            true
        }))
    };
    for _ in 0..100 {
        let below = layer(&drawn).client();
        let handler = service_fn(move |_: Request<Body>| {
            let ok = service_fn(async |_: Request<Body>| answer("0"));
            let below = below.clone().layer(ok);
            async move {
                call_grpc(below, "/a.B/Under");
                answer("0")
            }
        });
        let request = grpc("/a.B/ParentLink").body(Body::empty()).unwrap();
        call(layer(&drawn).server().layer(handler), request);
    }
    let drawn = drawn.lock().unwrap();
    assert!(drawn.chunks(2).all(|tree| tree[0] == tree[1]), "{drawn:?}");
    let mut roots: Vec<_> = drawn.iter().step_by(2).map(|draw| draw.to_bits()).collect();
    roots.sort_unstable();
    roots.dedup();
    assert_eq!(roots.len(), 100);
}

/// A request that is not HTTP, with a path that can be watched.
struct Watched(Arc<str>);

impl TracedRequest for Watched {
    fn path(&self) -> &str {
        &self.0
    }

    fn method_path(&self) -> MethodPath {
        MethodPath::from(Arc::clone(&self.0))
    }
}

struct Answered;

impl TracedResponse for Answered {
    type Traced<T: Tracer> = Self;

    fn attach<T: Tracer>(self, open: RpcGuard<T>) -> Self {
        open.finish(None);
        self
    }
}

#[tokio::test]
async fn a_pooled_record_holds_nothing() {
    let (above, under): (Arc<str>, Arc<str>) = ("/a.B/ParentLink".into(), "/a.B/Under".into());
    let path = Arc::clone(&under);
    let handler = service_fn(move |_: Watched| {
        let ok = service_fn(async |_: Watched| Ok::<_, Infallible>(Answered));
        let below = TracerLayer::new(()).client().layer(ok);
        below.oneshot(Watched(Arc::clone(&path)))
    });
    let address: Arc<str> = "here:1".into();
    let here = Endpoint::new("here").address(Arc::clone(&address));
    let service = TracerLayer::new(()).server().callee(here).layer(handler);
    service.oneshot(Watched(Arc::clone(&above))).await.unwrap();
    assert_eq!(
        Arc::strong_count(&above),
        1,
        "the record of the call's parent"
    );
    assert_eq!(Arc::strong_count(&under), 1);
    assert_eq!(Arc::strong_count(&address), 1, "the layer's, which is gone");
}

#[test]
fn a_threads_pool_does_not_grow_with_the_concurrent_rpcs() {
    let mut service = TracerLayer::new(()).layer(service_fn(async |_: Request<Body>| {
        std::future::pending::<Result<Response<Body>, Infallible>>().await
    }));
    let left = measure(|| {
        for _ in 0..3 {
            let at_a_time: Vec<_> = (0..5_000)
                .map(|_| service.call(Request::default()))
                .collect();
            drop(at_a_time);
        }
    });
    // 64 records, and the list of them.
    assert!(left.count_current <= 65, "{left:?}");
    assert!(left.bytes_current < 64 * 600, "{left:?}");
}
