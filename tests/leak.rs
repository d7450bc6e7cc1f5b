//! Nothing is left over: as many finishes as starts, and no memory, whatever way RPCs end.

#[path = "it/support/scripted.rs"]
mod scripted;

use std::{
    future::Future as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt as _;
use scripted::{Course, Handler, Scripted, Step, data, drive, quiet, run, trailers};
use tower::{BoxError, Layer as _, Service, ServiceBuilder, service_fn};
use tower_tracer::{
    Ending, Event, Level, RequestParts, RpcInfo, Tracer, TracerLayer,
    tracer::{Scope, StreamEvent, StreamEventKind},
};

/// Counts starts and finishes, and uses all that a tracer can use.
#[derive(Clone, Default)]
struct Count(Arc<Counted>);

#[derive(Default)]
struct Counted {
    started: AtomicU64,
    finished: AtomicU64,
    messages: AtomicU64,
    resets: AtomicU64,
    /// The latest record; the one before it goes.
    latest: Mutex<Option<RpcInfo>>,
}

impl Count {
    fn started(&self) -> u64 {
        self.0.started.load(Relaxed)
    }

    fn finished(&self) -> u64 {
        self.0.finished.load(Relaxed)
    }
}

impl Tracer for Count {
    type State = Vec<u64>;

    fn start(&self, rpc: &RpcInfo, _: &mut RequestParts<'_>) -> Vec<u64> {
        let number = self.0.started.fetch_add(1, Relaxed);
        rpc.set_tag("number", number.to_string());
        rpc.record(Event::new("begun", Level::Base));
        vec![number]
    }

    fn finish(&self, _: Vec<u64>, rpc: &RpcInfo) {
        self.0.finished.fetch_add(1, Relaxed);
        if rpc.stats().ending() == Some(Ending::Reset) {
            self.0.resets.fetch_add(1, Relaxed);
        }
        let mut latest = self.0.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = Some(rpc.clone());
    }

    fn level(&self) -> Level {
        Level::Detailed
    }

    fn wants_events(&self) -> bool {
        true
    }

    fn on_event(&self, state: &mut Vec<u64>, _: &RpcInfo, event: &StreamEvent<'_>) {
        if let StreamEventKind::RequestMessage(message)
        | StreamEventKind::ResponseMessage(message) = event.kind
        {
            state.push(message.size);
            self.0.messages.fetch_add(1, Relaxed);
        }
    }

    fn scope(&self, _: &Vec<u64>, _: &RpcInfo) -> Option<Arc<dyn Scope>> {
        Some(Arc::new(Empty))
    }
}

struct Empty;

impl Scope for Empty {
    fn run(&self, f: &mut dyn FnMut()) {
        f();
    }
}

/// The numbers of splitmix64, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }

    /// Every third RPC does not come to its own end.
    fn course(&mut self) -> Course {
        const ENDS: [Course; 3] = [Course::OK, Course::HeadersOnly(5), Course::BodyEnd];
        const BREAKS: [Course; 8] = [
            Course::ServiceError(Some(tonic::Code::Aborted)),
            Course::BodyError(Some(tonic::Code::DataLoss)),
            Course::DropUnpolled,
            Course::DropPending,
            Course::DropBody,
            Course::PanicInCall,
            Course::PanicInFuture,
            Course::PanicInBody,
        ];
        match self.below(3) {
            0 => BREAKS[self.below(BREAKS.len())],
            _ => ENDS[self.below(ENDS.len())],
        }
    }
}

/// A stream that its peer has reset, as the client of a real connection sees it.
fn reset() -> Arc<h2::Error> {
    let reset = async {
        let (ours, theirs) = tokio::io::duplex(4096);
        let server = async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_reset(h2::Reason::CANCEL);
            std::future::poll_fn(|cx| connection.poll_closed(cx)).await
        };
        let client = async move {
            let (mut send, connection) = h2::client::handshake(ours).await.unwrap();
            let request = Request::post("http://peer/a.B/C").body(()).unwrap();
            let (response, _) = send.send_request(request, true).unwrap();
            tokio::select! {
                response = response => response.unwrap_err(),
                _ = connection => unreachable!("the answer comes first"),
            }
        };
        tokio::select! {
            error = client => error,
            _ = server => unreachable!("the client leaves first"),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    Arc::new(runtime.unwrap().block_on(reset))
}

/// What a call does: the request's and the response's script, and how often it is polled before it is
/// dropped. Each third is cancelled, reset or panics, somewhere.
fn walk(random: &mut Random, reset: &Arc<h2::Error>) -> (Vec<Step>, Vec<Step>, usize) {
    fn script(random: &mut Random, last: Step) -> Vec<Step> {
        let mut steps = Vec::new();
        for size in 0..random.below(6) {
            steps.push(data(size as u8));
            steps.extend((random.below(2) == 0).then_some(Step::Pending));
        }
        steps.push(last);
        steps
    }
    let request = script(random, Step::Pending);
    let last = match random.below(9) {
        0 => {
            let response = script(random, trailers("0"));
            let polls = random.below(request.len() + response.len());
            return (request, response, polls);
        }
        1 => Step::Fail(Arc::clone(reset) as _),
        2 => Step::Panic,
        _ => trailers("0"),
    };
    let response = script(random, last);
    (request, response, usize::MAX)
}

/// Goes with a call until it is over, or has been polled so often.
fn go<S, B>(service: &mut S, request: Vec<Step>, mut polls: usize)
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>>,
    B: Body,
{
    let cx = &mut Context::from_waker(Waker::noop());
    let mut may_poll = || {
        let may = polls > 0;
        polls = polls.saturating_sub(1);
        may
    };
    let mut future = Box::pin(service.call(scripted::request(Scripted::new(request))));
    let response = loop {
        if !may_poll() {
            return;
        }
        if let Poll::Ready(response) = future.as_mut().poll(cx) {
            break response;
        }
    };
    let Ok(response) = response else { return };
    let mut body = Box::pin(response.into_body());
    while may_poll() {
        if let Poll::Ready(None | Some(Err(_))) = body.as_mut().poll_frame(cx) {
            return;
        }
    }
}

/// Two layers with two tracers each around one handler.
fn rpcs(count: u64, random: &mut Random, reset: &Arc<h2::Error>, tracers: &[Count; 4]) {
    let [a, b, c, d] = tracers.clone();
    let layers = ServiceBuilder::new()
        .layer(TracerLayer::new((a, b)).client())
        .layer(TracerLayer::new(vec![c, d]))
        .into_inner();
    for number in 0..count {
        if number % 2 == 0 {
            let course = random.course();
            drive(&mut layers.layer(Handler::of(course)), course);
            continue;
        }
        let (request, response, polls) = walk(random, reset);
        let handler = service_fn(move |request: Request<tonic::body::Body>| {
            let response = response.clone();
            async move {
                let _ = request.into_body().collect().await;
                Ok::<_, BoxError>(scripted::response(response))
            }
        });
        let mut service = layers.layer(handler);
        let walked = || go(&mut service, request, polls);
        drop(catch_unwind(AssertUnwindSafe(walked)));
    }
}

// Ending 28.
#[test]
fn nothing_is_left_after_100_000_rpcs_of_which_a_third_is_broken_off() {
    quiet();
    let tracers: [Count; 4] = std::array::from_fn(|_| Count::default());
    let random = &mut Random(20);
    // What is allocated once and kept, such as thread-locals, is there after these.
    let reset = &reset();
    rpcs(1_000, random, reset, &tracers);

    let memory = allocation_counter::measure(|| rpcs(99_000, random, reset, &tracers));
    for tracer in &tracers {
        assert_eq!(tracer.started(), 100_000);
        assert_eq!(tracer.finished(), 100_000);
        let resets = tracer.0.resets.load(Relaxed);
        assert!(resets > 5_000, "{resets} were reset");
        let messages = tracer.0.messages.load(Relaxed);
        assert!(
            messages > 200_000,
            "they had something to count: {messages}"
        );
    }
    assert!(
        memory.count_total > 1_000_000,
        "memory was counted: {memory:?}"
    );
    assert!(memory.count_current.abs() < 10, "{memory:?}");
    assert!(memory.bytes_current.abs() < 10_000, "{memory:?}");
    assert!(memory.bytes_max < 100_000, "nor in between: {memory:?}");
    assert!(RpcInfo::current().is_none());
}

// Also with all that a tracer can use.
#[test]
fn a_hundred_thousand_distinct_paths_keep_no_memory() {
    let tracer = Count::default();
    let mut service =
        TracerLayer::new(tracer.clone()).layer(tower::service_fn(|request: Request<Scripted>| {
            std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(
                request.into_body(),
            )))
        }));
    let mut call = |number: u32| {
        let request = Request::post(format!("/pkg.Service{number}/Method{number}"))
            .header("content-type", "application/grpc")
            .body(Scripted::default().telling())
            .unwrap();
        assert!(run(service.call(request)).is_ok());
    };
    (0..1_000).for_each(&mut call);
    let memory = allocation_counter::measure(|| (1_000..100_000).for_each(&mut call));
    assert_eq!(tracer.finished(), 100_000);
    assert!(memory.count_current.abs() < 10, "{memory:?}");
    assert!(memory.bytes_max < 100_000, "{memory:?}");
}

#[test]
fn a_record_is_dropped_with_its_last_holder_and_drops_its_parent() {
    let tracers: [Count; 4] = std::array::from_fn(|_| Count::default());
    let reset = &reset();
    rpcs(1, &mut Random(1), reset, &tracers);
    let held = allocation_counter::measure(|| {
        rpcs(1, &mut Random(1), reset, &tracers);
        for tracer in &tracers {
            tracer.0.latest.lock().unwrap().take();
        }
    });
    assert!(
        held.count_current < 0,
        "the first record went too: {held:?}"
    );
}
