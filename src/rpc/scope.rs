use std::any::{Any, type_name};

/// Makes something current while code of an RPC runs: a span, an OpenTelemetry context, a
/// task-local value.
///
/// A tracer returns one from [`Tracer::scope`](crate::Tracer::scope). It is entered wherever code of a user
/// can run:
///
/// * around the call of the inner service and **every** poll of its future,
/// * on a server around every poll of the response's body, which a handler made,
/// * on a client around every poll of the request's body, which a caller made,
/// * around the drop of both bodies, and of a future that did not complete.
///
/// The other two bodies come from the transport, so their polls do not enter it, which costs a stream
/// less. A request's body that a handler reads within its own RPC is in the scope already; a task that
/// reads it elsewhere is not. What the service still does after [`finish`](crate::Tracer::finish), such as the drop of
/// its body, is in the scope too: a scope lives until both bodies are gone, so
/// hold weakly what must not live as long.
///
/// ```
/// use std::{cell::Cell, sync::Arc};
/// use tower_tracer::{RequestParts, RpcInfo, Tracer, tracer::Scope};
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
pub trait Scope: Any + Send + Sync {
    /// Calls `f` once, with this scope's value current.
    ///
    /// `f` does not panic: a panic of the service is carried past this function. If this function
    /// does not call `f`, the layer runs it without the scope.
    fn run(&self, f: &mut dyn FnMut());

    #[doc(hidden)]
    fn name(&self) -> &'static str {
        type_name::<Self>()
    }
}
