//! The access log: an event per RPC, when it is over.

use std::borrow::Cow;

use ::tracing::{Level, event};

use super::span::{Running, outside};
use crate::{
    RpcInfo, Status, rpc::Protocol, semconv::http_answer, text::escape, trace_id::TraceId,
};

const TARGET: &str = "tower_tracer::access";

const PATH: usize = 256;
const TEXT: usize = 1024;

/// Logs an RPC that is over, or still runs. The line belongs to the span around the call, not to the RPC's own,
/// which says the same things.
pub(super) fn write(level: Level, running: &Running, rpc: &RpcInfo) {
    // Asked in the span, which may make its trace the current one.
    let span = &running.spans.own;
    let of_span = (!span.is_none()).then(TraceId::current).flatten();
    outside(span, || write_line(level, running, of_span, rpc));
}

fn write_line(level: Level, running: &Running, of_span: Option<TraceId>, rpc: &RpcInfo) {
    let stats = rpc.stats();
    let (sent, answered) = (stats.request(), stats.response());
    macro_rules! log {
        ($level:expr, $message:literal) => {
            // The fields are worked out only if a subscriber listens.
            event!(
                target: TARGET,
                parent: &running.spans.around,
                $level,
                role = rpc.role().as_str(),
                http_method = http_method(rpc),
                method = &*rpc
                    .full_method()
                    .map_or_else(|| escape(rpc.path(), PATH), Cow::Borrowed),
                peer = rpc
                    .peer()
                    .address()
                    .map(|peer| escape(&peer.to_string(), PATH).into_owned()),
                status = stats.status().map(status_text).as_deref(),
                http_status = http_answer(rpc),
                ending = stats.ending_label().map(|(_, ending)| ending),
                duration_ms = stats.elapsed().as_micros() as f64 / 1000.0,
                request_messages = sent.messages(),
                request_bytes = sent.body_bytes(),
                response_messages = answered.messages(),
                response_bytes = answered.body_bytes(),
                attempt = Some(rpc.attempt()).filter(|attempt| *attempt > 1),
                trace_id = of_span
                    .or_else(TraceId::current)
                    .or(running.trace_id)
                    .as_ref()
                    .map(TraceId::as_str),
                tags = tags(rpc).as_deref(),
                error = stats.error().map(|text| escape(text, TEXT)).as_deref(),
                panic = stats.panic().map(|text| escape(text, TEXT)).as_deref(),
                $message
            )
        };
    }
    macro_rules! log_at {
        ($($level:ident)*) => {
            match (level, stats.ending()) {
                $(
                    (Level::$level, Some(_)) => log!(Level::$level, "rpc"),
                    (Level::$level, None) => log!(Level::$level, "rpc still running"),
                )*
            }
        };
    }
    log_at!(ERROR WARN INFO DEBUG TRACE);
}

/// The HTTP method of plain HTTP, which the path alone does not tell.
fn http_method(rpc: &RpcInfo) -> Option<&str> {
    let method = rpc
        .http_method()
        .filter(|_| rpc.protocol() == Protocol::Http)?;
    method.as_str().get(..16).or(Some(method.as_str()))
}

fn status_text(status: Status) -> Cow<'static, str> {
    match status {
        Status::Grpc(code) => code.as_str().into(),
        Status::Http(status) => status.to_string().into(),
    }
}

/// All tags as `key=value`, if there are any.
fn tags(rpc: &RpcInfo) -> Option<String> {
    let tags = rpc.tags();
    if tags.is_empty() {
        return None;
    }
    let pairs: Vec<_> = tags
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    Some(escape(&pairs.join(" "), TEXT).into_owned())
}
