//! A tracer that panics changes nothing for the RPC, for its caller and for other tracers.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, panic_any},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
};

use crate::{
    alone,
    scripted::{
        Course, Handler, bare_request, drive, panic_on_purpose, poll_once, request, response,
    },
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{BoxError, Layer, Service, ServiceBuilder};
use tower_tracer::{
    Level, RequestParts, RpcInfo, Tracer, TracerLayer,
    tracer::{Scope, StreamEvent, contained_panics},
};

/// Where a tracer panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Level,
    WantsEvents,
    /// `wants_events`, but not in the first call.
    WantsEventsLater,
    Start,
    /// `start`, with a payload that panics when it is dropped.
    StartWithBomb,
    MakeScope,
    EnterScope,
    LeaveScope,
    DropScope,
    Event,
    Finish,
    FinishWithBomb,
    DropState,
}

impl Hook {
    const ALL: [Self; 13] = [
        Self::Level,
        Self::WantsEvents,
        Self::WantsEventsLater,
        Self::Start,
        Self::StartWithBomb,
        Self::MakeScope,
        Self::EnterScope,
        Self::LeaveScope,
        Self::DropScope,
        Self::Event,
        Self::Finish,
        Self::FinishWithBomb,
        Self::DropState,
    ];

    fn is_before_start(self) -> bool {
        matches!(self, Self::Level | Self::WantsEvents)
    }

    fn is_start(self) -> bool {
        self.is_before_start() || matches!(self, Self::Start | Self::StartWithBomb)
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic_any(Self);
    }
}

/// A tracer that logs what it sees, and panics in one hook.
#[derive(Clone, Default)]
struct Member {
    breaks: Option<Hook>,
    log: Arc<Mutex<Vec<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Member {
    fn breaking(hook: Hook) -> Self {
        Self {
            breaks: Some(hook),
            ..Self::default()
        }
    }

    fn at(&self, hook: Hook) {
        if self.breaks == Some(hook) {
            panic_on_purpose();
        }
    }

    fn bomb(&self, hook: Hook) {
        if self.breaks == Some(hook) {
            panic_any(Bomb);
        }
    }

    fn write(&self, line: String) {
        self.lines().push(line);
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines())
    }
}

/// Panics in its drop if configured so.
struct Guarded(Option<Hook>, Hook);

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.0 == Some(self.1) {
            panic_on_purpose();
        }
    }
}

impl Tracer for Member {
    type State = Guarded;

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> Guarded {
        self.write("start".to_owned());
        self.at(Hook::Start);
        self.bomb(Hook::StartWithBomb);
        Guarded(self.breaks, Hook::DropState)
    }

    fn finish(&self, _state: Guarded, rpc: &RpcInfo) {
        let (ending, status) = (rpc.stats().ending(), rpc.stats().status());
        let (ending, status) = (ending.unwrap(), status.unwrap());
        self.write(format!("finish {ending} {status}"));
        self.at(Hook::Finish);
        self.bomb(Hook::FinishWithBomb);
    }

    fn level(&self) -> Level {
        self.at(Hook::Level);
        Level::Detailed
    }

    fn wants_events(&self) -> bool {
        self.at(Hook::WantsEvents);
        if self.asked.fetch_add(1, Relaxed) > 0 {
            self.at(Hook::WantsEventsLater);
        }
        true
    }

    fn on_event(&self, _: &mut Guarded, _: &RpcInfo, event: &StreamEvent<'_>) {
        self.at(Hook::Event);
        self.write(format!("{:?}", event.kind));
    }

    fn scope(&self, _: &Guarded, _: &RpcInfo) -> Option<Arc<dyn Scope>> {
        self.at(Hook::MakeScope);
        Some(Arc::new(MemberScope {
            member: self.clone(),
            _dropped: Guarded(self.breaks, Hook::DropScope),
        }))
    }
}

struct MemberScope {
    member: Member,
    _dropped: Guarded,
}

impl Scope for MemberScope {
    fn run(&self, f: &mut dyn FnMut()) {
        self.member.at(Hook::EnterScope);
        f();
        self.member.at(Hook::LeaveScope);
    }
}

/// One tracer made of others, as a user may write it: it passes the required hooks on, and leaves
/// `try_start` as it is.
struct Whole<T>(T);

impl<T: Tracer> Tracer for Whole<T> {
    type State = T::State;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> T::State {
        self.0.start(rpc, request)
    }

    fn finish(&self, state: T::State, rpc: &RpcInfo) {
        self.0.finish(state, rpc);
    }

    fn level(&self) -> Level {
        self.0.level()
    }

    fn wants_events(&self) -> bool {
        self.0.wants_events()
    }

    fn on_event(&self, state: &mut T::State, rpc: &RpcInfo, event: &StreamEvent<'_>) {
        self.0.on_event(state, rpc, event);
    }

    fn scope(&self, state: &T::State, rpc: &RpcInfo) -> Option<Arc<dyn Scope>> {
        self.0.scope(state, rpc)
    }
}

/// Lets one of three tracers panic, in each hook and in each course of an RPC, and compares with an
/// RPC without a layer, and with a tracer that is alone.
fn check<L, B>(arrange: impl Fn(Member, Member, Member) -> L)
where
    L: Layer<Handler>,
    L::Service: Service<Request<tonic::body::Body>, Response = Response<B>, Error = BoxError>,
    B: Body<Data = Bytes, Error = BoxError>,
{
    let _alone = alone();
    for course in Course::ALL {
        let untraced = Handler::of(course).untraced();
        let fine = Member::default();
        let mut service = TracerLayer::new(fine.clone()).layer(Handler::of(course));
        assert_eq!(drive(&mut service, course), untraced, "{course:?}");
        let expected = fine.take();
        assert_eq!(expected.first().map(String::as_str), Some("start"));
        assert_eq!(expected.last().map(String::as_str), Some(course.finish()));

        for hook in Hook::ALL {
            let case = format!("{hook:?} while {course:?}");
            let (first, last) = (Member::default(), Member::default());
            let broken = Member::breaking(hook);
            let before = contained_panics();
            let mut service =
                arrange(first.clone(), broken.clone(), last.clone()).layer(Handler::of(course));
            assert_eq!(drive(&mut service, course), untraced, "{case}");
            assert_eq!(first.take(), expected, "{case}: the first tracer");
            assert_eq!(last.take(), expected, "{case}: the last tracer");
            // Alone in its layer it is asked only once what it wants.
            let reached = hook != Hook::WantsEventsLater || broken.asked.load(Relaxed) > 1;
            assert_eq!(
                contained_panics() > before,
                reached,
                "{case}: it is counted"
            );

            let log = broken.take();
            let count = |what| log.iter().filter(|line| line.starts_with(what)).count();
            let starts = usize::from(!hook.is_before_start());
            let finishes = usize::from(!hook.is_start());
            assert_eq!(count("start"), starts, "{case}: {log:?}");
            assert_eq!(count("finish"), finishes, "{case}: {log:?}");
        }
    }
}

// Ending 1. Ending 2. Ending 39.
#[test]
fn a_panic_of_one_tracer_of_a_tuple_is_contained() {
    check(|a, b, c| TracerLayer::new((a, b, c)));
}

// Ending 1. Ending 2. Ending 39.
#[test]
fn a_panic_of_one_tracer_of_a_vec_is_contained() {
    check(|a, b, c| TracerLayer::new(vec![a, b, c]));
}

// Ending 1. Ending 2. Ending 39.
#[test]
fn a_panic_of_the_tracer_of_one_of_several_layers_is_contained() {
    check(|a, b, c| {
        ServiceBuilder::new()
            .layer(TracerLayer::new(a))
            .layer(TracerLayer::new(b))
            .layer(TracerLayer::new(c))
            .into_inner()
    });
}

/// What a wrapper asks a tuple or a `Vec` of tracers goes to each of them, and is contained there.
#[test]
fn a_panic_of_one_tracer_within_a_users_wrapper_is_contained() {
    let _alone = alone();
    for hook in Hook::ALL {
        // Asked for its level and its wishes by the wrapper, it panics there and still starts.
        let starts_anyway = hook.is_before_start();
        for in_vec in [false, true] {
            let (first, last) = (Member::default(), Member::default());
            let broken = Member::breaking(hook);
            let (a, b, c) = (first.clone(), broken.clone(), last.clone());
            let course = Course::OK;
            if in_vec {
                let layer = TracerLayer::new(Whole(vec![a, b, c]));
                drive(&mut layer.layer(Handler::of(course)), course);
            } else {
                let layer = TracerLayer::new(Whole((a, b, c)));
                drive(&mut layer.layer(Handler::of(course)), course);
            }
            let (first, last) = (first.take(), last.take());
            let case = format!("{hook:?}, in a Vec: {in_vec}");
            assert_eq!(first.len(), 10, "{case}: {first:?}");
            assert_eq!(first, last, "{case}");
            assert_eq!(first.last().unwrap(), "finish trailers OK", "{case}");
            let finishes = broken
                .take()
                .iter()
                .filter(|l| l.starts_with("finish"))
                .count();
            let expected = usize::from(starts_anyway || !hook.is_start());
            assert_eq!(finishes, expected, "{case}");
        }
    }
}

// Ending 1. Ending 2. Ending 39.
#[test]
fn a_panic_of_the_only_tracer_is_contained() {
    let _alone = alone();
    for course in Course::ALL {
        let untraced = Handler::of(course).untraced();
        for hook in Hook::ALL {
            let tracer = Member::breaking(hook);
            let mut service = TracerLayer::new(tracer.clone()).layer(Handler::of(course));
            assert_eq!(
                drive(&mut service, course),
                untraced,
                "{hook:?}: {course:?}"
            );
            let log = tracer.take();
            let finishes = log.iter().filter(|line| line.starts_with("finish")).count();
            assert_eq!(finishes, usize::from(!hook.is_start()), "{log:?}");
            assert!(RpcInfo::current().is_none(), "the thread is left clean");
        }
    }
}

// Ending 2.
#[test]
fn a_panic_of_a_tracer_in_a_drop_while_the_thread_unwinds_does_not_abort() {
    let _alone = alone();
    for hook in Hook::ALL {
        let (first, last) = (Member::default(), Member::default());
        let tracers = (first.clone(), Member::breaking(hook), last.clone());
        let before = contained_panics();
        let mut service = TracerLayer::new(tracers).layer(Handler::of(Course::DropPending));
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let mut future = service.call(bare_request());
            assert!(poll_once(&mut future).is_pending());
            panic_any("of other code, on purpose");
        }));
        let payload = unwound.unwrap_err();
        let text = payload.downcast_ref::<&str>();
        assert_eq!(text, Some(&"of other code, on purpose"), "{hook:?}");
        assert!(contained_panics() > before, "{hook:?}: it is counted");
        for member in [first, last] {
            let log = member.take();
            assert_eq!(
                log.last().unwrap(),
                "finish cancelled CANCELLED",
                "{hook:?}"
            );
        }
    }
}

// Ending 39.
#[test]
fn a_panic_of_the_handler_goes_on_with_its_own_payload_whatever_that_is() {
    let _alone = alone();
    let tracer = Member::default();
    let before = contained_panics();
    let mut service = ServiceBuilder::new()
        .layer(TracerLayer::new(tracer.clone()))
        .service_fn(async |_| match () {
            () if true => panic_any(Bomb),
            () => Ok::<_, BoxError>(response([])),
        });
    let mut future = Box::pin(service.call(request(crate::scripted::Scripted::default())));
    let panicked = catch_unwind(AssertUnwindSafe(|| poll_once(&mut future)));
    let payload = match panicked {
        Err(payload) => payload,
        Ok(Poll::Pending | Poll::Ready(_)) => panic!("the panic went astray"),
    };
    assert!(payload.is::<Bomb>());
    std::mem::forget(payload);
    assert_eq!(tracer.take().last().unwrap(), "finish panic UNKNOWN");
    assert_eq!(contained_panics(), before, "it is not a tracer's");
}

#[test]
fn a_panic_in_the_drop_of_a_payload_is_also_counted() {
    let _alone = alone();
    for (hook, panics) in [(Hook::Finish, 1), (Hook::FinishWithBomb, 2)] {
        let before = contained_panics();
        let layer = TracerLayer::new(Member::breaking(hook));
        drive(&mut layer.layer(Handler::of(Course::OK)), Course::OK);
        assert_eq!(contained_panics() - before, panics, "{hook:?}");
    }
}

#[test]
fn the_drop_of_what_chooses_the_level_is_contained() {
    struct Mortal;

    impl Drop for Mortal {
        fn drop(&mut self) {
            panic_on_purpose();
        }
    }

    let _alone = alone();
    let mortal = Mortal;
    let layer = TracerLayer::new(()).level_of(move |_| {
        let _held = &mortal;
        Level::Base
    });
    let mut service = layer.layer(Handler::of(Course::DropPending));
    drop(layer);
    let future = service.call(bare_request());
    drop(service);
    let before = contained_panics();
    drop(future);
    assert_eq!(contained_panics() - before, 1);
}

#[test]
fn a_panic_in_level_of_leaves_the_layers_own_level() {
    let _alone = alone();
    let tracer = Member::default();
    let before = contained_panics();
    let layer = TracerLayer::new(tracer.clone()).level_of(|_| panic_on_purpose());
    drive(&mut layer.layer(Handler::of(Course::OK)), Course::OK);
    assert_eq!(tracer.take().last().unwrap(), "finish trailers OK");
    assert_eq!(contained_panics(), before + 1);
}
