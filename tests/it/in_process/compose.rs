//! Tracers made of tracers: order, laws, and what each combinator does.

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Ready, ready},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use crate::support::scripted::{self, Course, Handler, METHOD, Scripted, data, poll_once, run};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use proptest::prelude::*;
use tower::{Layer as _, Service, ServiceBuilder, service_fn};
use tower_tracer::{
    RequestParts, Role, RpcInfo, Tracer, TracerLayer, on_finish,
    testing::RecordingTracer,
    tracer::{BoxTracer, Candidate, Either, Scope, StreamEvent},
};

/// A gRPC request with one message.
fn request() -> Request<tonic::body::Body> {
    scripted::request(Scripted::new([data(3)]).telling())
}

// --- Order ---

type Log = Arc<Mutex<Vec<String>>>;

/// Writes its number and each hook into a log that all of a stack share.
struct Numbered(usize, Log);

impl Numbered {
    fn write(&self, hook: &str) {
        self.1.lock().unwrap().push(format!("{} {hook}", self.0));
    }
}

impl Tracer for Numbered {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {
        self.write("start");
    }

    fn finish(&self, (): (), _: &RpcInfo) {
        self.write("finish");
    }

    fn wants_events(&self) -> bool {
        true
    }

    fn on_event(&self, (): &mut (), _: &RpcInfo, _: &StreamEvent<'_>) {
        self.write("event");
    }

    fn scope(&self, (): &(), _: &RpcInfo) -> Option<Arc<dyn Scope>> {
        Some(Arc::new(Self(self.0, Arc::clone(&self.1))))
    }
}

impl Scope for Numbered {
    fn run(&self, f: &mut dyn FnMut()) {
        self.write("enter");
        f();
        self.write("leave");
    }
}

/// Runs an exchange under a stack of numbered tracers, and returns the numbers of each hook's calls.
fn numbers_of<T: Tracer>(hook: &str, stack: impl FnOnce(&Log) -> T) -> Vec<usize> {
    let log = Log::default();
    Handler::new([1], Course::OK).trace(stack(&log));
    let log = log.lock().unwrap();
    let of_hook = log.iter().filter_map(|line| line.strip_suffix(hook));
    of_hook.map(|n| n.trim().parse().unwrap()).collect()
}

fn assert_ordered<T: Tracer>(count: usize, stack: impl Fn(&Log) -> T) {
    let up: Vec<_> = (0..count).collect();
    let down: Vec<_> = (0..count).rev().collect();
    assert_eq!(numbers_of("start", &stack), up);
    assert_eq!(numbers_of("finish", &stack), down);
    for (hook, order) in [("event", &up), ("enter", &up), ("leave", &down)] {
        let numbers = numbers_of(hook, &stack);
        assert!(!numbers.is_empty());
        for moment in numbers.chunks(count) {
            assert_eq!(moment, order, "{hook}");
        }
    }
}

/// Answers at once, and reads the request itself or leaves it to the caller.
async fn read_or_hand_out(
    request: Request<tonic::body::Body>,
    log: Log,
    other: Option<Arc<Mutex<Option<tonic::body::Body>>>>,
) -> Result<Response<String>, Infallible> {
    let write = |line: &str| log.lock().unwrap().push(line.to_owned());
    match other {
        None => {
            let mut body = request.into_body();
            write("reading");
            while body.frame().await.is_some() {}
            write("read");
        }
        Some(other) => *other.lock().unwrap() = Some(request.into_body()),
    }
    Ok(Response::new(String::new()))
}

#[test]
fn a_request_body_enters_the_scope_on_a_client_and_is_in_it_already_in_a_handler() {
    let log = Log::default();
    let lines = || std::mem::take(&mut *log.lock().unwrap());
    for (outside, client) in [(false, false), (true, false), (true, true)] {
        let handed_out = Arc::default();
        let other = outside.then(|| Arc::clone(&handed_out));
        let handler = {
            let log = Arc::clone(&log);
            move |request| read_or_hand_out(request, Arc::clone(&log), other.clone())
        };
        let layer =
            TracerLayer::new((Numbered(0, Arc::clone(&log)), Numbered(1, Arc::clone(&log))));
        let layer = if client { layer.client() } else { layer };
        let mut service = layer.layer(service_fn(handler));
        let request = Request::new(tonic::body::Body::new(Full::from("some bytes")));
        let mut future = pin!(service.call(request));
        lines();
        let response = poll_once(&mut future);
        assert!(response.is_ready());
        let within: Vec<_> = lines()
            .into_iter()
            .filter(|l| !l.ends_with("event"))
            .collect();
        let around = ["0 enter", "1 enter", "1 leave", "0 leave"];
        if !outside {
            assert_eq!(
                within[..6],
                [
                    "0 enter", "1 enter", "reading", "read", "1 leave", "0 leave"
                ]
            );
            continue;
        }
        assert_eq!(within[..4], around);
        let mut body = handed_out.lock().unwrap().take().unwrap();
        assert!(run(body.frame()).unwrap().is_ok());
        let lines = lines();
        match client {
            true => assert_eq!(lines[..4], around, "a caller's code makes it"),
            false => assert!(lines.is_empty(), "the transport makes it"),
        }
    }
}

#[test]
fn tuples_of_every_length_start_in_order_and_finish_in_reverse() {
    macro_rules! tuples {
        ($(($($n:literal)+))*) => {
            $(
                let count = [$($n),+].len();
                assert_ordered(count, |log| ($(Numbered($n, Arc::clone(log)),)+));
            )*
        };
    }
    tuples! {
        (0) (0 1) (0 1 2) (0 1 2 3) (0 1 2 3 4) (0 1 2 3 4 5) (0 1 2 3 4 5 6) (0 1 2 3 4 5 6 7)
        (0 1 2 3 4 5 6 7 8) (0 1 2 3 4 5 6 7 8 9) (0 1 2 3 4 5 6 7 8 9 10)
        (0 1 2 3 4 5 6 7 8 9 10 11)
    }
}

#[test]
fn vectors_and_nested_stacks_also_keep_the_order() {
    let numbered = |n, log: &Log| Numbered(n, Arc::clone(log));
    for count in 1..5 {
        assert_ordered(count, |log| {
            (0..count).map(|n| numbered(n, log)).collect::<Vec<_>>()
        });
    }
    assert_ordered(5, |log| {
        (
            numbered(0, log),
            (Some(numbered(1, log)), Arc::new(numbered(2, log))),
            vec![numbered(3, log).boxed(), numbered(4, log).boxed()],
        )
    });
}

// --- Laws ---

/// What can be put around a tracer.
#[derive(Clone, Copy, Debug)]
enum Wrap {
    Some,
    None,
    Arc,
    Box,
    Left,
    Right,
    Vec,
    Tuple,
    Reload,
    Filter(bool),
    Sample(bool),
    FinishIf(bool),
    Slow(bool),
    Failed,
}

impl Wrap {
    fn around(self, inner: BoxTracer) -> BoxTracer {
        match self {
            Self::Some => Some(inner).boxed(),
            Self::None => None::<BoxTracer>.boxed(),
            Self::Arc => Arc::new(inner).boxed(),
            Self::Box => Box::new(inner).boxed(),
            Self::Left => Either::<_, ()>::Left(inner).boxed(),
            Self::Right => Either::<(), _>::Right(inner).boxed(),
            Self::Vec => vec![inner].boxed(),
            Self::Tuple => (inner,).boxed(),
            Self::Reload => inner.reloadable().boxed(),
            Self::Filter(wanted) => inner.filter(move |_| wanted).boxed(),
            Self::Sample(wanted) => inner.sample(f64::from(u8::from(wanted))).unwrap().boxed(),
            Self::FinishIf(wanted) => inner.finish_if(move |_| wanted).boxed(),
            Self::Slow(wanted) => {
                let threshold = if wanted {
                    Duration::ZERO
                } else {
                    Duration::MAX
                };
                inner.slower_than(threshold).boxed()
            }
            Self::Failed => inner.only_failed().boxed(),
        }
    }

    fn takes_part(self) -> bool {
        !matches!(self, Self::None | Self::Filter(false) | Self::Sample(false))
    }

    fn finishes(self, course: Course) -> bool {
        match self {
            Self::FinishIf(wanted) | Self::Slow(wanted) => wanted,
            Self::Failed => course.is_failure(),
            _ => true,
        }
    }
}

fn a_wrap() -> impl Strategy<Value = Wrap> {
    prop_oneof![
        Just(Wrap::Some),
        Just(Wrap::None),
        Just(Wrap::Arc),
        Just(Wrap::Box),
        Just(Wrap::Left),
        Just(Wrap::Right),
        Just(Wrap::Vec),
        Just(Wrap::Tuple),
        Just(Wrap::Reload),
        any::<bool>().prop_map(Wrap::Filter),
        any::<bool>().prop_map(Wrap::Sample),
        any::<bool>().prop_map(Wrap::FinishIf),
        any::<bool>().prop_map(Wrap::Slow),
        Just(Wrap::Failed),
    ]
}

/// A tracer inside zero to three wraps, the innermost first.
type Part = Vec<Wrap>;

fn a_part() -> impl Strategy<Value = Part> {
    prop::collection::vec(a_wrap(), 0..=3)
}

fn an_exchange() -> impl Strategy<Value = Handler> {
    let messages = prop::collection::vec(any::<u8>(), 0..4);
    (messages, prop::sample::select(&Course::ALL[..]))
        .prop_map(|(messages, course)| Handler::new(messages, course))
}

fn build(part: &Part) -> (RecordingTracer, BoxTracer) {
    let recorder = RecordingTracer::new();
    let wrap = |inner, wrap: &Wrap| wrap.around(inner);
    let tracer = part.iter().fold(recorder.clone().boxed(), wrap);
    (recorder, tracer)
}

/// The caller's view, and the log of each part.
fn run_stack<T: Tracer>(
    exchange: &Handler,
    parts: &[Part],
    stack: impl FnOnce(Vec<BoxTracer>) -> T,
) -> (Vec<String>, Vec<Vec<String>>) {
    let (recorders, tracers): (Vec<_>, Vec<_>) = parts.iter().map(build).unzip();
    let saw = exchange.trace(stack(tracers));
    (saw, recorders.iter().map(RecordingTracer::log).collect())
}

proptest! {
    #[test]
    fn a_stack_behaves_as_its_parts(
        exchange in an_exchange(),
        parts in prop::collection::vec(a_part(), 3),
    ) {
        let untraced = exchange.trace(None::<RecordingTracer>);
        let alone: Vec<_> = parts.iter().map(|part| {
            let (saw, mut logs) = run_stack(&exchange, std::slice::from_ref(part), |mut stack| {
                stack.remove(0)
            });
            assert_eq!(saw, untraced);
            logs.remove(0)
        }).collect();

        let vector = run_stack(&exchange, &parts, |stack| stack);
        prop_assert_eq!(&vector, &(untraced.clone(), alone.clone()));
        let tuple = run_stack(&exchange, &parts, |stack| {
            let [a, b, c]: [_; 3] = stack.try_into().unwrap();
            (a, b, c)
        });
        prop_assert_eq!(&tuple, &(untraced.clone(), alone.clone()));
        let nested = run_stack(&exchange, &parts, |stack| {
            let [a, b, c]: [_; 3] = stack.try_into().unwrap();
            (vec![a], Arc::new((b, Some(c))))
        });
        prop_assert_eq!(&nested, &(untraced, alone));
    }

    #[test]
    fn a_part_sees_what_its_wraps_let_through(exchange in an_exchange(), part in a_part()) {
        let bare = RecordingTracer::new();
        let saw = exchange.trace(bare.clone());
        let mut expected = bare.log();
        if !part.iter().all(|wrap| wrap.takes_part()) {
            expected.clear();
        } else if !part.iter().all(|wrap| wrap.finishes(exchange.course)) {
            expected.pop();
        }
        let (wrapped_saw, logs) = run_stack(&exchange, &[part], |mut stack| stack.remove(0));
        prop_assert_eq!(&logs[0], &expected);
        prop_assert_eq!(wrapped_saw, saw);
    }

    #[test]
    fn none_is_as_the_empty_tracer(exchange in an_exchange()) {
        let logs = |run: &dyn Fn(RecordingTracer) -> Vec<String>| {
            let recorder = RecordingTracer::new();
            (run(recorder.clone()), recorder.log())
        };
        let with_none = logs(&|recorder| exchange.trace((recorder, None::<RecordingTracer>)));
        prop_assert_eq!(&with_none, &logs(&|recorder| exchange.trace((recorder, ()))));
        prop_assert_eq!(&with_none, &logs(&|recorder| exchange.trace((None::<()>, recorder))));
        prop_assert_eq!(&with_none, &logs(&|recorder| exchange.trace(recorder)));
    }

    #[test]
    fn filter_always_is_as_nothing(exchange in an_exchange()) {
        let (bare, filtered) = (RecordingTracer::new(), RecordingTracer::new());
        let saw = exchange.trace(bare.clone());
        prop_assert_eq!(exchange.trace(filtered.clone().filter(|_| true)), saw);
        prop_assert_eq!(filtered.log(), bare.log());
        prop_assert_eq!(filtered.scopes_entered(), bare.scopes_entered());
    }
}

// --- Declined RPCs ---

/// Answers at once, allocates nothing, and notes whether there is a record.
#[derive(Clone, Default)]
struct Bare(Arc<AtomicUsize>);

impl<B> Service<Request<B>> for Bare {
    type Response = Response<http_body_util::Empty<bytes::Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.extensions().get::<RpcInfo>().is_some() || RpcInfo::current().is_some() {
            self.0.fetch_add(1, Relaxed);
        }
        ready(Ok(Response::default()))
    }
}

/// How many allocations a call makes, and how many records its service saw.
fn allocations(tracer: impl Tracer) -> (u64, usize) {
    let bare = Bare::default();
    let mut service = TracerLayer::new(tracer).layer(bare.clone());
    // Whatever is made once per thread is made now.
    drop(run(service.call(request())));
    bare.0.store(0, Relaxed);
    let request = request();
    let counted = allocation_counter::measure(|| {
        let response = run(service.call(request)).unwrap();
        assert!(poll_once(&mut pin!(response.into_body()).frame()).is_ready());
    });
    (counted.count_total, bare.0.load(Relaxed))
}

#[test]
fn a_declined_rpc_allocates_nothing_and_has_no_record() {
    let declines = || RecordingTracer::new().filter(|_| false);
    assert_eq!(allocations(declines()), (0, 0));
    assert_eq!(
        allocations(RecordingTracer::new().sample(0.0).unwrap()),
        (0, 0)
    );
    assert_eq!(allocations(None::<RecordingTracer>), (0, 0));
    assert_eq!(allocations((declines(), None::<()>, declines())), (0, 0));
    assert_eq!(
        allocations(vec![declines().boxed(), declines().boxed()]),
        (0, 0)
    );
    assert_eq!(allocations(Either::<_, ()>::Left(declines())), (0, 0));
    assert_eq!(allocations(declines().only_failed().reloadable()), (0, 0));
    assert_eq!(allocations(Vec::<BoxTracer>::new()), (0, 0));

    // The same count does see a record, and a wrapped body, if one takes part.
    let (allocations, records) = allocations((declines(), ()));
    assert!(allocations >= 2 && records == 1, "{allocations}, {records}");
}

#[test]
fn a_boxed_tracer_allocates_only_its_state() {
    struct Sized;

    impl Tracer for Sized {
        type State = u64;

        fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> u64 {
            1
        }

        fn finish(&self, _: u64, _: &RpcInfo) {}
    }

    assert_eq!(allocations(().boxed()), allocations(()));
    let (plain, _) = allocations(Sized);
    assert_eq!(allocations(Sized.boxed()), (plain + 1, 1));
    assert_eq!(
        allocations(vec![Sized.boxed(), Sized.boxed()]),
        (plain + 3, 1)
    );
    assert_eq!(allocations((Sized, Sized, (), Some(Sized))), (plain, 1));
}

// --- Sampling ---

#[test]
fn an_invalid_ratio_is_an_error_that_says_what_is_allowed() {
    for (ratio, said) in [
        (-0.1, "-0.1"),
        (1.000_001, "1.000001"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
    ] {
        let error = ().sample(ratio).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("a sampling ratio is a number from 0 to 1, not {said}")
        );
    }
    for ratio in [0.0, -0.0, f64::MIN_POSITIVE, 0.5, 1.0] {
        assert!(().sample(ratio).is_ok());
    }
}

#[test]
fn a_combined_tracer_can_be_cloned_for_another_layer() {
    /// A stack of layers, as a user keeps it to put it around several services.
    fn twice<T: Tracer + Clone>(tracer: T) {
        let stack = |tracer| ServiceBuilder::new().layer(TracerLayer::new(tracer));
        for tracer in [tracer.clone(), tracer] {
            drop(run(stack(tracer).service(Bare::default()).call(request())));
        }
    }
    let recorder = RecordingTracer::new();
    twice(recorder.clone().sample(1.0).unwrap());
    twice(recorder.clone().slower_than(Duration::ZERO));
    // Without a status an RPC has failed.
    twice(recorder.clone().only_failed());
    assert_eq!(recorder.finished().len(), 6);
}

#[test]
fn the_share_of_the_sampled_is_the_ratio() {
    for ratio in [0.0, 0.3, 1.0] {
        let recorder = RecordingTracer::new();
        let sampled = recorder.clone().sample(ratio).unwrap();
        let mut service = TracerLayer::new(sampled).layer(Bare::default());
        for _ in 0..4000 {
            drop(run(service.call(request())));
        }
        let share = recorder.started().len() as f64 / 4000.0;
        // Ten standard deviations, which are 0.0072 at 0.3.
        assert!((share - ratio).abs() <= 10.0 * (ratio * (1.0 - ratio) / 4000.0).sqrt());
    }
}

#[test]
fn a_larger_ratio_chooses_what_a_smaller_one_chooses() {
    let (few, many) = (RecordingTracer::new(), RecordingTracer::new());
    let stack = (
        few.clone().sample(0.2).unwrap(),
        many.clone().sample(0.6).unwrap(),
    );
    let mut service = TracerLayer::new(stack).layer(Bare::default());
    for _ in 0..200 {
        few.clear();
        many.clear();
        drop(run(service.call(request())));
        assert!(few.started().len() <= many.started().len());
    }
}

/// A sampler at 0.5 that notes each RPC it takes part in.
fn half(seen: &Arc<AtomicUsize>) -> impl Tracer + use<> {
    let seen = Arc::clone(seen);
    on_finish(move |_| _ = seen.fetch_add(1, Relaxed))
        .sample(0.5)
        .unwrap()
}

/// Runs what makes one RPC on each of two levels, `outer` and `inner`, until both answers of the
/// sampler were there often; each time the inner must have followed the outer.
fn assert_follows(one: impl Fn(&Arc<AtomicUsize>, &Arc<AtomicUsize>)) {
    let mut chosen = 0;
    for _ in 0..100 {
        let (outer, inner) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        one(&outer, &inner);
        // The inner level may make several: all or none.
        assert_eq!(inner.load(Relaxed) > 0, outer.load(Relaxed) > 0);
        assert!(matches!(inner.load(Relaxed), 0 | 3), "{inner:?}");
        chosen += outer.load(Relaxed);
    }
    assert!((10..=90).contains(&chosen), "{chosen}");
}

fn call_three_times(inner: &Arc<AtomicUsize>) {
    for _ in 0..3 {
        let mut client = TracerLayer::new(half(inner))
            .client()
            .layer(Bare::default());
        drop(run(client.call(request())));
    }
}

#[test]
fn calls_of_a_handler_follow_its_rpc_even_if_it_was_declined() {
    assert_follows(|outer, inner| {
        let inner = Arc::clone(inner);
        let mut server = ServiceBuilder::new()
            .layer(TracerLayer::new(half(outer)).server())
            .service(service_fn(move |_: Request<_>| {
                let inner = Arc::clone(&inner);
                async move {
                    call_three_times(&inner);
                    Ok::<_, Infallible>(Response::new(String::new()))
                }
            }));
        drop(run(server.call(request())));
    });
}

#[test]
fn calls_under_a_response_body_follow_its_rpc_even_if_it_was_declined() {
    assert_follows(|outer, inner| {
        let inner = Arc::clone(inner);
        let mut server = ServiceBuilder::new()
            .layer(TracerLayer::new(half(outer)).server())
            .service(service_fn(move |_: Request<_>| {
                let inner = Arc::clone(&inner);
                let frames = futures_util::stream::once(async move {
                    call_three_times(&inner);
                    Ok::<_, Infallible>(http_body::Frame::data(bytes::Bytes::new()))
                });
                let body = http_body_util::StreamBody::new(Box::pin(frames));
                ready(Ok::<_, Infallible>(Response::new(body)))
            }));
        let response = run(server.call(request())).unwrap();
        drop(run(response.into_body().collect()));
    });
}

#[test]
fn attempts_follow_their_call_even_if_it_was_declined() {
    struct ThreeAttempts<S>(S);

    impl<S: Service<Request<tonic::body::Body>>> Service<Request<tonic::body::Body>>
        for ThreeAttempts<S>
    {
        type Response = S::Response;
        type Error = S::Error;
        type Future = S::Future;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
            self.0.poll_ready(cx)
        }

        fn call(&mut self, call: Request<tonic::body::Body>) -> S::Future {
            for _ in 0..2 {
                let mut attempt = request();
                *attempt.extensions_mut() = call.extensions().clone();
                drop(run(self.0.call(attempt)));
            }
            self.0.call(call)
        }
    }

    assert_follows(|outer, inner| {
        let mut client = ServiceBuilder::new()
            .layer(TracerLayer::new(half(outer)).client())
            .layer_fn(ThreeAttempts)
            .layer(TracerLayer::new(half(inner)).client())
            .service(Bare::default());
        drop(run(client.call(request())));
    });
}

#[test]
fn a_record_under_a_declined_rpc_passes_the_choice_on() {
    // Declined, then recorded by a tracer that does not sample, then sampled.
    assert_follows(|outer, inner| {
        let inner = Arc::clone(inner);
        let mut server = ServiceBuilder::new()
            .layer(TracerLayer::new(half(outer)).server())
            .layer(TracerLayer::new(()).server())
            .service(service_fn(move |_: Request<_>| {
                call_three_times(&inner);
                ready(Ok::<_, Infallible>(Response::new(String::new())))
            }));
        drop(run(server.call(request())));
    });
}

// --- What a filter sees ---

#[test]
fn a_filter_sees_the_side_of_the_record_before_and_after_it_is_made() {
    type Seen = Arc<Mutex<Vec<(&'static str, Role)>>>;

    /// Takes away what the side was found by.
    struct Robber(Seen);

    impl Tracer for Robber {
        type State = ();

        fn start(&self, _: &RpcInfo, request: &mut RequestParts<'_>) {
            request.extensions_mut().unwrap().clear();
        }

        fn finish(&self, (): (), rpc: &RpcInfo) {
            self.0.lock().unwrap().push(("record", rpc.role()));
        }
    }

    let seen = Seen::default();
    let note = |name: &'static str| {
        let seen = Arc::clone(&seen);
        ().filter(move |candidate| {
            seen.lock().unwrap().push((name, candidate.role()));
            false
        })
    };
    let tracer = (note("before"), Robber(Arc::clone(&seen)), note("after"));
    let mut service = TracerLayer::new(tracer).layer(Bare::default());
    let mut request = request();
    let method = tonic::GrpcMethod::new("echo.Echo", "UnaryEcho");
    request.extensions_mut().insert(method);
    drop(run(service.call(request)));
    let expected = ["before", "after", "record"].map(|name| (name, Role::Client));
    assert_eq!(*seen.lock().unwrap(), expected);
}

// --- Only some are finished ---

#[test]
fn the_state_of_an_rpc_that_is_not_wanted_is_dropped_at_its_end() {
    struct State(Log);

    impl Drop for State {
        fn drop(&mut self) {
            self.0.lock().unwrap().push("dropped".to_owned());
        }
    }

    struct Stateful(Log);

    impl Tracer for Stateful {
        type State = State;

        fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> State {
            State(Arc::clone(&self.0))
        }

        fn finish(&self, _state: State, _: &RpcInfo) {
            self.0.lock().unwrap().push("finish".to_owned());
        }
    }

    for (course, expected) in [
        (Course::OK, &["dropped"][..]),
        (Course::Trailers(13), &["finish", "dropped"][..]),
    ] {
        let log = Log::default();
        Handler::new([], course).trace(Stateful(Arc::clone(&log)).only_failed());
        assert_eq!(*log.lock().unwrap(), expected);
    }
}

#[test]
fn a_filter_on_the_outcome_sees_the_complete_record() {
    let recorder = RecordingTracer::new();
    let long_answers = recorder
        .clone()
        .finish_if(|rpc| rpc.stats().response().messages() > Some(2));
    let tracer = Arc::new(long_answers);
    Handler::new([1, 1], Course::OK).trace(Arc::clone(&tracer));
    assert_eq!(recorder.finished().len(), 0);
    Handler::new([1, 1, 1], Course::OK).trace(tracer);
    assert_eq!(recorder.only_finished().full_method(), Some(METHOD));
}

// --- Reload ---

#[test]
fn an_rpc_in_flight_keeps_the_tracer_it_started_with() {
    let (old, new) = (RecordingTracer::new(), RecordingTracer::new());
    let tracer = Arc::new(old.clone()).reloadable();
    let first = Arc::downgrade(&tracer.get());
    let mut service = TracerLayer::new(tracer.clone())
        .server()
        .layer(Handler::new([1, 2], Course::OK));

    let response = run(service.call(request())).unwrap();
    tracer.set(Arc::new(new.clone()));
    drop(run(service.call(request())));
    assert!(first.upgrade().is_some(), "one RPC still needs it");
    drop(run(response.into_body().collect()));
    assert!(first.upgrade().is_none(), "it has no holder");

    old.assert_in_order([
        "start",
        "response_message #0 1B",
        "response_message #1 2B",
        "finish",
    ]);
    assert_eq!(old.only_finished().full_method(), Some(METHOD));
    assert_eq!(new.log().last().unwrap(), "finish cancelled CANCELLED");
    assert_eq!(new.started().len(), 1);
}

#[test]
fn the_tracer_an_rpc_started_with_decides_about_its_events() {
    let (old, new) = (RecordingTracer::new(), RecordingTracer::new());
    let tracer = Some(old.clone()).boxed().reloadable();
    // Within a tuple, whose other part wants events anyway.
    let mut service = TracerLayer::new((tracer.clone(), RecordingTracer::new()))
        .server()
        .layer(Handler::new([1], Course::OK));
    let response = run(service.call(request())).unwrap();
    tracer.set(on_finish(|_| {}).boxed());
    drop(run(response.into_body().collect()));
    old.assert_in_order([
        "response_headers",
        "response_message #0 1B",
        "trailers",
        "finish",
    ]);

    let response = run(service.call(request())).unwrap();
    tracer.set(new.clone().boxed());
    drop(run(response.into_body().collect()));
    assert_eq!(new.log(), [""; 0]);
}

#[test]
fn a_tracer_is_replaced_under_load_and_no_rpc_is_lost() {
    let finished: [Arc<AtomicUsize>; 2] = Default::default();
    let counting = |index: usize| {
        let counter = Arc::clone(&finished[index]);
        on_finish(move |_| _ = counter.fetch_add(1, Relaxed)).boxed()
    };
    let tracer = counting(0).reloadable();
    let layer = TracerLayer::new(tracer.clone()).server();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut service = layer.layer(Bare::default());
                for _ in 0..500 {
                    drop(run(service.call(request())));
                }
            });
        }
        for round in 1..=100 {
            tracer.set(counting(round % 2));
            std::thread::yield_now();
        }
    });
    let all: usize = finished.iter().map(|counter| counter.load(Relaxed)).sum();
    assert_eq!(all, 1000);
}

// --- Filters, boxes, the recorder ---

#[test]
fn the_recorder_names_the_line_that_is_missing_in_the_order() {
    let recorder = RecordingTracer::new();
    Handler::new([], Course::OK).trace(recorder.clone());
    recorder.assert_in_order(["start", "trailers", "finish"]);
    for wrong in [
        ["finish", "start"],
        ["start", "start"],
        ["start", "response_message"],
    ] {
        let caught = std::panic::catch_unwind(|| recorder.assert_in_order(wrong));
        let said = *caught.unwrap_err().downcast::<String>().unwrap();
        assert!(said.starts_with(&format!("no {:?}", wrong[1])), "{said}");
    }
    assert_eq!(recorder.started_of(METHOD).len(), 1);
    assert_eq!(recorder.started_of("test.Script/Other").len(), 0);
}

#[test]
fn built_in_filters_recognize_health_checks_and_reflection() {
    struct Note(Arc<Mutex<(bool, bool)>>);

    impl Tracer for Note {
        type State = ();

        fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

        fn finish(&self, (): (), _: &RpcInfo) {}

        fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<()> {
            *self.0.lock().unwrap() = (
                candidate.request().is_health_check(),
                candidate.request().is_reflection(),
            );
            None
        }
    }

    for (path, expected) in [
        ("/grpc.health.v1.Health/Check", (true, false)),
        ("/grpc.health.v1.Health/Watch", (true, false)),
        ("/grpc.health.v1.Healthy/Check", (false, false)),
        (
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            (false, true),
        ),
        (
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            (false, true),
        ),
        ("/grpc.reflection.v1beta.ServerReflection/X", (false, false)),
        ("/x/grpc.health.v1.Health/Check", (false, false)),
        ("/health", (false, false)),
    ] {
        let note = Arc::default();
        let mut service = TracerLayer::new(Note(Arc::clone(&note))).layer(Bare::default());
        let request = Request::get(path).body(String::new()).unwrap();
        drop(run(service.call(request)));
        assert_eq!(*note.lock().unwrap(), expected, "{path}");
    }
}

#[test]
fn a_boxed_tracer_ignores_the_state_of_another_one() {
    let recorder = RecordingTracer::new();
    let boxed = recorder.clone().boxed();
    let other = RecordingTracer::new();
    Handler::new([], Course::OK).trace(other.clone());
    let rpc = other.only_finished();
    boxed.finish(Box::new("a state of another type"), &rpc);
    assert_eq!(recorder.log(), [""; 0]);
    boxed.finish(Box::new(()), &rpc);
    assert_eq!(recorder.log(), ["finish trailers OK"]);
}

#[test]
fn a_boxed_tracer_prints_what_it_holds() {
    let name = format!("{:?}", RecordingTracer::new().boxed().boxed());
    assert_eq!(
        name,
        r#"BoxTracer("tower_tracer::testing::RecordingTracer")"#
    );
}

thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });

/// A scope that says how often it is entered, one in the other.
struct Deep;

impl Scope for Deep {
    fn run(&self, f: &mut dyn FnMut()) {
        DEPTH.set(DEPTH.get() + 1);
        f();
        DEPTH.set(DEPTH.get() - 1);
    }
}

impl Tracer for Deep {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), _: &RpcInfo) {}

    fn scope(&self, (): &(), _: &RpcInfo) -> Option<Arc<dyn Scope>> {
        Some(Arc::new(Self))
    }
}

/// A body of one message that reports how deep it is polled and dropped.
struct Sounding(bool, Arc<Mutex<Vec<u32>>>);

impl Body for Sounding {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.1.lock().unwrap().push(DEPTH.get());
        let message = std::mem::take(&mut self.0);
        Poll::Ready(message.then(|| Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x01x")))))
    }

    fn is_end_stream(&self) -> bool {
        !self.0
    }
}

impl Drop for Sounding {
    fn drop(&mut self) {
        self.1.lock().unwrap().push(DEPTH.get());
    }
}

/// Answers with the request's body, which then runs inside both.
#[test]
fn a_scope_is_entered_once_for_a_requests_body_within_its_response_also_when_the_rpc_is_over() {
    for content_type in ["application/grpc", "text/plain"] {
        for at_response in [false, true] {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let mut layer = TracerLayer::new((Deep, RecordingTracer::new())).server();
            if at_response {
                layer = layer.finish_at_response();
            }
            let mut service = layer.layer(tower::service_fn(
                async |request: Request<tonic::body::Body>| {
                    Ok::<_, Infallible>(Response::new(request.into_body()))
                },
            ));
            let body = tonic::body::Body::new(Sounding(true, Arc::clone(&seen)));
            let request = Request::post("/a.B/C").header("content-type", content_type);
            let request = request.body(body).unwrap();
            let response = run(service.call(request)).unwrap();
            drop(run(response.into_body().collect()));
            let seen = std::mem::take(&mut *seen.lock().unwrap());
            assert_eq!(seen, [1, 1, 1], "{content_type} {at_response}");
            assert_eq!(DEPTH.get(), 0);
        }
    }
}
