use std::{
    any::type_name,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    thread,
};

use super::{Tracer, Whose, contain, contain_as};
use crate::rpc::RpcInfo;

/// Makes something current while code of an RPC runs: a span, an OpenTelemetry context, a
/// task-local value.
///
/// A tracer returns one from [`Tracer::scope`](crate::Tracer::scope). It is entered around the call
/// of the inner service, **every** poll of its future, of the response's body and of the request's
/// body, and around the drop of both bodies, and of a future that did not come to its end. A request's
/// body that is read within its own RPC, as by a handler, is in the scope already and does not enter
/// it again. What the service still does after [`finish`](Tracer::finish), such as the drop of its
/// body, is in the scope too.
///
/// ```
/// use std::{cell::Cell, sync::Arc};
/// use tower_tracer::{RequestParts, RpcInfo, Scope, Tracer};
///
/// thread_local!(static TENANT: Cell<u32> = const { Cell::new(0) });
///
/// struct Tenant(u32);
///
/// impl Scope for Tenant {
///     fn run(&self, f: &mut dyn FnMut()) {
///         let outer = TENANT.replace(self.0);
///         f();
///         TENANT.set(outer);
///     }
/// }
///
/// struct TenantTracer;
///
/// impl Tracer for TenantTracer {
///     type State = u32;
///     fn start(&self, _: &RpcInfo, request: &mut RequestParts<'_>) -> u32 {
///         let tenant = request.headers().get("tenant");
///         tenant.and_then(|t| t.to_str().ok()?.parse().ok()).unwrap_or(0)
///     }
///     fn finish(&self, _: u32, _: &RpcInfo) {}
///     fn scope(&self, tenant: &u32, _: &RpcInfo) -> Option<Arc<dyn Scope>> {
///         Some(Arc::new(Tenant(*tenant)))
///     }
/// }
/// ```
pub trait Scope: Send + Sync + 'static {
    /// Calls `f` once, with this scope's thing current.
    ///
    /// `f` does not panic: a panic of the service is carried past this function. Where `f` is not
    /// called, it is run without the scope.
    fn run(&self, f: &mut dyn FnMut());

    #[doc(hidden)]
    fn name(&self) -> &'static str {
        type_name::<Self>()
    }
}

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
    pub(crate) fn enter_with<T: Tracer + ?Sized>(
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

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    #[inline]
    pub(crate) fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.0 {
            None => f(),
            Some(scope) => run_in(&**scope, f).unwrap_or_else(|panic| resume_unwind(panic)),
        }
    }

    /// As [`run`](Self::run), for code of the inner service: its panic is caught for the record, and
    /// let go on by the caller.
    ///
    /// Nothing of the layer's is touched by that code; what it leaves half done is its own, as it
    /// would be without the layer. What it gives it puts where it belongs by itself: a result would
    /// be moved once more.
    #[inline]
    pub(crate) fn catch<R>(&self, f: impl FnOnce() -> R) -> thread::Result<R> {
        match &self.0 {
            None => catch_unwind(AssertUnwindSafe(f)),
            Some(scope) => run_in(&**scope, f),
        }
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

/// The drop of a scope is its tracer's code too.
#[inline(never)]
fn dispose(scope: Arc<dyn Scope>) {
    let name = scope.name();
    contain_as("scope", || Whose::named(name), || drop(scope));
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
        self.outer.run(|| self.inner.run(f));
    }
}

/// Runs `f` once, in the scope if the scope plays along.
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
    contain_as("scope", || Whose::named(scope.name()), run);
    match (result, waiting) {
        (Some(result), _) => result,
        (None, Some(f)) => catch_unwind(AssertUnwindSafe(f)),
        (None, None) => unreachable!("what was taken has run"),
    }
}
