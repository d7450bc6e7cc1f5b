//! The tracer: what a user writes, and how several become one.

mod candidate;
mod compose;
mod contain;
mod meter;
mod request;
mod scope;
mod wire_event;

use std::sync::Arc;

pub use candidate::Candidate;
pub(crate) use contain::contain;
pub use contain::contained_panics;
pub(crate) use meter::Meter;
pub use request::{RequestObserver, RequestParts, TracedRequest};
pub use scope::Scope;
pub(crate) use scope::Scopes;
pub(crate) use wire_event::EventSink;
pub use wire_event::{Message, WireEvent, WireEventKind};

use crate::rpc::{Level, RpcInfo};

/// Sees RPCs begin and end. This is what a user implements.
///
/// [`start`](Self::start) and [`finish`](Self::finish) are all that most tracers need. What `start`
/// returns is the tracer's state of this RPC, and `finish` gets it back, exactly once, whatever
/// happens: a response, an error, a cancelled call, a panic.
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
///             stats.cost(),
///             stats.sent().message_bytes(),
///         );
///     }
/// }
/// ```
///
/// # Panics
///
/// A panic in a hook is contained: it changes neither the RPC nor other tracers, and is
/// [counted](contained_panics). A tracer whose `start` panicked gets no `finish`. Containment needs
/// unwinding; with `panic = "abort"` a panic is the end of the process, here as anywhere.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tracer",
    label = "this is given to the layer as its tracer",
    note = "implement `tower_tracer::Tracer` for it: a `State`, `start` and `finish`",
    note = "several tracers go into one layer as a tuple: `TracerLayer::new((a, b))`"
)]
pub trait Tracer: Send + Sync + 'static {
    /// What a tracer carries from `start` to `finish`, such as a span or a header's value; `()` where
    /// nothing is needed. What the record knows, such as the time of the start, need not be carried.
    type State: Send + 'static;

    /// Called once, before the request is dispatched to the inner service.
    ///
    /// The headers of `request` can be changed: a client's tracer injects its context, a server's
    /// extracts it.
    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State;

    /// Called once, when the RPC is over: response complete, failed, dropped, or panicked. Status,
    /// cost and all counters are known.
    ///
    /// It can be called in a `drop`, on any thread, also outside of a runtime: it must not block.
    fn finish(&self, state: Self::State, rpc: &RpcInfo);

    /// The level this tracer needs: its RPCs are recorded at the higher one of this and the layer's.
    fn level(&self) -> Level {
        Level::Base
    }

    /// Whether [`event`](Self::event) is to be called. Where no tracer wants events, nothing is done
    /// per message but counting.
    fn wants_events(&self) -> bool {
        false
    }

    /// Called for each message, and for headers, half-close and trailers, as they pass the layer,
    /// between `start` and `finish`; only where [`wants_events`](Self::wants_events).
    ///
    /// Request and response can be on different threads; calls for one RPC never overlap.
    ///
    /// ```
    /// use tower_tracer::{RequestParts, RpcInfo, Tracer, WireEvent, WireEventKind};
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
    ///     fn event(&self, largest: &mut u64, _: &RpcInfo, event: &WireEvent<'_>) {
    ///         if let WireEventKind::RequestMessage(message) = event.kind {
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
    fn event(&self, state: &mut Self::State, rpc: &RpcInfo, event: &WireEvent<'_>) {
        let _ = (state, rpc, event);
    }

    /// Called once, after `start`: what is to be current wherever code of this RPC runs, such as a
    /// span. See [`Scope`].
    fn scope(&self, state: &Self::State, rpc: &RpcInfo) -> Option<Arc<dyn Scope>> {
        let _ = (state, rpc);
        None
    }

    /// Decides whether this tracer takes part in an RPC, and starts it if so; called once, before
    /// anything else.
    ///
    /// A tracer that wraps another one overrides this to decline a request: where all tracers of a
    /// layer decline, there is no record, and the request passes as if there were no layer.
    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Self::State> {
        candidate.start(self)
    }
}
