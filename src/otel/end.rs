//! What a span gets at its end.

use std::{borrow::Cow, sync::Arc};

use opentelemetry::{
    KeyValue,
    trace::{self, TraceContextExt as _},
};

use super::{OtelTracer, meters::Added, series::Series, span, start::original};
use crate::{Event, RpcInfo, Status, method_names::is_answered, semconv::http_answer};

impl OtelTracer {
    pub(super) fn finish_rpc(&self, running: &span::Running, started: &Arc<Series>, rpc: &RpcInfo) {
        let stats = rpc.stats();
        let decided;
        let series = if started.is_undecided() {
            decided = self.decide(rpc, started, is_answered(rpc));
            if let Some(span) = running.span() {
                if decided.is_known() {
                    span.update_name(decided.span_name);
                }
                span.set_attributes(decided.method_attributes(|| original(rpc)));
            }
            &decided
        } else {
            started
        };
        if let (Some(http), Some(span)) = (http_answer(rpc), running.span()) {
            let http = i64::from(http);
            span.set_attribute(KeyValue::new("http.response.status_code", http));
        }
        let without_code;
        let outcome = match stats.status().and_then(Status::code) {
            Some(code) => series.outcome(code, stats.failed()),
            None => {
                let failed = stats.ending().filter(|_| stats.failed());
                without_code = series.outcome_without_code(failed);
                &without_code
            }
        };
        self.end_span(running, rpc, outcome.failed, &outcome.at_end);
        let custom = Added {
            attributes: self.custom.of_metrics(rpc),
            grpc: self.grpc_metrics.and_then(|_| self.custom.grpc_label(rpc)),
        };
        let instruments = self.live().instruments();
        instruments.rpc_finished(started, outcome, rpc, &custom, &running.attempts);
    }

    fn decide(&self, rpc: &RpcInfo, started: &Series, answered: bool) -> Arc<Series> {
        let method = rpc.full_method();
        let make = self.make_series();
        self.methods.decide(method, answered, started.key(), &make)
    }

    /// Ends the span with all that is known now.
    pub(super) fn end_span(
        &self,
        running: &span::Running,
        rpc: &RpcInfo,
        failed: bool,
        at_end: &[KeyValue],
    ) {
        let stats = rpc.stats();
        let end = running.time(stats.elapsed());
        let Some(span) = running.span() else {
            // Also what does not record ends, for those who wait for it.
            running.context.span().end_with_timestamp(end);
            return;
        };
        // The span is locked for each of these calls.
        match at_end {
            [only] => span.set_attribute(only.clone()),
            several => span.set_attributes(several.iter().cloned()),
        }
        let custom = self.custom.at_end(rpc);
        if !custom.is_empty() {
            span.set_attributes(custom);
        }
        if stats.cancelled_with_parent() {
            span.set_attribute(KeyValue::new("tower_tracer.cancelled_with_parent", true));
        }
        let tags = rpc.tags();
        if !tags.is_empty() {
            let tag =
                |(key, value): (Cow<'static, str>, Cow<'static, str>)| KeyValue::new(key, value);
            span.set_attributes(tags.into_iter().map(tag));
        }
        if failed {
            let message = stats.error().or(stats.panic()).unwrap_or_default();
            span.set_status(trace::Status::error(message.to_owned()));
        }
        let events = match self.timeline {
            true => stats.events(),
            false => stats.user_events(),
        };
        for recorded in events {
            if recorded.event != Event::RPC_START && recorded.event != Event::RPC_FINISH {
                running.recorded(&span, recorded);
            }
        }
        span.end_with_timestamp(end);
    }
}
