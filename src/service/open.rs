use std::{
    any::Any,
    fmt,
    mem::{self, ManuallyDrop},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    TracedResponse,
    cause::AsError,
    ending::{Cause, conclude},
    layer::{Settings, Shared},
};
use crate::{
    rpc::{Direction, Draw, RpcInfo, Slot, Status, TrafficCell},
    tracer::{EventSink, Meter, Scopes, Tracer, WireEvent, WireEventKind, contain},
};

/// An RPC that is not over: the one guard whose end is the call of `finish`.
///
/// It moves from the service to the future to the response's body. A
/// [`TracedResponse`](crate::TracedResponse) of a user's own gets it and says when the RPC is over;
/// dropping it says that the RPC was cancelled.
pub struct OpenRpc<T: Tracer>(
    // What is open is dropped by `close` alone, so the drop of what is closed is one comparison.
    ManuallyDrop<Guard<T>>,
);

enum Guard<T: Tracer> {
    Open(Open<T>),
    /// Its tracers are finished, and what is left of its code still runs in their scopes.
    Over(Scopes),
    /// Nobody traces it. Where all tracers declined, one of them by a draw: what RPCs under it
    /// inherit.
    Closed(Option<Draw>),
}

// In this order, so that the slot, which was just written after a poll, is not read as a half of
// something wider when the guard moves: a processor waits for that.
#[repr(C)]
struct Open<T: Tracer> {
    scopes: Scopes,
    traced: Traced<T>,
    slot: Slot,
}

/// The tracer and its state: here, or where both bodies reach them when events are wanted.
enum Traced<T: Tracer> {
    Here(Option<T::State>, Arc<Shared<T>>),
    Watched(Arc<Watched<T>>),
}

/// A state that events are reported to.
struct Watched<T: Tracer> {
    state: Mutex<Option<T::State>>,
    rpc: RpcInfo,
    shared: Arc<Shared<T>>,
}

impl<T: Tracer> OpenRpc<T> {
    /// For an RPC that nobody traces.
    #[inline]
    pub(super) const fn closed() -> Self {
        Self::declined(None)
    }

    /// For an RPC that all tracers declined, one of them by this draw.
    #[inline]
    pub(super) const fn declined(draw: Option<Draw>) -> Self {
        Self(ManuallyDrop::new(Guard::Closed(draw)))
    }

    /// The guard of an RPC whose tracers have started.
    #[inline]
    pub(super) fn new(
        shared: Arc<Shared<T>>,
        rpc: RpcInfo,
        state: Option<T::State>,
        scopes: Scopes,
    ) -> Self {
        Self(ManuallyDrop::new(Guard::Open(Open {
            slot: Slot::new(rpc),
            scopes,
            traced: Traced::Here(state, shared),
        })))
    }

    /// From here on the tracer hears of events, through what is returned.
    #[cold]
    pub(super) fn watch(&mut self) -> Option<Arc<dyn EventSink>> {
        let Guard::Open(open) = &mut *self.0 else {
            return None;
        };
        let Traced::Here(state, shared) = &mut open.traced else {
            return None;
        };
        let watched = Arc::new(Watched {
            state: Mutex::new(state.take()),
            rpc: open.slot.rpc()?.clone(),
            shared: Arc::clone(shared),
        });
        open.traced = Traced::Watched(Arc::clone(&watched));
        Some(watched)
    }

    /// The record of the RPC; `None` where no tracer takes part.
    #[must_use]
    #[inline]
    pub fn rpc(&self) -> Option<&RpcInfo> {
        match &*self.0 {
            Guard::Open(open) => open.slot.rpc(),
            Guard::Over(_) | Guard::Closed(_) => None,
        }
    }

    /// Counts a message of the response, of this size as it stands on the wire.
    pub fn message(&mut self, size: u64, compressed: bool) {
        if let Some(meter) = self.meter() {
            meter.observe(true);
            meter.bytes(size);
            meter.message(size, compressed);
        }
    }

    /// The RPC is over, with this status, or with none that is known.
    pub fn finish(mut self, status: impl Into<Option<Status>>) {
        if let Some(meter) = self.meter() {
            meter.observe(true);
            meter.complete();
        }
        self.end(&Cause::Told(status.into()));
    }

    /// Whether the drop of what is left of its service's code is nothing to anybody.
    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.0, Guard::Closed(_))
    }

    /// Whether its service's code runs as if there were no layer.
    #[inline]
    pub(super) fn is_bare(&self) -> bool {
        matches!(*self.0, Guard::Closed(None))
    }

    /// Hands the record to the response, if the layer was told so.
    #[inline]
    pub(super) fn tell_caller(&self, response: &mut impl TracedResponse) {
        if let Guard::Open(open) = &*self.0
            && open.traced.shared().settings.tell_caller
            && let Some(rpc) = open.slot.rpc()
        {
            response.carry(rpc);
        }
    }

    /// Takes the guard; the RPC goes on.
    #[inline]
    pub(super) fn take(&mut self) -> Self {
        let closed = match &*self.0 {
            Guard::Open(_) | Guard::Over(_) => None,
            Guard::Closed(draw) => *draw,
        };
        mem::replace(self, Self::declined(closed))
    }

    /// Runs code of the RPC's service, with its record and its tracers' scopes current. Where it
    /// panics, the RPC is over, and the panic goes on once `last` has been done for it. What the code
    /// gives it puts where it is wanted by itself: a result would be moved once more.
    #[inline]
    pub(super) fn run(&mut self, f: impl FnOnce(), last: impl FnOnce(&Meter<'_>)) {
        let caught = match &mut *self.0 {
            Guard::Open(open) if open.scopes.is_empty() => {
                open.slot.swap();
                let caught = catch_unwind(AssertUnwindSafe(f));
                open.slot.swap();
                caught
            }
            Guard::Open(open) => open.run_scoped(f),
            Guard::Over(scopes) => return scopes.run_rest(f),
            Guard::Closed(None) => return f(),
            Guard::Closed(Some(draw)) => return draw.enter(f),
        };
        if let Err(panic) = caught {
            self.panicked(panic, last);
        }
    }

    #[cold]
    fn panicked(&mut self, panic: Box<dyn Any + Send>, last: impl FnOnce(&Meter<'_>)) -> ! {
        if let Some(meter) = self.meter() {
            last(&meter);
        }
        self.end(&Cause::Panic(&*panic));
        resume_unwind(panic)
    }

    /// Drops what is left of its service's code, where its tracers' scopes are current, and its
    /// record while it is not over.
    pub(super) fn leave(&mut self, drop: impl FnOnce()) {
        match &mut *self.0 {
            Guard::Open(open) => {
                let scopes = &open.scopes;
                open.slot.enter(|| scopes.run(drop));
            }
            Guard::Over(scopes) => scopes.run(drop),
            Guard::Closed(_) => drop(),
        }
    }

    /// Ends the RPC: puts down how, then calls `finish`. Does nothing the second time.
    #[inline(never)]
    pub(super) fn end(&mut self, cause: &Cause<'_>) {
        if let Guard::Open(open) = &mut *self.0 {
            open.end(cause);
            if let Some(rpc) = open.slot.take() {
                rpc.release();
            }
            if open.scopes.is_empty() {
                *self.0 = Guard::Closed(None);
            } else {
                self.keep_scopes();
            }
        }
    }

    /// Apart from `end`: few RPCs have a scope.
    #[inline(never)]
    fn keep_scopes(&mut self) {
        if let Guard::Open(open) = &mut *self.0 {
            *self.0 = Guard::Over(mem::take(&mut open.scopes));
        }
    }

    #[inline(never)]
    fn close(&mut self) {
        self.end(&Cause::Dropped);
        *self.0 = Guard::Closed(None);
    }

    /// What counts the response.
    #[inline]
    pub(super) fn meter(&self) -> Option<Meter<'_>> {
        let Guard::Open(open) = &*self.0 else {
            return None;
        };
        let stats = open.slot.rpc()?.stats();
        let sink: Option<&dyn EventSink> = match &open.traced {
            Traced::Here(..) => None,
            Traced::Watched(watched) => Some(&**watched),
        };
        Some(Meter::new(stats, Direction::Response, sink))
    }

    /// Where the response is counted, if nobody is to hear of it but at the end.
    #[inline]
    pub(super) fn quiet_cell(&self) -> Option<&TrafficCell> {
        match &*self.0 {
            Guard::Open(Open {
                slot,
                traced: Traced::Here(..),
                ..
            }) => slot.rpc()?.stats().quiet_cell(Direction::Response),
            _ => None,
        }
    }

    /// The types of errors that the layer's user has named.
    pub(super) fn error_types(&self) -> &[AsError] {
        self.settings()
            .map_or(&[], |settings| &settings.error_types)
    }

    #[inline]
    pub(super) fn settings(&self) -> Option<&Settings> {
        match &*self.0 {
            Guard::Open(open) => Some(&open.traced.shared().settings),
            Guard::Over(_) | Guard::Closed(_) => None,
        }
    }
}

impl<T: Tracer> Open<T> {
    /// Apart from `run`: few RPCs have a scope.
    #[inline(never)]
    fn run_scoped(&mut self, f: impl FnOnce()) -> std::thread::Result<()> {
        self.slot.swap();
        let caught = self.scopes.catch(f);
        self.slot.swap();
        caught
    }

    #[inline(always)]
    fn end(&mut self, cause: &Cause<'_>) {
        let Some(rpc) = self.slot.rpc() else { return };
        conclude(rpc, cause);
        let state = match &mut self.traced {
            Traced::Here(state, _) => state.take(),
            Traced::Watched(watched) => watched.take(),
        };
        if let (Some(state), Some(tracer)) = (state, &self.traced.shared().tracer) {
            let finish = || contain::<T, _>("finish", || tracer.finish(state, rpc));
            // A drop runs in the scopes already.
            if self.scopes.is_empty() || self.scopes.are_current() {
                finish();
            } else {
                self.scopes.run_rest(|| {
                    finish();
                });
            }
        }
    }
}

impl<T: Tracer> Traced<T> {
    #[inline]
    fn shared(&self) -> &Shared<T> {
        match self {
            Self::Here(_, shared) => shared,
            Self::Watched(watched) => &watched.shared,
        }
    }
}

impl<T: Tracer> Drop for OpenRpc<T> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_closed() {
            self.close();
        }
    }
}

impl<T: Tracer> Watched<T> {
    fn take(&self) -> Option<T::State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut *state)
    }
}

impl<T: Tracer> EventSink for Watched<T> {
    fn emit(&self, kind: WireEventKind<'_>, at: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is reported once `finish` has taken the state.
        if let (Some(state), Some(tracer)) = (&mut *state, &self.shared.tracer) {
            let at = Duration::from_nanos(at);
            let event = WireEvent { at, kind };
            contain::<T, _>("event", || tracer.event(state, &self.rpc, &event));
        }
    }
}

impl<T: Tracer> fmt::Debug for OpenRpc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenRpc").field(&self.rpc()).finish()
    }
}
