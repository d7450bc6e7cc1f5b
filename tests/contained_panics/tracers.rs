//! Which hook panics, in which place of which stack, in which course of an RPC: the RPC, its caller and the
//! other tracers do not notice, and the panic is counted.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, panic_any},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{BoxError, Layer, Service, ServiceBuilder};
use tower_tracer::{
    Level, RequestParts, RpcInfo, Tracer, TracerLayer, on_finish,
    testing::RecordingTracer,
    tracer::{BoxTracer, Candidate, Either, Scope, StreamEvent, contained_panics},
};

use crate::{
    alone,
    scripted::{
        Course, Handler, bare_request, drive, panic_on_purpose, poll_once, request, response,
    },
};

/// Where a tracer panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    TryStart,
    /// `try_start`, after the tracer has started.
    TryStartLate,
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
    /// The drop of the state, at the end of `finish`.
    DropFinished,
    /// The drop of the state of a tracer that is not to finish.
    DropUnfinished,
    /// The predicate of `finish_if`.
    Wanted,
}

impl Hook {
    const ALL: [Self; 17] = [
        Self::TryStart,
        Self::TryStartLate,
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
        Self::DropFinished,
        Self::DropUnfinished,
        Self::Wanted,
    ];

    fn is_try_start(self) -> bool {
        matches!(self, Self::TryStart | Self::TryStartLate)
    }

    fn is_wish(self) -> bool {
        matches!(self, Self::Level | Self::WantsEvents)
    }

    /// How often a tracer that panics here starts and finishes.
    fn starts_and_finishes(self, within: Within) -> (usize, usize) {
        match self {
            // What asks for its wishes without `try_start` lets it start.
            _ if within == Within::Wrapper && (self.is_try_start() || self.is_wish()) => (1, 1),
            Self::TryStart | Self::Level | Self::WantsEvents => (0, 0),
            Self::Start | Self::StartWithBomb => (1, 0),
            Self::TryStartLate | Self::DropUnfinished | Self::Wanted => (1, 0),
            _ => (1, 1),
        }
    }

    /// How many panics are counted at least and at most, if the hook is called at all.
    fn panics(self, within: Within) -> (u64, u64) {
        match self {
            Self::WantsEvents
            | Self::WantsEventsLater
            | Self::EnterScope
            | Self::LeaveScope
            | Self::Event => (1, u64::MAX),
            Self::Level if within == Within::Wrapper => (1, u64::MAX),
            // That of the payload's drop counts too.
            Self::StartWithBomb | Self::FinishWithBomb => (2, 2),
            _ => (1, 1),
        }
    }
}

/// What a tracer is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// All tracers of one layer.
    Stack,
    /// Several layers, each with a tracer.
    Layers,
    /// A user's tracer around others, which leaves `try_start` as it is.
    Wrapper,
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic_any(Self);
    }
}

/// A tracer that logs what it sees, and may panic in one hook.
#[derive(Clone, Default)]
struct Member {
    breaks: Option<Hook>,
    log: Arc<Mutex<Vec<String>>>,
    asked: Arc<AtomicUsize>,
    entered: Arc<AtomicUsize>,
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
struct Guarded(Option<Hook>, &'static [Hook]);

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.0.is_some_and(|hook| self.1.contains(&hook)) {
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
        Guarded(self.breaks, &[Hook::DropFinished, Hook::DropUnfinished])
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
            _dropped: Guarded(self.breaks, &[Hook::DropScope]),
        }))
    }

    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Guarded> {
        self.at(Hook::TryStart);
        let state = candidate.start(self);
        self.at(Hook::TryStartLate);
        state
    }
}

struct MemberScope {
    member: Member,
    _dropped: Guarded,
}

impl Scope for MemberScope {
    fn run(&self, f: &mut dyn FnMut()) {
        self.member.at(Hook::EnterScope);
        self.member.entered.fetch_add(1, Relaxed);
        f();
        self.member.at(Hook::LeaveScope);
    }
}

/// A member as a part of a stack: as it is, or boxed.
trait Part: Tracer + Sized {
    /// `None` if it cannot panic in this hook.
    fn of(member: Member) -> Option<Self>;
}

impl Part for Member {
    fn of(member: Member) -> Option<Self> {
        let is_of_finish_if = matches!(member.breaks, Some(Hook::DropUnfinished | Hook::Wanted));
        (!is_of_finish_if).then_some(member)
    }
}

impl Part for BoxTracer {
    fn of(member: Member) -> Option<Self> {
        Some(match member.breaks {
            Some(Hook::DropUnfinished) => member.finish_if(|_| false).boxed(),
            Some(Hook::Wanted) => member.finish_if(|_| panic_on_purpose()).boxed(),
            _ => member.boxed(),
        })
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

/// Lets one of `count` tracers panic: in each hook, in each place and in each course of an RPC. Compares with
/// an RPC without a layer, and with a tracer that is alone.
fn check<P, L, B>(count: usize, within: Within, arrange: impl Fn(Vec<P>) -> L)
where
    P: Part,
    L: Layer<Handler>,
    L::Service: Service<Request<tonic::body::Body>, Response = Response<B>, Error = BoxError>,
    B: Body<Data = Bytes, Error = BoxError>,
{
    let _alone = alone();
    for course in Course::ALL {
        let handler = Handler::of(course);
        let untraced = handler.untraced();
        let fine = Member::default();
        assert_eq!(handler.trace(fine.clone()), untraced, "{course:?}");
        let expected = fine.take();
        assert_eq!(expected.first().map(String::as_str), Some("start"));
        assert_eq!(expected.last().map(String::as_str), Some(course.finish()));
        let entered = fine.entered.load(Relaxed);

        for hook in Hook::ALL {
            for place in 0..count {
                let case = format!("{hook:?} at {place} of {count} while {course:?}");
                let mut members: Vec<_> = (0..count).map(|_| Member::default()).collect();
                members[place] = Member::breaking(hook);
                let parts = members.iter().cloned().map(P::of).collect();
                let Some(parts) = parts else { continue };

                let before = contained_panics();
                let mut service = arrange(parts).layer(handler.clone());
                assert_eq!(drive(&mut service, course), untraced, "{case}");
                let contained = contained_panics() - before;
                assert!(
                    RpcInfo::current().is_none(),
                    "{case}: the thread is left clean"
                );

                let broken = members.remove(place);
                for member in members {
                    assert_eq!(member.take(), expected, "{case}: another tracer");
                    // The body of an inner layer is one that code of a user may have made.
                    if within != Within::Layers {
                        assert_eq!(member.entered.load(Relaxed), entered, "{case}");
                    }
                }
                let log = broken.take();
                let lines = |what| log.iter().filter(|line| line.starts_with(what)).count();
                let seen = (lines("start"), lines("finish"));
                assert_eq!(seen, hook.starts_and_finishes(within), "{case}: {log:?}");

                let is_called = match hook {
                    // Alone in its layer it is asked only once what it wants.
                    Hook::WantsEventsLater => broken.asked.load(Relaxed) > 1,
                    Hook::TryStart | Hook::TryStartLate => within != Within::Wrapper,
                    _ => true,
                };
                let (least, most) = if is_called {
                    hook.panics(within)
                } else {
                    (0, 0)
                };
                assert!(
                    (least..=most).contains(&contained),
                    "{case}: {contained} panics, not {least} to {most}"
                );
            }
        }
    }
}

// Ending 1. Ending 2. Ending 39.
#[test]
fn a_panic_of_the_only_tracer_is_contained() {
    let alone = |mut parts: Vec<Member>| TracerLayer::new(parts.remove(0));
    check(1, Within::Stack, alone);
    let alone = |mut parts: Vec<BoxTracer>| TracerLayer::new(parts.remove(0));
    check(1, Within::Stack, alone);
}

fn tuple<P: Part>(parts: Vec<P>) -> (P, P, P) {
    let Ok([a, b, c]) = <[P; 3]>::try_from(parts) else {
        panic!("three parts")
    };
    (a, b, c)
}

// Ending 1. Ending 2. Ending 39.
#[test]
fn a_panic_of_one_tracer_of_a_tuple_is_contained() {
    check(3, Within::Stack, |p: Vec<Member>| {
        TracerLayer::new(tuple(p))
    });
    check(3, Within::Stack, |p: Vec<BoxTracer>| {
        TracerLayer::new(tuple(p)).server()
    });
}

// Ending 1. Ending 2. Ending 39.
#[test]
fn a_panic_of_one_tracer_of_a_vec_is_contained() {
    check(3, Within::Stack, |p: Vec<Member>| TracerLayer::new(p));
    check(1, Within::Stack, |p: Vec<BoxTracer>| TracerLayer::new(p));
    check(4, Within::Stack, |p: Vec<BoxTracer>| {
        TracerLayer::new(p).server()
    });
}

// Ending 1. Ending 2. Ending 39.
#[test]
fn a_panic_of_the_tracer_of_one_of_several_layers_is_contained() {
    check(3, Within::Layers, |parts: Vec<Member>| {
        let (a, b, c) = tuple(parts);
        ServiceBuilder::new()
            .layer(TracerLayer::new(a))
            .layer(TracerLayer::new(b))
            .layer(TracerLayer::new(c))
            .into_inner()
    });
    check(3, Within::Layers, |parts: Vec<BoxTracer>| {
        let (a, b, c) = tuple(parts);
        ServiceBuilder::new()
            .layer(TracerLayer::new(a))
            .layer(TracerLayer::new(b))
            .layer(TracerLayer::new(c))
            .into_inner()
    });
}

#[test]
fn a_panic_of_one_tracer_of_nested_stacks_is_contained() {
    check(3, Within::Stack, |parts: Vec<BoxTracer>| {
        let (a, b, c) = tuple(parts);
        TracerLayer::new((
            Some(vec![a]),
            Either::<_, ()>::Left((Arc::new(b), c.reloadable())),
        ))
    });
}

/// What a wrapper asks a tuple or a `Vec` of tracers goes to each of them, and is contained there.
#[test]
fn a_panic_of_one_tracer_within_a_users_wrapper_is_contained() {
    check(3, Within::Wrapper, |p: Vec<Member>| {
        TracerLayer::new(Whole(tuple(p)))
    });
    check(3, Within::Wrapper, |p: Vec<Member>| {
        TracerLayer::new(Whole(p))
    });
    check(4, Within::Wrapper, |mut p: Vec<BoxTracer>| {
        let nested = p.split_off(2);
        let (last, first) = (p.remove(1), p.remove(0));
        TracerLayer::new(Whole((first, last, nested)))
    });
}

// Ending 2.
#[test]
fn a_panic_of_a_tracer_in_a_drop_while_the_thread_unwinds_does_not_abort() {
    let _alone = alone();
    for hook in Hook::ALL {
        let (first, last) = (Member::default(), Member::default());
        let broken = BoxTracer::of(Member::breaking(hook)).unwrap();
        let tracers = (first.clone(), broken, last.clone());
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

#[test]
fn well_behaved_tracers_count_nothing() {
    let _alone = alone();
    let before = contained_panics();
    for course in Course::ALL {
        let fine = Member::default();
        Handler::new([1], course).trace((fine.clone(), RecordingTracer::new()));
        let log = fine.take();
        let finishes = log.iter().filter(|line| line.starts_with("finish"));
        assert_eq!(finishes.count(), 1);
    }
    assert_eq!(contained_panics(), before);
}

#[test]
fn panics_of_all_at_once_are_contained() {
    let _alone = alone();
    for course in Course::ALL {
        let handler = Handler::new([1], course);
        let untraced = handler.untraced();
        let fine = Member::default();
        handler.trace(fine.clone());
        let expected = fine.take();
        let all = || Hook::ALL.map(|hook| BoxTracer::of(Member::breaking(hook)).unwrap());
        assert_eq!(handler.trace(Vec::from(all())), untraced);
        let (first, last) = (Member::default(), Member::default());
        let before = contained_panics();
        let stack = Whole((
            Vec::from(all()),
            first.clone(),
            Vec::from(all().map(Some)),
            last.clone(),
        ));
        assert_eq!(handler.trace(stack), untraced);
        assert!(contained_panics() - before >= 2 * 10, "{course:?}");
        for member in [first, last] {
            assert_eq!(member.take(), expected, "{course:?}");
        }
    }
}

/// Its state panics whenever it is dropped, also while another panic unwinds.
#[derive(Clone)]
struct Ruthless;

struct RuthlessState;

impl Drop for RuthlessState {
    fn drop(&mut self) {
        panic_on_purpose();
    }
}

impl Tracer for Ruthless {
    type State = RuthlessState;

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> RuthlessState {
        RuthlessState
    }

    fn finish(&self, _state: RuthlessState, _: &RpcInfo) {}
}

#[test]
fn states_that_are_not_finished_are_dropped_each_by_itself() {
    fn assert_dropped(tracer: impl Tracer) {
        let handler = Handler::new([1], Course::OK);
        let saw = handler.untraced();
        let before = contained_panics();
        assert_eq!(handler.trace(tracer.finish_if(|_| false)), saw);
        assert_eq!(contained_panics() - before, 2);
    }
    let _alone = alone();
    let two = || (Ruthless, Ruthless);
    assert_dropped(two());
    assert_dropped(vec![Ruthless; 2]);
    assert_dropped(vec![Ruthless.boxed(), Ruthless.boxed()]);
    assert_dropped(two().boxed());
    assert_dropped(Arc::new(Box::new(two())));
    assert_dropped(Some(two()));
    assert_dropped(Either::<_, ()>::Left(two()));
    assert_dropped(two().reloadable());
    assert_dropped(two().filter(|_| true));
    assert_dropped(two().finish_if(|_| true));
}

/// Panics when it is dropped itself, and in `finish` if configured so.
struct Mortal {
    in_finish: bool,
}

impl Tracer for Mortal {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), _: &RpcInfo) {
        if self.in_finish {
            panic_on_purpose();
        }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        panic_on_purpose();
    }
}

#[test]
fn the_drop_of_a_tracer_that_an_rpc_holds_last_is_contained() {
    let _alone = alone();
    for course in Course::ALL {
        let handler = Handler::new([1], course);
        let saw = handler.untraced();
        for in_finish in [false, true] {
            let before = contained_panics();
            assert_eq!(handler.trace(Mortal { in_finish }), saw);
            assert_eq!(contained_panics() - before, 1 + u64::from(in_finish));

            // Replaced while its RPC runs, as soon as that has begun.
            let mortal = Some(Mortal { in_finish }).reloadable();
            let handle = mortal.clone();
            let replacing = on_start(move || handle.set(None));
            let before = contained_panics();
            assert_eq!(handler.trace((mortal, replacing)), saw);
            assert_eq!(contained_panics() - before, 1 + u64::from(in_finish));
        }
    }
}

/// Is discarded if it is not finished, and panics there if configured so.
struct Discarding {
    panics: bool,
    discarded: Arc<AtomicUsize>,
}

impl Tracer for Discarding {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), _: &RpcInfo) {}

    fn discard(&self, (): ()) {
        self.discarded.fetch_add(1, Relaxed);
        if self.panics {
            panic_on_purpose();
        }
    }
}

#[test]
fn a_panic_while_a_state_is_discarded_is_contained() {
    fn assert_all_discarded<T: Tracer>(stack: impl Fn([Discarding; 3]) -> T) {
        let discarded = Arc::new(AtomicUsize::new(0));
        let stack = stack([false, true, false].map(|panics| Discarding {
            panics,
            discarded: Arc::clone(&discarded),
        }));
        let handler = Handler::new([1], Course::OK);
        let saw = handler.untraced();
        let before = contained_panics();
        assert_eq!(handler.trace(stack.only_failed()), saw);
        assert_eq!(discarded.load(Relaxed), 3);
        assert_eq!(contained_panics() - before, 1);
    }
    let _alone = alone();
    assert_all_discarded(<(_, _, _)>::from);
    assert_all_discarded(Vec::from);
    assert_all_discarded(|all| Vec::from(all.map(Tracer::boxed)));
    assert_all_discarded(|[a, b, c]| (a.reloadable(), b.reloadable(), Some(c)));
}

/// Makes its state without the candidate, so that there may be no record.
struct Headless;

impl Tracer for Headless {
    type State = RuthlessState;

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> RuthlessState {
        RuthlessState
    }

    fn finish(&self, _state: RuthlessState, _: &RpcInfo) {}

    fn try_start(&self, _: &mut Candidate<'_>) -> Option<RuthlessState> {
        Some(RuthlessState)
    }
}

#[test]
fn the_drop_of_a_state_without_a_record_is_contained() {
    let _alone = alone();
    let handler = Handler::new([1], Course::OK);
    let saw = handler.untraced();
    let before = contained_panics();
    assert_eq!(handler.trace((Headless, Headless)), saw);
    assert_eq!(contained_panics() - before, 2);
}

/// Does something at the start of each RPC.
fn on_start(f: impl Fn() + Send + Sync + 'static) -> impl Tracer {
    struct OnStart<F>(F);

    impl<F: Fn() + Send + Sync + 'static> Tracer for OnStart<F> {
        type State = ();

        fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {
            (self.0)();
        }

        fn finish(&self, (): (), _: &RpcInfo) {}
    }

    OnStart(f)
}

#[cfg(feature = "tracing")]
#[test]
fn the_first_panic_of_each_hook_is_reported_with_both_names() {
    use std::{any::type_name, fmt};

    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span,
    };

    #[derive(Clone, Default)]
    struct Reports(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Reports {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
            // What reports can panic too.
            panic_on_purpose();
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() != "message" {
                self.0.push_str(&format!(" {}={value:?}", field.name()));
            }
        }
    }

    /// A type for each place.
    struct Careless<const PLACE: u8>(Hook);

    impl<const PLACE: u8> Tracer for Careless<PLACE> {
        type State = ();

        fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {
            if self.0 == Hook::Start {
                panic_on_purpose();
            }
        }

        fn finish(&self, (): (), _: &RpcInfo) {
            if self.0 == Hook::Finish {
                panic_on_purpose();
            }
        }
    }

    let _alone = alone();
    let reports = Reports::default();
    tracing::subscriber::with_default(reports.clone(), || {
        for hook in [Hook::Start, Hook::Finish] {
            for course in [Course::OK, Course::BodyEnd] {
                let handler = Handler::new([], course);
                handler.trace(vec![Careless::<0>(hook).boxed()]);
                handler.trace(Careless::<1>(hook));
                handler.trace((Careless::<2>(hook), ()));
            }
        }
    });
    let reported = std::mem::take(&mut *reports.0.lock().unwrap());
    let names = [
        type_name::<Careless<0>>(),
        type_name::<Careless<1>>(),
        type_name::<Careless<2>>(),
    ];
    let expected = ["start", "finish"]
        .into_iter()
        .flat_map(|hook| names.map(|tracer| format!("ERROR hook={hook:?} tracer={tracer:?}")));
    assert_eq!(reported, expected.collect::<Vec<_>>());

    // Closures of one function have one name, and still count separately; of a scope it is its own
    // name.
    struct Leaky<const PLACE: u8>;

    impl<const PLACE: u8> Tracer for Leaky<PLACE> {
        type State = ();

        fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

        fn finish(&self, (): (), _: &RpcInfo) {}

        fn scope(&self, (): &(), _: &RpcInfo) -> Option<Arc<dyn Scope>> {
            Some(Arc::new(Self))
        }
    }

    impl<const PLACE: u8> Scope for Leaky<PLACE> {
        fn run(&self, f: &mut dyn FnMut()) {
            f();
            panic_on_purpose();
        }
    }

    fn name_of<T>(_: &T) -> &'static str {
        type_name::<T>()
    }

    let (one, other) = (
        on_finish(|_| panic_on_purpose()),
        on_finish(|_| panic_on_purpose()),
    );
    let names = [name_of(&one), name_of(&other)];
    tracing::subscriber::with_default(reports.clone(), || {
        Handler::new([], Course::OK).trace((one, other, Leaky::<0>, Leaky::<1>));
    });
    let mut reported = std::mem::take(&mut *reports.0.lock().unwrap());
    let mut expected = [
        ("finish", names[0]),
        ("finish", names[1]),
        ("scope", type_name::<Leaky<0>>()),
        ("scope", type_name::<Leaky<1>>()),
    ]
    .map(|(hook, tracer)| format!("ERROR hook={hook:?} tracer={tracer:?}"));
    reported.sort();
    expected.sort();
    assert_eq!(reported, expected);
}
