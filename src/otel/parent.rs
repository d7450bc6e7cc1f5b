//! The context that a span starts in, and its kind.

use std::iter;

use opentelemetry::{
    Context,
    trace::{Link, SpanKind, TraceContextExt as _, TraceId},
};

use super::{OtelTracer, span};
use crate::{RequestParts, Role, RpcInfo, panics::contain};

/// What a span starts in.
pub(super) struct Parent {
    pub(super) context: Context,
    /// Whether its span is that of an outer layer, which sees the same RPC.
    pub(super) is_of_same_rpc: bool,
    /// To the caller's span.
    pub(super) link: Option<Link>,
}

impl From<Context> for Parent {
    fn from(context: Context) -> Self {
        Self {
            context,
            is_of_same_rpc: false,
            link: None,
        }
    }
}

impl OtelTracer {
    /// What a span starts in.
    pub(super) fn parent(&self, rpc: &RpcInfo, request: &RequestParts<'_>) -> Parent {
        let current = Context::current();
        // An outer layer has read the headers of this request; between the two there may be a buffer or
        // a task, where its span is not current. So it may be where a server's request is passed on.
        let from = match (rpc.same_request_parent(), rpc.role()) {
            (None, Role::Client) => rpc.parent().filter(|parent| {
                let running = RpcInfo::current();
                running.is_none_or(|running| !running.ptr_eq(parent))
            }),
            (outer, _) => outer,
        };
        if let Some(context) = from.and_then(context_of) {
            let is_within = trace_of(&context) == trace_of(&current);
            return Parent {
                is_of_same_rpc: rpc.same_request_parent().is_some(),
                ..Parent::from(if is_within { current } else { context })
            };
        }
        if rpc.role() == Role::Client {
            return current.into();
        }
        let extracted = self.propagation.extract(&current, request.headers());
        // If the function panics, the caller is not trusted.
        let is_public = self.public_endpoint.as_ref().is_some_and(|is_public| {
            contain::<Self, _>("public_endpoint_if", || is_public(request)).unwrap_or(true)
        });
        if !is_public {
            return extracted.into();
        }
        let caller = extracted.span().span_context().clone();
        let link = caller.is_valid().then(|| Link::with_context(caller));
        // The process's own values stay; a context cannot be rid of a span alone.
        let root = match current.has_active_span() {
            true => Context::new(),
            false => current,
        };
        Parent {
            link,
            ..Parent::from(root)
        }
    }

    /// Of two spans of one RPC on one side, the outer one alone is the RPC's for whoever counts them.
    pub(super) fn span_kind(&self, role: Role, parent: &Parent) -> SpanKind {
        match (role, parent.is_of_same_rpc) {
            (Role::Client, false) => SpanKind::Client,
            (Role::Client, true) => self.attempt_span_kind.clone(),
            (Role::Server, false) => SpanKind::Server,
            (Role::Server, true) => SpanKind::Internal,
        }
    }
}

/// The context that a tracer of this kind made for an RPC that runs: for its own layer, or for one
/// further out.
fn context_of(rpc: &RpcInfo) -> Option<Context> {
    let context = |rpc: &RpcInfo| rpc.with_scope(|own: &span::Running| own.context.clone());
    iter::successors(Some(rpc), |rpc| rpc.same_request_parent())
        .find_map(context)
        .filter(is_local)
}

fn trace_of(context: &Context) -> TraceId {
    context.span().span_context().trace_id()
}

/// Whether a context has a span of this process.
fn is_local(context: &Context) -> bool {
    let span = context.span();
    let span = span.span_context();
    span.is_valid() && !span.is_remote()
}
