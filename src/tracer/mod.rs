//! The parts of a tracer: what its hooks get, what it can return, and what makes one tracer of another.

pub(crate) mod adapters;
mod begin_rpc;
mod boxed;
mod candidate;
mod context;
mod direction_meter;
mod group;
pub(crate) mod request;
mod scope;
mod stream_event;

use std::{sync::Arc, time::Duration};

pub use adapters::{Either, Filter, FinishIf, InvalidRatio, OnFinish, Reload};
pub(crate) use begin_rpc::Describe;
pub use boxed::BoxTracer;
pub use candidate::Candidate;
pub(crate) use context::Context;
pub(crate) use direction_meter::DirectionMeter;
pub(crate) use request::{RequestObserver, RequestParts, TracedRequest};
pub(crate) use scope::Scopes;
pub(crate) use stream_event::EventSink;
pub use stream_event::{Message, StreamEvent, StreamEventKind};

use crate::{
    panics::contain,
    rpc::{Level, RpcInfo},
};
pub use crate::{panics::contained_panics, rpc::scope::Scope};

/// Sees RPCs begin and end. This is what a user implements.
///
/// [`start`](Self::start) and [`finish`](Self::finish) are all that most tracers need. What `start`
/// returns is the tracer's state of this RPC, and `finish` gets it back, exactly once, however the
/// RPC ends: a response, an error, a cancelled call, a panic.
///
/// ```
/// use tower_tracer::{RequestParts, RpcInfo, Tracer};
///
/// struct Print;
///
/// impl Tracer for Print {
///     type State = ();
///
///     fn start(&self, _rpc: &RpcInfo, _request: &mut RequestParts<'_>) {}
///
///     fn finish(&self, (): (), rpc: &RpcInfo) {
///         let stats = rpc.stats();
///         println!(
///             "{} {:?} {:?} {:?} sent {:?} B",
///             rpc.full_method().unwrap_or("unknown"),
///             stats.status(),
///             stats.ending(),
///             stats.duration(),
///             stats.sent().message_bytes(),
///         );
///     }
/// }
/// ```
///
/// # Panics
///
/// A panic in a hook is contained: it changes neither the RPC nor other tracers, and is
/// [counted](contained_panics). A tracer whose `start` panicked gets no `finish`. A panic is also
/// contained in the drop of a state that is not finished, and in the drop of a tracer whose last
/// holder was an RPC. Containment needs unwinding: with `panic = "abort"` a panic ends the process,
/// here as anywhere. In Rust, a panic in a drop while another one unwinds also ends the process:
/// the drop of a state while a panic of `finish` unwinds through it, or two tracers of one stack
/// that both panic when dropped.
///
/// # Combinators
///
/// The hooks come first below. The methods after them make a tracer from a tracer: they are not
/// meant to be implemented.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tracer",
    label = "this is given to the layer as its tracer",
    note = "implement `tower_tracer::Tracer` for it: a `State`, `start` and `finish`",
    note = "a closure becomes a tracer by `tower_tracer::on_finish(|rpc| …)`",
    note = "up to 12 tracers go into one layer as a tuple: `TracerLayer::new((a, b))`; more as nested \
            tuples, or as a `Vec` of `Tracer::boxed` ones"
)]
pub trait Tracer: Send + Sync + 'static {
    /// What a tracer carries from `start` to `finish`, such as a span or a header's value; `()` if
    /// nothing is needed. What the record has, such as the time of the start, need not be carried.
    type State: Send + 'static;

    /// Called once, before the request is dispatched to the inner service.
    ///
    /// The headers of `request` can be changed: a client's tracer injects its context, a server's
    /// extracts it.
    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State;

    /// Called once, when the RPC is over: response complete, failed, dropped, or panicked. Status,
    /// duration and all counters are known.
    ///
    /// It can be called in a `drop`, on any thread, also outside of a runtime: it must not block.
    fn finish(&self, state: Self::State, rpc: &RpcInfo);

    /// Called instead of [`finish`](Self::finish) if a tracer around this one decided against it,
    /// as [`finish_if`](Self::finish_if) does. Drops the state, and contains a panic of that drop.
    ///
    /// A tracer made of several tracers overrides this, so that each is contained by itself.
    fn discard(&self, state: Self::State) {
        contain::<Self, _>("drop", || drop(state));
    }

    /// The level this tracer needs: its RPCs are recorded at the higher one of this and the layer's.
    fn level(&self) -> Level {
        Level::Base
    }

    /// Whether [`on_event`](Self::on_event) is called. If no tracer wants events, a message is only
    /// counted.
    fn wants_events(&self) -> bool {
        false
    }

    /// Called for each message, and for headers, half-close and trailers, as they pass the layer,
    /// between `start` and `finish`; only if [`wants_events`](Self::wants_events).
    ///
    /// Request and response can be on different threads; calls for one RPC never overlap, so it must
    /// not block: the other direction, and `finish`, would wait.
    ///
    /// ```
    /// use tower_tracer::{RequestParts, RpcInfo, Tracer, tracer::{StreamEvent, StreamEventKind}};
    ///
    /// /// Reports the RPCs that received a message of more than a mebibyte.
    /// struct Largest;
    ///
    /// impl Tracer for Largest {
    ///     type State = u64;
    ///
    ///     fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> u64 {
    ///         0
    ///     }
    ///
    ///     fn wants_events(&self) -> bool {
    ///         true
    ///     }
    ///
    ///     fn on_event(&self, largest: &mut u64, _: &RpcInfo, event: &StreamEvent<'_>) {
    ///         if let StreamEventKind::RequestMessage(message) = event.kind {
    ///             *largest = message.size.max(*largest);
    ///         }
    ///     }
    ///
    ///     fn finish(&self, largest: u64, rpc: &RpcInfo) {
    ///         if largest > 1 << 20 {
    ///             println!("{:?} received a message of {largest} bytes", rpc.full_method());
    ///         }
    ///     }
    /// }
    /// ```
    fn on_event(&self, state: &mut Self::State, rpc: &RpcInfo, event: &StreamEvent<'_>) {
        let _ = (state, rpc, event);
    }

    /// Called while an RPC runs, if the layer is configured with
    /// [`progress_every`](crate::TracerLayer::progress_every): after something has passed, and at most once
    /// in each interval. [`Stats`](crate::Stats) has the counts so far.
    ///
    /// A stream on which nothing passes is not reported: there is no timer. The hook runs within the poll of
    /// a body, and calls for one RPC never overlap, so it must not block. A panic in it is contained.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use tower_tracer::{RequestParts, RpcInfo, Tracer, TracerLayer};
    ///
    /// struct Watch;
    ///
    /// impl Tracer for Watch {
    ///     type State = ();
    ///     fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}
    ///     fn finish(&self, (): (), _: &RpcInfo) {}
    ///
    ///     fn progress(&self, (): &mut (), rpc: &RpcInfo) {
    ///         println!("still running: {rpc}");
    ///     }
    /// }
    ///
    /// let layer = TracerLayer::new(Watch).progress_every(Duration::from_secs(10));
    /// # let _ = layer;
    /// ```
    fn progress(&self, state: &mut Self::State, rpc: &RpcInfo) {
        let _ = (state, rpc);
    }

    /// Called once, after `start`. Returns what is to be current wherever code of this RPC runs,
    /// such as a span. See [`Scope`].
    fn scope(&self, state: &Self::State, rpc: &RpcInfo) -> Option<Arc<dyn Scope>> {
        let _ = (state, rpc);
        None
    }

    /// Decides whether this tracer takes part in an RPC, and starts it if so; called once, before
    /// anything else.
    ///
    /// Override it to decline a request: if all tracers of a layer decline, there is no record, and
    /// the request passes as if there were no layer. A tracer that wraps another one must call the
    /// inner `try_start` here, or the inner one cannot decline, as a [`filter`](Self::filter) does.
    ///
    /// If it panics, this tracer takes no part, and a state that it had made is dropped. If a
    /// tracer had [started](Candidate::start) before, the record and the scope stay.
    #[inline]
    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Self::State> {
        candidate.start(self)
    }

    /// Takes part only in the RPCs that are `wanted`. It is called once for each request, before
    /// anything else is done: a request that all tracers of a layer decline passes as if there were
    /// no layer.
    ///
    /// On an `Option`, `Some(tracer).filter(…)` is the standard library's method. Filter first:
    /// `Some(tracer.filter(…))`.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use tower_tracer::{Tracer, on_finish};
    ///
    /// let (seen, all_seen) = mpsc::channel();
    /// let tracer = on_finish(move |rpc| drop(seen.send(rpc.path().to_owned())))
    ///     .filter(|rpc| !rpc.is_health_check() && !rpc.is_reflection());
    /// # mod doc { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/call.rs")); }
    /// # doc::call(tracer, [
    /// #     "/grpc.health.v1.Health/Check",
    /// #     "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    /// #     "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    /// #     "/shop.Cart/Add",
    /// # ]);
    ///
    /// // A health check, two questions for reflection, and a call of the cart later:
    /// assert_eq!(all_seen.iter().collect::<Vec<_>>(), ["/shop.Cart/Add"]);
    /// ```
    fn filter<P>(self, wanted: P) -> Filter<Self, P>
    where
        Self: Sized,
        P: Fn(&RequestParts<'_>) -> bool + Send + Sync + 'static,
    {
        Filter::new(self, wanted)
    }

    /// Takes part in this share of the RPCs, chosen at random.
    ///
    /// It is decided once per RPC, for its descendants too: the attempts of a call are chosen with
    /// the call, and the calls that a handler makes with the RPC that it serves, even if that RPC
    /// was declined and has no record. All samplers of a process use the same
    /// [number](RequestParts::draw), so a larger ratio also chooses what a smaller one chooses.
    ///
    /// A declined RPC has no record, so only code in its call, its future and its response's body
    /// inherits the decision. Code in another task, such as a service behind tower's `Buffer`, and
    /// in the request's body, which the transport polls, is decided again.
    ///
    /// Decisions of other processes are not used. To sample whole traces across processes, use
    /// OpenTelemetry's samplers, which also propagate what they do not record. A tracer that
    /// declines injects nothing.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use tower_tracer::{Tracer, on_finish};
    ///
    /// # fn main() -> Result<(), tower_tracer::tracer::InvalidRatio> {
    /// let (seen, all_seen) = mpsc::channel();
    /// let tracer = (
    ///     on_finish(|rpc| println!("{rpc:?}")).sample(0.01)?,
    ///     on_finish(move |rpc| drop(seen.send(rpc.path().to_owned()))).sample(1.0)?,
    /// );
    /// # mod doc { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/call.rs")); }
    /// # doc::call(tracer, ["/shop.Cart/Add"]);
    ///
    /// // A call of the cart later:
    /// assert_eq!(all_seen.iter().collect::<Vec<_>>(), ["/shop.Cart/Add"]);
    ///
    /// let error = on_finish(|_| {}).sample(1.5).unwrap_err();
    /// assert_eq!(error.to_string(), "a sampling ratio is a number from 0 to 1, not 1.5");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If `ratio` is not from 0 to 1.
    fn sample(
        self,
        ratio: f64,
    ) -> Result<
        Filter<Self, impl Fn(&RequestParts<'_>) -> bool + Clone + Send + Sync + 'static>,
        InvalidRatio,
    >
    where
        Self: Sized,
    {
        InvalidRatio::check(ratio)?;
        Ok(self.filter(move |rpc| rpc.draw() < ratio))
    }

    /// Finishes only the RPCs that are `wanted`. It is called once for each, when the RPC is over
    /// and its record complete.
    ///
    /// The decision comes only then: `start`, `on_event` and `scope` are called for every RPC. If
    /// an RPC is not wanted, its state is dropped instead of finished. A state that does its work
    /// when it is dropped, such as a span, does it still. If `wanted` panics, the RPC is not
    /// wanted.
    ///
    /// ```
    /// use std::{sync::mpsc, time::Duration};
    /// use tower_tracer::{Tracer, on_finish};
    ///
    /// let (seen, all_seen) = mpsc::channel();
    /// let tracer = on_finish(move |rpc| drop(seen.send(rpc.path().to_owned()))).finish_if(|rpc| {
    ///     let stats = rpc.stats();
    ///     stats.failed() || stats.elapsed() >= Duration::from_millis(250)
    /// });
    /// # mod doc { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/call.rs")); }
    /// # doc::call(tracer, ["/shop.Cart/Add", "/shop.Cart/Slow", "/shop.Cart/Fail"]);
    ///
    /// // Three calls later, of which one was slow and one failed:
    /// assert_eq!(all_seen.iter().collect::<Vec<_>>(), ["/shop.Cart/Slow", "/shop.Cart/Fail"]);
    /// ```
    fn finish_if<P>(self, wanted: P) -> FinishIf<Self, P>
    where
        Self: Sized,
        P: Fn(&RpcInfo) -> bool + Send + Sync + 'static,
    {
        FinishIf::new(self, wanted)
    }

    /// Finishes only the RPCs that took this long or longer; see [`finish_if`](Self::finish_if).
    ///
    /// ```
    /// use std::{sync::mpsc, time::Duration};
    /// use tower_tracer::{Tracer, on_finish};
    ///
    /// let (seen, all_seen) = mpsc::channel();
    /// let tracer = on_finish(move |rpc| drop(seen.send(rpc.path().to_owned())))
    ///     .slower_than(Duration::from_millis(250));
    /// # mod doc { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/call.rs")); }
    /// # doc::call(tracer, ["/shop.Cart/Add", "/shop.Cart/Slow"]);
    ///
    /// // Two calls later, of which one took 300 milliseconds:
    /// assert_eq!(all_seen.iter().collect::<Vec<_>>(), ["/shop.Cart/Slow"]);
    /// ```
    fn slower_than(
        self,
        threshold: Duration,
    ) -> FinishIf<Self, impl Fn(&RpcInfo) -> bool + Clone + Send + Sync + 'static>
    where
        Self: Sized,
    {
        self.finish_if(move |rpc| rpc.stats().elapsed() >= threshold)
    }

    /// Finishes only the RPCs that [failed](crate::Stats::failed); see
    /// [`finish_if`](Self::finish_if).
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use tower_tracer::{Tracer, on_finish};
    ///
    /// let (seen, all_seen) = mpsc::channel();
    /// let tracer = on_finish(move |rpc| drop(seen.send(rpc.path().to_owned()))).only_failed();
    /// # mod doc { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/call.rs")); }
    /// # doc::call(tracer, ["/shop.Cart/Add", "/shop.Cart/Fail"]);
    ///
    /// // Two calls later, of which one failed:
    /// assert_eq!(all_seen.iter().collect::<Vec<_>>(), ["/shop.Cart/Fail"]);
    /// ```
    fn only_failed(
        self,
    ) -> FinishIf<Self, impl Fn(&RpcInfo) -> bool + Clone + Send + Sync + 'static>
    where
        Self: Sized,
    {
        self.finish_if(|rpc| rpc.stats().failed())
    }

    /// Can be replaced by another tracer of its type while it is in use. Give a clone of the
    /// returned tracer to the layer, and keep another to [`set`](Reload::set) the new one. Running
    /// RPCs keep the tracer they started with.
    ///
    /// To replace it by a tracer of another type, use a [`BoxTracer`] or a `Vec` of them. Each RPC
    /// takes a read lock for the time of one pointer clone.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use tower_tracer::{Tracer, on_finish};
    ///
    /// let (seen, all_seen) = mpsc::channel();
    /// let say = |word: &'static str| {
    ///     let seen = seen.clone();
    ///     on_finish(move |_| drop(seen.send(word))).boxed()
    /// };
    /// let tracer = say("before").reloadable();
    /// # mod doc { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/call.rs")); }
    /// # doc::call(tracer.clone(), ["/shop.Cart/Add"]);
    ///
    /// // A call later:
    /// tracer.set(say("after"));
    /// # doc::call(tracer.clone(), ["/shop.Cart/Add"]);
    ///
    /// // Another call later:
    /// assert_eq!(all_seen.try_iter().collect::<Vec<_>>(), ["before", "after"]);
    /// ```
    fn reloadable(self) -> Reload<Self>
    where
        Self: Sized,
    {
        Reload::new(self)
    }

    /// Erases the tracer's type, for stacks that are chosen at run time and for structs that name
    /// the type of a traced service. See [`BoxTracer`] for an example and for what it costs.
    fn boxed(self) -> BoxTracer
    where
        Self: Sized,
    {
        BoxTracer::new(self)
    }
}
