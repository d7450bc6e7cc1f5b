use std::{
    any::Any,
    cell::Cell,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::Arc,
    thread,
};

use super::Tracer;
use crate::panics::{contain, contain_as};
use crate::rpc::{RpcInfo, Scope};

/// The scopes of an RPC's tracers, outermost first.
#[derive(Clone, Default)]
pub(crate) struct Scopes(Option<Arc<dyn Scope>>);

impl Scopes {
    fn push(&mut self, inner: Arc<dyn Scope>) {
        self.0 = Some(match self.0.take() {
            None => inner,
            Some(outer) => Arc::new(Nested {
                outer: Self(Some(outer)),
                inner: Self(Some(inner)),
            }),
        });
    }

    /// Adds the scope of a tracer that has started, if it has one.
    pub(crate) fn push_from<T: Tracer + ?Sized>(
        &mut self,
        tracer: &T,
        state: Option<&T::State>,
        rpc: &RpcInfo,
    ) {
        let scope =
            state.and_then(|state| contain::<T, _>("scope", || tracer.scope(state, rpc)).flatten());
        if let Some(scope) = scope {
            self.push(scope);
        }
    }

    pub(crate) fn into_scope(mut self) -> Option<Arc<dyn Scope>> {
        self.0.take()
    }

    /// Lets the record find them, for as long as they are there.
    #[inline]
    pub(crate) fn publish(&self, rpc: &RpcInfo) {
        if let Some(scope) = &self.0 {
            rpc.set_scope(Arc::downgrade(scope));
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether they were the last to be entered on this thread, and not left.
    pub(crate) fn are_current(&self) -> bool {
        ENTERED.get() == self.0.as_deref().map_or(0, address)
    }

    #[inline]
    pub(crate) fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.0 {
            None => f(),
            Some(scope) => enter(&**scope, f).unwrap_or_else(|panic| resume_unwind(panic)),
        }
    }

    /// As [`run`](Self::run), for what is left when the RPC is over. Apart, as few RPCs have a scope.
    #[inline(never)]
    pub(crate) fn run_after_finish(&self, f: impl FnOnce()) {
        self.run(f);
    }

    /// As [`run`](Self::run), for code of the inner service: its panic is caught for the record,
    /// and resumed by the caller.
    ///
    /// That code changes no data of the layer; what it leaves half done is its own, as without the
    /// layer. It writes its result itself, because to return it would move it once more.
    #[inline]
    pub(crate) fn run_catching<R>(&self, f: impl FnOnce() -> R) -> thread::Result<R> {
        match &self.0 {
            None => catch_unwind(AssertUnwindSafe(f)),
            Some(scope) => enter(&**scope, f),
        }
    }
}

impl RpcInfo {
    /// Looks at the scope of this type that a tracer of this RPC has returned, while the RPC's code
    /// runs. So a tracer finds its own for the layer [further out](Self::same_request_parent), or for the RPC that a
    /// call is made [under](Self::parent), also if a buffer or a task is between and it is not
    /// current. Of several of a type it is the innermost one.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use tower_tracer::{RequestParts, RpcInfo, Tracer, tracer::Scope};
    ///
    /// struct Trace(u64);
    ///
    /// impl Scope for Trace {
    ///     fn run(&self, f: &mut dyn FnMut()) {
    ///         f();
    ///     }
    /// }
    ///
    /// /// Gives an RPC the number of its parent.
    /// struct Traces;
    ///
    /// impl Tracer for Traces {
    ///     type State = u64;
    ///
    ///     fn start(&self, rpc: &RpcInfo, _: &mut RequestParts<'_>) -> u64 {
    ///         let above = rpc.parent().and_then(|rpc| rpc.with_scope(|trace: &Trace| trace.0));
    ///         above.unwrap_or(7)
    ///     }
    ///
    ///     fn scope(&self, trace: &u64, _: &RpcInfo) -> Option<Arc<dyn Scope>> {
    ///         Some(Arc::new(Trace(*trace)))
    ///     }
    ///
    ///     fn finish(&self, trace: u64, rpc: &RpcInfo) {
    ///         assert_eq!(rpc.with_scope(|trace: &Trace| trace.0), Some(trace));
    ///     }
    /// }
    /// # mod doc { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/call.rs")); }
    /// # let (seen, all_seen) = std::sync::mpsc::channel();
    /// # let see = move |rpc: &RpcInfo| drop(seen.send(rpc.with_scope(|trace: &Trace| trace.0)));
    /// # doc::call((tower_tracer::on_finish(see), Traces), ["/shop.Cart/Add"]);
    /// # assert_eq!(all_seen.iter().collect::<Vec<_>>(), [Some(7)]);
    /// ```
    pub fn with_scope<S: Scope, R>(&self, look: impl FnOnce(&S) -> R) -> Option<R> {
        let scope = Scopes(self.scope());
        find(scope.0.as_deref()?).map(look)
    }
}

/// The innermost scope of a type.
fn find<S: Scope>(scope: &dyn Scope) -> Option<&S> {
    let scope: &dyn Any = scope;
    match scope.downcast_ref::<Nested>() {
        Some(Nested { outer, inner }) => {
            let mut both = [inner, outer].into_iter();
            both.find_map(|scopes| find(scopes.0.as_deref()?))
        }
        None => scope.downcast_ref(),
    }
}

impl Drop for Scopes {
    #[inline]
    fn drop(&mut self) {
        if let Some(scope) = self.0.take() {
            dispose(scope);
        }
    }
}

/// A scope's drop can panic too.
#[inline(never)]
fn dispose(scope: Arc<dyn Scope>) {
    let name = scope.name();
    contain_as("scope", || name, || drop(scope));
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scopes").field(&self.0.is_some()).finish()
    }
}

struct Nested {
    outer: Scopes,
    inner: Scopes,
}

impl Scope for Nested {
    fn run(&self, f: &mut dyn FnMut()) {
        if let (Some(outer), Some(inner)) = (&self.outer.0, &self.inner.0) {
            let inner = || run_in(&**inner, f).unwrap_or_else(|panic| resume_unwind(panic));
            run_in(&**outer, inner).unwrap_or_else(|panic| resume_unwind(panic));
        }
    }
}

thread_local! {
    /// The address of the scopes that were entered last; 0 outside of all.
    static ENTERED: Cell<usize> = const { Cell::new(0) };
}

fn address(scope: &dyn Scope) -> usize {
    ptr::from_ref(scope).addr()
}

/// Runs `f` in the scopes of an RPC, all in one.
fn enter<R>(scope: &dyn Scope, f: impl FnOnce() -> R) -> thread::Result<R> {
    let outer = ENTERED.replace(address(scope));
    let result = run_in(scope, f);
    ENTERED.set(outer);
    result
}

/// Runs `f` once: in the scope, or without it if the scope does not call it.
fn run_in<R>(scope: &dyn Scope, f: impl FnOnce() -> R) -> thread::Result<R> {
    let mut waiting = Some(f);
    let mut result = None;
    let run = || {
        scope.run(&mut || {
            if let Some(f) = waiting.take() {
                // The service's panic is not the scope's: it does not pass through it.
                result = Some(catch_unwind(AssertUnwindSafe(f)));
            }
        });
    };
    contain_as("scope", || scope.name(), run);
    match (result, waiting) {
        (Some(result), _) => result,
        (None, Some(f)) => catch_unwind(AssertUnwindSafe(f)),
        (None, None) => unreachable!("what was taken has run"),
    }
}
