mod traced;

use std::{
    any::Any,
    fmt, iter,
    mem::{self, ManuallyDrop},
    panic::resume_unwind,
    sync::Arc,
    thread,
};

use traced::{Traced, Watched};

use super::{
    TracedResponse,
    errors::ErrorInfo,
    outcome::{Cause, Facts, decide},
    start::Shared,
};
use crate::{
    config::{AsError, Config},
    panics::contain,
    rpc::{Direction, Ending, Protocol, Role, RpcInfo, SampleKey, Status, TrafficCell, clock},
    tracer::{Context, DirectionMeter, EventSink, Scopes, Tracer},
};

/// Calls `finish` exactly once: when the RPC is over, or when it is dropped.
///
/// It moves from the service to the future to the response's body. A custom
/// [`TracedResponse`](crate::service::TracedResponse) gets it and finishes it when the RPC is over.
/// Any exit path we did not foresee is still a drop, which finishes the RPC as cancelled.
pub struct RpcGuard<T: Tracer>(
    // An active guard is only dropped by `close`, so that the drop of any other is one comparison.
    ManuallyDrop<State<T>>,
);

enum State<T: Tracer> {
    Active(Active<T>),
    /// Its tracers have finished. The rest of the RPC's code still runs in their scopes.
    Finished(Scopes),
    /// No tracer takes part. If one of them declined by a draw, RPCs under this one inherit that
    /// draw.
    Untraced(Option<SampleKey>),
}

// In this order for the same reason as in `Context`.
#[repr(C)]
struct Active<T: Tracer> {
    traced: Traced<T>,
    context: Context,
}

impl<T: Tracer> RpcGuard<T> {
    /// For an RPC without a tracer.
    #[inline]
    pub(super) const fn untraced() -> Self {
        Self::declined(None)
    }

    /// For an RPC that all tracers declined, one of them by this draw.
    #[inline]
    pub(super) const fn declined(draw: Option<SampleKey>) -> Self {
        Self(ManuallyDrop::new(State::Untraced(draw)))
    }

    /// For an RPC whose tracers have started.
    #[inline]
    pub(super) fn new(
        shared: Arc<Shared<T>>,
        rpc: RpcInfo,
        state: Option<T::State>,
        scopes: Scopes,
    ) -> Self {
        Self(ManuallyDrop::new(State::Active(Active {
            traced: Traced::Here(state, shared),
            context: Context::new(rpc, scopes),
        })))
    }

    /// From here on the tracer gets events or progress, through what is returned.
    #[cold]
    pub(super) fn watch(&mut self, wants_events: bool) -> Option<Arc<dyn EventSink>> {
        let State::Active(active) = &mut *self.0 else {
            return None;
        };
        let Traced::Here(state, shared) = &mut active.traced else {
            return None;
        };
        let rpc = active.context.rpc()?.clone();
        let (state, shared) = (state.take(), Arc::clone(shared));
        let watched = Arc::new(Watched::new(state, rpc, shared, wants_events));
        active.traced = Traced::Watched(Arc::clone(&watched));
        Some(watched)
    }

    /// The record of the RPC; `None` if no tracer takes part.
    #[must_use]
    #[inline]
    pub fn rpc(&self) -> Option<&RpcInfo> {
        match &*self.0 {
            State::Active(active) => active.context.rpc(),
            State::Finished(_) | State::Untraced(_) => None,
        }
    }

    /// Counts a message of the response, of this size as it is on the wire.
    pub fn message(&mut self, size: u64, compressed: bool) {
        if let Some(meter) = self.meter() {
            meter.observe(true);
            meter.bytes(size);
            meter.message(size, compressed);
        }
        self.progress();
    }

    /// Finishes the RPC, with this status, or `None` if it is unknown.
    pub fn finish(mut self, status: impl Into<Option<Status>>) {
        if let Some(meter) = self.meter() {
            meter.observe(true);
            meter.complete();
        }
        self.finish_with(Cause::Explicit(status.into()));
    }

    /// Whether nothing is left to do when the rest of the RPC's code is dropped.
    #[inline]
    pub(super) fn is_untraced(&self) -> bool {
        matches!(*self.0, State::Untraced(_))
    }

    /// Whether the RPC's code runs as if there were no layer.
    #[inline]
    pub(super) fn is_bare(&self) -> bool {
        matches!(*self.0, State::Untraced(None))
    }

    /// Inserts the record into the response, if the layer is configured so.
    #[inline]
    pub(super) fn insert_into_response(&self, response: &mut impl TracedResponse) {
        if let State::Active(active) = &*self.0
            && active.traced.shared().config.insert_into_response
            && let Some(rpc) = active.context.rpc()
        {
            response.set_rpc(rpc);
        }
    }

    /// Moves the guard on; the RPC continues.
    #[inline]
    pub(super) fn take(&mut self) -> Self {
        let draw = match &*self.0 {
            State::Active(_) | State::Finished(_) => None,
            State::Untraced(draw) => *draw,
        };
        mem::replace(self, Self::declined(draw))
    }

    /// Runs code of the RPC's service, with the record and the tracers' scopes current. If it
    /// panics, the RPC is over: `last` is called, and the panic resumes. `f` writes its result
    /// itself, because to return it would move it once more.
    #[inline]
    pub(super) fn run(&mut self, f: impl FnOnce(), last: impl FnOnce(&DirectionMeter<'_>)) {
        let caught = match &mut *self.0 {
            State::Active(active) => active.context.run_catching(f),
            State::Finished(scopes) => return scopes.run_after_finish(f),
            State::Untraced(None) => return f(),
            State::Untraced(Some(draw)) => return draw.enter(f),
        };
        if let Err(panic) = caught {
            self.panicked(panic, last);
        }
    }

    /// As [`run`](Self::run), for a poll of the response's body. On a client that is code of the transport,
    /// not of a user, so it runs without the tracers' scopes.
    #[inline]
    pub(super) fn run_body(&mut self, f: impl FnOnce(), last: impl FnOnce(&DirectionMeter<'_>)) {
        let caught = match &mut *self.0 {
            State::Active(active) if active.is_client() => {
                active.context.run_catching_without_scopes(f)
            }
            _ => return self.run(f, last),
        };
        if let Err(panic) = caught {
            self.panicked(panic, last);
        }
    }

    #[cold]
    fn panicked(
        &mut self,
        panic: Box<dyn Any + Send>,
        last: impl FnOnce(&DirectionMeter<'_>),
    ) -> ! {
        if let Some(meter) = self.meter() {
            last(&meter);
        }
        self.finish_with(Cause::Panic(text_of(&*panic)));
        resume_unwind(panic)
    }

    /// Drops the rest of the service's code, with the tracers' scopes current, and with the record
    /// current while the RPC is not over.
    pub(super) fn drop_in_scope(&mut self, drop: impl FnOnce()) {
        match &mut *self.0 {
            State::Active(active) => {
                if let Some(rpc) = active.context.rpc() {
                    rpc.stats().set_dropping();
                }
                active.context.run(drop);
            }
            State::Finished(scopes) => scopes.run(drop),
            State::Untraced(_) => drop(),
        }
    }

    /// Finishes the RPC with an error of the service or of the response's body.
    pub(super) fn finish_with_error<E: fmt::Display + 'static>(
        &mut self,
        error: &E,
        cause: impl FnOnce(ErrorInfo) -> Cause<'static>,
    ) {
        if self.rpc().is_some() {
            let error = ErrorInfo::inspect(error, self.error_types());
            self.finish_with(cause(error));
        }
    }

    /// Decides how the RPC ended, records it, and calls `finish`. Does nothing the second time.
    #[inline(never)]
    pub(super) fn finish_with(&mut self, cause: Cause<'_>) {
        let State::Active(active) = &mut *self.0 else {
            return;
        };
        if let Some(rpc) = active.context.rpc() {
            record(rpc, cause);
        }
        self.close_active();
    }

    /// As [`finish_with`](Self::finish_with), for OK in the trailers.
    #[inline(never)]
    pub(super) fn finish_ok(&mut self) {
        let State::Active(active) = &mut *self.0 else {
            return;
        };
        if let Some(rpc) = active.context.rpc() {
            rpc.stats().end_ok();
        }
        self.close_active();
    }

    /// Calls `finish` for what is recorded, and releases the record.
    #[inline(always)]
    fn close_active(&mut self) {
        if let State::Active(active) = &mut *self.0 {
            active.finish();
            if let Some(rpc) = active.context.take_rpc() {
                rpc.release();
            }
            if active.context.has_scopes() {
                self.keep_scopes();
            } else {
                *self.0 = State::Untraced(None);
            }
        }
    }

    /// Apart from `close_active`: few RPCs have a scope.
    #[inline(never)]
    fn keep_scopes(&mut self) {
        if let State::Active(active) = &mut *self.0 {
            *self.0 = State::Finished(active.context.take_scopes());
        }
    }

    #[inline(never)]
    fn close(&mut self) {
        self.finish_with(Cause::Dropped { after_ok: false });
        *self.0 = State::Untraced(None);
    }

    /// Counts the response.
    #[inline]
    pub(super) fn meter(&self) -> Option<DirectionMeter<'_>> {
        let State::Active(active) = &*self.0 else {
            return None;
        };
        let stats = active.context.rpc()?.stats();
        let sink: Option<&dyn EventSink> = match &active.traced {
            Traced::Here(..) => None,
            Traced::Watched(watched) => Some(&**watched)
                .filter(|watched| watched.wants_events())
                .map(|watched| watched as &dyn EventSink),
        };
        Some(DirectionMeter::new(stats, Direction::Response, sink))
    }

    /// The counters of the response, if no times are recorded and no tracer wants events.
    #[inline]
    pub(super) fn quiet_cell(&self) -> Option<&TrafficCell> {
        match &*self.0 {
            State::Active(Active { traced, context }) => match traced {
                Traced::Watched(watched) if watched.wants_events() => None,
                _ => context.rpc()?.stats().quiet_cell(Direction::Response),
            },
            _ => None,
        }
    }

    /// Something of the response has passed: reports progress if it is time.
    #[inline]
    pub(super) fn progress(&self) {
        if let State::Active(Active {
            traced: Traced::Watched(watched),
            ..
        }) = &*self.0
        {
            watched.progress();
        }
    }

    /// The error types that the layer is configured with.
    fn error_types(&self) -> &[AsError] {
        self.config().map_or(&[], |config| &config.error_types)
    }

    #[inline]
    pub(super) fn config(&self) -> Option<&Config> {
        match &*self.0 {
            State::Active(active) => Some(&active.traced.shared().config),
            State::Finished(_) | State::Untraced(_) => None,
        }
    }
}

/// Records how an RPC ended. Nothing else does.
#[inline(never)]
fn record(rpc: &RpcInfo, cause: Cause<'_>) {
    let (stats, facts) = (rpc.stats(), Facts::of(rpc));
    let is_explicit = matches!(cause, Cause::Explicit(_));
    if !is_explicit && facts.http_status.is_none() && facts.protocol != Protocol::Other {
        // There was no response, so nothing of it passed: that is known.
        let cell = stats.cell(Direction::Response);
        cell.observe(facts.protocol.is_rpc());
    }
    let deadline_passed = || rpc.deadline().is_some_and(clock::is_past);
    let outcome = decide(facts, cause, deadline_passed);
    if outcome.ending == Ending::Cancelled && is_parent_going(rpc) {
        stats.set_cancelled_with_parent();
    }
    stats.end(&outcome);
}

/// Whether the server RPC that made this call goes on no longer.
fn is_parent_going(rpc: &RpcInfo) -> bool {
    let ancestors = iter::successors(rpc.parent(), |rpc| rpc.parent());
    let mut servers = ancestors.skip_while(|above| above.role() == Role::Client);
    let is_call = rpc.role() == Role::Client;
    is_call
        && servers
            .next()
            .is_some_and(|server| server.stats().is_going() || thread::panicking())
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        ""
    }
}

impl<T: Tracer> Active<T> {
    #[inline]
    fn is_client(&self) -> bool {
        let rpc = self.context.rpc();
        rpc.is_some_and(|rpc| rpc.role() == Role::Client)
    }

    /// Calls `finish`, within the scopes.
    #[inline(always)]
    fn finish(&mut self) {
        let state = self.traced.take_state();
        let shared = self.traced.shared();
        #[cfg(feature = "connection")]
        if let Some(rpc) = self.context.rpc() {
            rpc.leave_connection();
        }
        if let (Some(failures), Some(rpc)) = (&shared.config.failures, self.context.rpc()) {
            rpc.stats().set_failed(failures.is_failure(rpc));
        }
        if let (Some(state), Some(tracer)) = (state, &shared.tracer) {
            self.context.run_with_rpc(|rpc| {
                contain::<T, _>("finish", || tracer.finish(state, rpc));
            });
        }
    }
}

impl<T: Tracer> Drop for RpcGuard<T> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_untraced() {
            self.close();
        }
    }
}

impl<T: Tracer> fmt::Debug for RpcGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RpcGuard").field(&self.rpc()).finish()
    }
}

#[cfg(test)]
mod tests;
