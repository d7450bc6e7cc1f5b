//! A tracer that panics, in each of its hooks and each kind of ending: the RPC and the tracers
//! beside it do not notice.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use crate::{
    alone,
    exchange::{Ends, Exchange, scripted_panic},
};
use tower_tracer::{
    Level, RequestParts, RpcInfo, Tracer, on_finish,
    testing::RecordingTracer,
    tracer::{BoxTracer, Candidate, Either, Scope, StreamEvent, contained_panics},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    TryStart,
    /// After the inner tracer has started.
    TryStartLate,
    Level,
    WantsEvents,
    Start,
    Scope,
    ScopeBefore,
    ScopeAfter,
    Event,
    Finish,
    /// In the drop of the state, at the end of `finish`.
    DropFinished,
    /// In the drop of the state, which is not finished.
    DropUnfinished,
    /// In the predicate of `finish_if`.
    Wanted,
    None,
}

const HOOKS: [Hook; 13] = [
    Hook::TryStart,
    Hook::TryStartLate,
    Hook::Level,
    Hook::WantsEvents,
    Hook::Start,
    Hook::Scope,
    Hook::ScopeBefore,
    Hook::ScopeAfter,
    Hook::Event,
    Hook::Finish,
    Hook::DropFinished,
    Hook::DropUnfinished,
    Hook::Wanted,
];

/// Panics in one hook; counts its starts and finishes.
#[derive(Clone)]
struct Panicky {
    hook: Hook,
    started: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
}

struct State(Hook);

impl Panicky {
    fn new(hook: Hook) -> Self {
        Self {
            hook,
            started: Arc::default(),
            finished: Arc::default(),
        }
    }

    fn at(&self, hook: Hook) {
        if self.hook == hook {
            scripted_panic();
        }
    }

    /// With what its hook needs around it.
    fn boxed_whole(&self) -> BoxTracer {
        let panicky = self.clone();
        match self.hook {
            Hook::DropUnfinished => panicky.finish_if(|_| false).boxed(),
            Hook::Wanted => panicky.finish_if(|_| scripted_panic()).boxed(),
            _ => panicky.boxed(),
        }
    }
}

impl Tracer for Panicky {
    type State = State;

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> State {
        self.at(Hook::Start);
        self.started.fetch_add(1, Relaxed);
        State(self.hook)
    }

    fn finish(&self, _state: State, _: &RpcInfo) {
        self.finished.fetch_add(1, Relaxed);
        self.at(Hook::Finish);
    }

    fn level(&self) -> Level {
        self.at(Hook::Level);
        Level::Detailed
    }

    fn wants_events(&self) -> bool {
        self.at(Hook::WantsEvents);
        true
    }

    fn on_event(&self, _: &mut State, _: &RpcInfo, _: &StreamEvent<'_>) {
        self.at(Hook::Event);
    }

    fn scope(&self, _: &State, _: &RpcInfo) -> Option<Arc<dyn Scope>> {
        self.at(Hook::Scope);
        Some(Arc::new(self.clone()))
    }

    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<State> {
        self.at(Hook::TryStart);
        let state = candidate.start(self);
        self.at(Hook::TryStartLate);
        state
    }
}

impl Scope for Panicky {
    fn run(&self, f: &mut dyn FnMut()) {
        self.at(Hook::ScopeBefore);
        f();
        self.at(Hook::ScopeAfter);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let here = matches!(self.0, Hook::DropFinished | Hook::DropUnfinished);
        // While another panic unwinds, a second one aborts the process.
        if here && !thread::panicking() {
            scripted_panic();
        }
    }
}

/// Runs each exchange with a tracer that panics at each hook, in each place among recorders.
fn assert_contained<T: Tracer>(count: usize, stack: impl Fn(Vec<BoxTracer>) -> T) {
    for ends in Ends::ALL {
        let exchange = Exchange::new([1, 2], ends);
        let bare = RecordingTracer::new();
        let saw = exchange.run(bare.clone());
        for hook in HOOKS {
            for place in 0..count {
                let case = format!("{hook:?} at {place} of {count}, {ends:?}");
                let panicky = Panicky::new(hook);
                let recorders: Vec<_> = (1..count).map(|_| RecordingTracer::new()).collect();
                let mut parts: Vec<_> = recorders.iter().map(|r| r.clone().boxed()).collect();
                parts.insert(place, panicky.boxed_whole());

                let before = contained_panics();
                assert_eq!(exchange.run(stack(parts)), saw, "{case}");
                let contained = contained_panics() - before;

                for recorder in &recorders {
                    assert_eq!(recorder.log(), bare.log(), "{case}");
                    assert_eq!(recorder.started().len(), 1, "{case}");
                    assert_eq!(recorder.finished().len(), 1, "{case}");
                    assert_eq!(recorder.scopes_entered(), bare.scopes_entered(), "{case}");
                }
                let started = panicky.started.load(Relaxed);
                let finished = panicky.finished.load(Relaxed);
                match hook {
                    Hook::TryStart | Hook::Start => assert_eq!((started, finished), (0, 0)),
                    // Whether these stop the start depends on who asks.
                    Hook::Level | Hook::WantsEvents => assert_eq!(started, finished),
                    Hook::TryStartLate | Hook::DropUnfinished | Hook::Wanted => {
                        assert_eq!((started, finished), (1, 0));
                    }
                    _ => assert_eq!((started, finished), (1, 1), "{case}"),
                }
                match hook {
                    Hook::Event | Hook::WantsEvents | Hook::ScopeBefore | Hook::ScopeAfter => {
                        assert!(contained >= 1, "{case}");
                    }
                    _ => assert_eq!(contained, 1, "{case}"),
                }
            }
        }
    }
}

#[test]
fn a_panic_of_one_is_contained_in_a_tuple() {
    let _alone = alone();
    assert_contained(3, |parts| {
        let [a, b, c]: [_; 3] = parts.try_into().unwrap();
        (a, b, c)
    });
}

#[test]
fn a_panic_of_one_is_contained_in_a_vector() {
    let _alone = alone();
    assert_contained(1, |parts| parts);
    assert_contained(4, |parts| parts);
}

#[test]
fn a_panic_of_one_is_contained_in_nested_stacks() {
    let _alone = alone();
    assert_contained(3, |parts| {
        let [a, b, c]: [_; 3] = parts.try_into().unwrap();
        (
            Some(vec![a]),
            Either::<_, ()>::Left((Arc::new(b), c.reloadable())),
        )
    });
}

/// A user's wrapper that overrides only what it must.
struct Plain<T>(T);

impl<T: Tracer> Tracer for Plain<T> {
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

#[test]
fn a_stack_that_starts_as_one_also_contains_its_parts() {
    let _alone = alone();
    for ends in Ends::ALL {
        let exchange = Exchange::new([1, 2], ends);
        let bare = RecordingTracer::new();
        let saw = exchange.run(bare.clone());
        for hook in HOOKS {
            let panicky = || Panicky::new(hook).boxed_whole();
            let recorders: [RecordingTracer; 2] = Default::default();
            let [first, last] = recorders.clone();
            let before = contained_panics();
            let stack = Plain((panicky(), first, vec![panicky(), last.boxed()]));
            assert_eq!(exchange.run(stack), saw, "{hook:?}, {ends:?}");
            // What it leaves as it is does not call the parts' `try_start`.
            let asked = !matches!(hook, Hook::TryStart | Hook::TryStartLate);
            assert_eq!(
                contained_panics() - before >= 2,
                asked,
                "{hook:?}, {ends:?}"
            );
            for recorder in recorders {
                assert_eq!(recorder.log(), bare.log(), "{hook:?}, {ends:?}");
            }
        }
    }
}

#[test]
fn well_behaved_tracers_count_nothing() {
    let _alone = alone();
    let before = contained_panics();
    for ends in Ends::ALL {
        let panicky = Panicky::new(Hook::None);
        Exchange::new([1], ends).run((panicky.clone(), RecordingTracer::new()));
        assert_eq!(panicky.finished.load(Relaxed), 1);
    }
    assert_eq!(contained_panics(), before);
}

#[test]
fn panics_of_all_at_once_are_contained() {
    let _alone = alone();
    for ends in Ends::ALL {
        let exchange = Exchange::new([1], ends);
        let saw = exchange.run(());
        let all: Vec<_> = HOOKS
            .iter()
            .map(|hook| Panicky::new(*hook).boxed_whole())
            .collect();
        assert_eq!(exchange.run(all), saw);
    }
}

/// Its state panics whenever it is dropped, also while another panic unwinds.
#[derive(Clone)]
struct Ruthless;

struct RuthlessState;

impl Drop for RuthlessState {
    fn drop(&mut self) {
        scripted_panic();
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
        let exchange = Exchange::new([1], Ends::Trailers(0));
        let saw = exchange.run(());
        let before = contained_panics();
        assert_eq!(exchange.run(tracer.finish_if(|_| false)), saw);
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
            scripted_panic();
        }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        scripted_panic();
    }
}

#[test]
fn the_drop_of_a_tracer_that_an_rpc_holds_last_is_contained() {
    let _alone = alone();
    for ends in Ends::ALL {
        let exchange = Exchange::new([1], ends);
        let saw = exchange.run(());
        for in_finish in [false, true] {
            let before = contained_panics();
            assert_eq!(exchange.run(Mortal { in_finish }), saw);
            assert_eq!(contained_panics() - before, 1 + u64::from(in_finish));

            // Replaced while its RPC runs, as soon as that has begun.
            let mortal = Some(Mortal { in_finish }).reloadable();
            let handle = mortal.clone();
            let replacing = on_start(move || handle.set(None));
            let before = contained_panics();
            assert_eq!(exchange.run((mortal, replacing)), saw);
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
            scripted_panic();
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
        let exchange = Exchange::new([1], Ends::Trailers(0));
        let saw = exchange.run(());
        let before = contained_panics();
        assert_eq!(exchange.run(stack.only_failed()), saw);
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
    let exchange = Exchange::new([1], Ends::Trailers(0));
    let saw = exchange.run(());
    let before = contained_panics();
    assert_eq!(exchange.run((Headless, Headless)), saw);
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
            scripted_panic();
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
                scripted_panic();
            }
        }

        fn finish(&self, (): (), _: &RpcInfo) {
            if self.0 == Hook::Finish {
                scripted_panic();
            }
        }
    }

    let _alone = alone();
    let reports = Reports::default();
    tracing::subscriber::with_default(reports.clone(), || {
        for hook in [Hook::Start, Hook::Finish] {
            for ends in [Ends::Trailers(0), Ends::BodyEnd] {
                let exchange = Exchange::new([], ends);
                exchange.run(vec![Careless::<0>(hook).boxed()]);
                exchange.run(Careless::<1>(hook));
                exchange.run((Careless::<2>(hook), ()));
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
            scripted_panic();
        }
    }

    fn name_of<T>(_: &T) -> &'static str {
        type_name::<T>()
    }

    let (one, other) = (
        on_finish(|_| scripted_panic()),
        on_finish(|_| scripted_panic()),
    );
    let names = [name_of(&one), name_of(&other)];
    tracing::subscriber::with_default(reports.clone(), || {
        Exchange::new([], Ends::Trailers(0)).run((one, other, Leaky::<0>, Leaky::<1>));
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
