//! One RPC's span: what is kept from its start to its end.

use std::{fmt, sync::Arc, time::SystemTime};

use opentelemetry::{
    Context, KeyValue, StringValue,
    trace::{self, Span as _, SpanBuilder, SpanRef, TraceContextExt as _},
};

use super::{attempts::Attempts, http::HttpExchange, series::Series};
use crate::{
    Role, RpcInfo,
    rpc::{RecordedEvent, Severity},
    tracer::{Message, Scope},
};

/// Starts spans, of whatever tracer.
pub(super) trait Spans: Send + Sync {
    /// The parent's context with the new span in it, and whether that span records.
    fn start(&self, builder: SpanBuilder, parent: &Context) -> (Context, bool);
}

impl<T> Spans for T
where
    T: trace::Tracer<Span: Send + Sync + 'static> + Send + Sync,
{
    fn start(&self, builder: SpanBuilder, parent: &Context) -> (Context, bool) {
        let span = self.build_with_context(builder, parent);
        let records = span.is_recording();
        (parent.with_span(span), records)
    }
}

/// An RPC that runs. It is the tracer's state and, current around all of the RPC's code, its scope.
pub(super) struct Running {
    pub(super) context: Context,
    pub(super) records: bool,
    pub(super) started: SystemTime,
    pub(super) what: What,
    pub(super) attempts: Attempts,
}

/// By which conventions it is described.
pub(super) enum What {
    Rpc(Arc<Series>),
    Http(Box<HttpExchange>),
}

impl Running {
    /// The span, where it records.
    pub(super) fn span(&self) -> Option<SpanRef<'_>> {
        self.records.then(|| self.context.span())
    }

    /// A message as gRPC's A72 describes it.
    pub(super) fn message(
        &self,
        rpc: &RpcInfo,
        at: std::time::Duration,
        message: Message,
        request: bool,
    ) {
        let Some(span) = self.span() else { return };
        let outbound = request == (rpc.role() == Role::Client);
        let name = match outbound {
            true => "Outbound message",
            false => "Inbound message",
        };
        // The size before compression is known where there was none.
        let size = match message.compressed {
            true => "message-size-compressed",
            false => "message-size",
        };
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let attributes = vec![
            KeyValue::new("sequence-number", number(message.sequence)),
            KeyValue::new(size, number(message.size)),
        ];
        span.add_event_with_timestamp(name, self.time(at), attributes);
    }

    /// An event of the RPC.
    pub(super) fn recorded(&self, span: &SpanRef<'_>, recorded: RecordedEvent) {
        let mut attributes = Vec::new();
        match recorded.status {
            Severity::Info => {}
            Severity::Warn => attributes.push(KeyValue::new("status", "warn")),
            Severity::Error => attributes.push(KeyValue::new("status", "error")),
        }
        if let Some(info) = recorded.info {
            attributes.push(KeyValue::new("info", StringValue::from(info)));
        }
        let at = self.time(recorded.at);
        span.add_event_with_timestamp(recorded.event.name(), at, attributes);
    }

    pub(super) fn time(&self, at: std::time::Duration) -> SystemTime {
        self.started.checked_add(at).unwrap_or(self.started)
    }
}

impl Scope for Running {
    fn run(&self, f: &mut dyn FnMut()) {
        let _current = self.context.clone().attach();
        f();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("context", &self.context)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

/// One attempt that runs, of this call.
#[derive(Debug)]
pub(super) struct Attempt(RpcInfo);

impl Attempt {
    pub(super) fn start(rpc: &RpcInfo) -> Option<Self> {
        let call = rpc.same_request_parent()?;
        let at = nanos(call);
        call.with_scope(|own: &Running| own.attempts.started(at, rpc.attempt() == 1))?;
        Some(Self(call.clone()))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let at = nanos(&self.0);
        self.0.with_scope(|own: &Running| own.attempts.ended(at));
    }
}

fn nanos(call: &RpcInfo) -> u64 {
    u64::try_from(call.stats().elapsed().as_nanos()).unwrap_or(u64::MAX)
}
