use std::{
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    ending::{Cause, conclude},
    layer::{Settings, Shared},
};
use crate::{
    rpc::{Direction, Draw, RpcInfo, Slot, Status},
    tracer::{
        EventSink, Meter, RequestObserver, Scopes, Tracer, WireEvent, WireEventKind, contain,
    },
};

/// An RPC that is not over: the one guard whose end is the call of `finish`.
///
/// It moves from the service to the future to the response's body. A
/// [`TracedResponse`](crate::TracedResponse) of a user's own gets it and says when the RPC is over;
/// dropping it says that the RPC was cancelled.
pub struct OpenRpc<T: Tracer>(
    Option<Open<T>>,
    /// Of an RPC that all tracers declined: what those under it inherit.
    Option<Draw>,
);

struct Open<T: Tracer> {
    slot: Slot,
    scopes: Scopes,
    state: State<T>,
    shared: Arc<Shared<T>>,
}

/// The tracer's state: here, or where both bodies reach it when events are wanted.
enum State<T: Tracer> {
    Own(Option<T::State>),
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
    pub(super) const fn closed() -> Self {
        Self::declined(None)
    }

    /// For an RPC that all tracers declined, one of them by this draw.
    pub(super) const fn declined(draw: Option<Draw>) -> Self {
        Self(None, draw)
    }

    /// The guard of an RPC whose tracers have started, and what counts its request.
    pub(super) fn new(
        shared: Arc<Shared<T>>,
        rpc: RpcInfo,
        state: Option<T::State>,
        scopes: Scopes,
        wants_events: bool,
    ) -> (Self, RequestObserver) {
        let mut sink = None;
        let state = if wants_events {
            let watched = Arc::new(Watched {
                state: Mutex::new(state),
                rpc: rpc.clone(),
                shared: Arc::clone(&shared),
            });
            sink = Some(Arc::clone(&watched) as Arc<dyn EventSink>);
            State::Watched(watched)
        } else {
            State::Own(state)
        };
        let observer = RequestObserver {
            slot: Slot::new(rpc.clone()),
            scopes: scopes.clone(),
            sink,
        };
        let open = Open {
            slot: Slot::new(rpc),
            scopes,
            state,
            shared,
        };
        (Self(Some(open), None), observer)
    }

    /// The record of the RPC; `None` where no tracer takes part.
    #[must_use]
    pub fn rpc(&self) -> Option<&RpcInfo> {
        self.0.as_ref()?.slot.rpc()
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

    /// Whether somebody traces this RPC.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Takes the guard; the RPC goes on.
    #[inline]
    pub(super) fn take(&mut self) -> Self {
        Self(self.0.take(), self.1)
    }

    /// Runs code of the RPC, with its record and its tracers' scopes current.
    #[inline]
    pub(super) fn enter<R>(&mut self, f: impl FnOnce() -> R) -> R {
        match (&mut self.0, self.1) {
            (None, None) => f(),
            (None, Some(draw)) => draw.enter(f),
            (Some(open), _) => {
                let scopes = &open.scopes;
                open.slot.enter(|| scopes.run(f))
            }
        }
    }

    /// Ends the RPC: puts down how, then calls `finish`. Does nothing the second time.
    pub(super) fn end(&mut self, cause: &Cause<'_>) {
        if let Some(open) = self.0.take() {
            open.end(cause);
        }
    }

    /// What counts the response.
    #[inline]
    pub(super) fn meter(&self) -> Option<Meter<'_>> {
        let open = self.0.as_ref()?;
        let stats = open.slot.rpc()?.stats();
        let sink: Option<&dyn EventSink> = match &open.state {
            State::Own(_) => None,
            State::Watched(watched) => Some(&**watched),
        };
        Some(Meter::new(stats, Direction::Response, sink))
    }

    pub(super) fn settings(&self) -> Option<&Settings> {
        self.0.as_ref().map(|open| &open.shared.settings)
    }
}

impl<T: Tracer> Open<T> {
    fn end(self, cause: &Cause<'_>) {
        let Some(rpc) = self.slot.rpc() else { return };
        conclude(rpc, cause);
        let state = match self.state {
            State::Own(state) => state,
            State::Watched(watched) => watched.take(),
        };
        if let Some(state) = state {
            let tracer = &*self.shared.tracer;
            contain::<T, _>("finish", || tracer.finish(state, rpc));
        }
    }
}

impl<T: Tracer> Drop for OpenRpc<T> {
    #[inline]
    fn drop(&mut self) {
        self.end(&Cause::Dropped);
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
        if let Some(state) = &mut *state {
            let at = Duration::from_nanos(at);
            let event = WireEvent { at, kind };
            contain::<T, _>("event", || {
                self.shared.tracer.event(state, &self.rpc, &event)
            });
        }
    }
}

impl<T: Tracer> fmt::Debug for OpenRpc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenRpc").field(&self.rpc()).finish()
    }
}
