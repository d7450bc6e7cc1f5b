//! A tracer and its state, as a guard holds them.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    panics::contain,
    rpc::RpcInfo,
    service::Shared,
    tracer::{EventSink, StreamEvent, StreamEventKind, Tracer},
};

/// The tracer and its state: in the guard, or shared with both bodies if the tracer wants events.
pub(super) enum Traced<T: Tracer> {
    Here(Option<T::State>, Arc<Shared<T>>),
    Watched(Arc<Watched<T>>),
}

/// A state that events are reported to.
pub(super) struct Watched<T: Tracer> {
    state: Mutex<Option<T::State>>,
    rpc: RpcInfo,
    shared: Arc<Shared<T>>,
    wants_events: bool,
    /// When progress is reported next, in nanoseconds from the start; `NEVER` if it is not.
    next_progress: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl<T: Tracer> Traced<T> {
    #[inline]
    pub(super) fn shared(&self) -> &Shared<T> {
        match self {
            Self::Here(_, shared) => shared,
            Self::Watched(watched) => &watched.shared,
        }
    }

    /// The state, the first time.
    #[inline(always)]
    pub(super) fn take_state(&mut self) -> Option<T::State> {
        match self {
            Self::Here(state, _) => state.take(),
            Self::Watched(watched) => watched.take(),
        }
    }
}

impl<T: Tracer> Watched<T> {
    pub(super) fn new(
        state: Option<T::State>,
        rpc: RpcInfo,
        shared: Arc<Shared<T>>,
        wants_events: bool,
    ) -> Self {
        let interval = shared.config.progress_every.map_or(NEVER, nanos);
        Self {
            state: Mutex::new(state),
            rpc,
            wants_events,
            next_progress: AtomicU64::new(interval),
            shared,
        }
    }

    fn take(&self) -> Option<T::State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut *state)
    }
}

impl<T: Tracer> EventSink for Watched<T> {
    fn wants_events(&self) -> bool {
        self.wants_events
    }

    fn progress(&self) {
        let next = self.next_progress.load(Relaxed);
        if next == NEVER {
            return;
        }
        let now = self.rpc.stats().now();
        let interval = self.shared.config.progress_every.map_or(NEVER, nanos);
        let after = now.saturating_add(interval);
        // Of two bodies that see that it is time, one reports.
        if now < next
            || self
                .next_progress
                .compare_exchange(next, after, Relaxed, Relaxed)
                .is_err()
        {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(state), Some(tracer)) = (&mut *state, &self.shared.tracer) {
            contain::<T, _>("progress", || tracer.progress(state, &self.rpc));
        }
    }

    fn emit(&self, kind: StreamEventKind<'_>, at: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // There are no events once `finish` has taken the state.
        if let (Some(state), Some(tracer)) = (&mut *state, &self.shared.tracer) {
            let at = Duration::from_nanos(at);
            let event = StreamEvent { at, kind };
            contain::<T, _>("event", || tracer.on_event(state, &self.rpc, &event));
        }
    }
}

fn nanos(interval: Duration) -> u64 {
    u64::try_from(interval.as_nanos()).unwrap_or(NEVER)
}
