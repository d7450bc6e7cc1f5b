//! Shortcuts for the common case, a gRPC call that succeeds. They change no record: without this file,
//! and the calls of it, everything takes the long way. The test `fast_path` compares the two.

use bytes::Buf;
use http::{HeaderMap, Response};
use http_body::{Body, Frame};

use super::RpcGuard;
use crate::{
    protocol::{BodyReader, grpc},
    rpc::{Direction, Event, Protocol, Role, TrafficCell},
    tracer::{StreamEventKind, Tracer},
};

/// Turned off by a test that compares.
#[cfg(feature = "testing")]
pub(crate) static OFF: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[inline(always)]
fn is_off() -> bool {
    #[cfg(feature = "testing")]
    return OFF.load(std::sync::atomic::Ordering::Relaxed);
    #[cfg(not(feature = "testing"))]
    return false;
}

/// The reader of a response's body, if messages of gRPC follow its head. Then the head is recorded.
#[inline(always)]
pub(super) fn response_reader<B: Body, T: Tracer>(
    response: &Response<B>,
    guard: &RpcGuard<T>,
) -> Option<BodyReader> {
    let rpc = guard.rpc()?;
    let is_common = rpc.protocol() == Protocol::Grpc
        && grpc::begins_messages(response.headers())
        && !response.body().is_end_stream()
        && !is_off();
    if !is_common {
        return None;
    }
    let stats = rpc.stats();
    stats.set_http_head(response);
    stats.cell(Direction::Response).observe(true);
    if guard.quiet_cell().is_none()
        && let Some(meter) = guard.meter()
    {
        let headers = StreamEventKind::ResponseHeaders(response.headers());
        meter.event(Event::RESPONSE_HEADERS, headers);
    }
    Some(BodyReader::framed())
}

/// Counts a frame that is one whole message. Else it does nothing and returns `false`.
#[inline(always)]
pub(super) fn count_message(
    reader: &BodyReader,
    cell: Option<&TrafficCell>,
    frame: &Frame<impl Buf>,
) -> bool {
    let (BodyReader::Framed(framing), Some(cell), Some(data)) = (reader, cell, frame.data_ref())
    else {
        return false;
    };
    let bytes = data.chunk();
    let Some((flags, content)) = framing.whole(bytes) else {
        return false;
    };
    if bytes.len() != data.remaining() || is_off() {
        return false;
    }
    cell.bytes(bytes.len() as u64);
    cell.message(content.len() as u64, flags & 1 != 0);
    true
}

/// Records the end of a response between messages, with OK in its trailers. Else it does nothing and
/// returns `false`.
#[inline(always)]
pub(super) fn ends_ok<T: Tracer>(
    reader: &BodyReader,
    guard: &RpcGuard<T>,
    trailers: &HeaderMap,
) -> bool {
    let (BodyReader::Framed(framing), Some(rpc)) = (reader, guard.rpc()) else {
        return false;
    };
    let has_lost_caller =
        || rpc.role() == Role::Server && rpc.stats().cell(Direction::Request).is_lost();
    let is_common = !framing.is_inside()
        && rpc.protocol().is_grpc()
        && !has_lost_caller()
        && grpc::status(trailers).is_some_and(|status| status.as_bytes() == b"0")
        && !is_off();
    if !is_common {
        return false;
    }
    if let Some(cell) = guard.quiet_cell() {
        cell.complete();
    } else if let Some(meter) = guard.meter() {
        meter.complete();
        meter.event(Event::TRAILERS, StreamEventKind::Trailers(trailers));
    }
    true
}
