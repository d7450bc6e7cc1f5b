use std::time::Duration;

use super::internal::MessagesAt;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// What moved in one direction of an RPC: a snapshot, live while the RPC runs.
///
/// Every figure is an `Option`: `None` is "not known", never zero. Bytes are known if the layer
/// sees the body: always for a response, and for a request whose body is tonic's or axum's.
/// Messages are known if the protocol also frames them (gRPC, gRPC-Web, Connect streaming) or has
/// one message per body (Connect unary). A Connect GET has its message in the query. If the layer
/// sees the body, the decoded bytes of that message count as message bytes, not as body bytes. If
/// they cannot be decoded, messages are unknown.
///
/// A message counts when its last byte has passed the layer. A body that ended inside a message is
/// [`truncated`](Self::truncated), and that message is not counted.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    flags: u8,
    messages: u64,
    compressed_messages: u64,
    message_bytes: u64,
    body_bytes: u64,
    last_message_bytes: u64,
    first_message_at: Option<Duration>,
    last_message_at: Option<Duration>,
}

const BYTES: u8 = 1;
const MESSAGES: u8 = 1 << 1;
const COMPLETE: u8 = 1 << 2;
const TRUNCATED: u8 = 1 << 3;
const LOST: u8 = 1 << 4;

impl Traffic {
    /// How many complete messages passed: the length-prefixed messages of [gRPC's
    /// protocol](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md), the envelopes of
    /// [Connect's](https://connectrpc.com/docs/protocol) streams, or the body of its unary calls.
    #[must_use]
    pub fn messages(&self) -> Option<u64> {
        self.counts_messages().then_some(self.messages)
    }

    /// How many of the messages were compressed: by the flag of their prefix; for a unary call of
    /// Connect by `content-encoding`, and for its GET by `compression`.
    #[must_use]
    pub fn compressed_messages(&self) -> Option<u64> {
        self.counts_messages().then_some(self.compressed_messages)
    }

    /// Bytes of the messages as sent, so after compression, without their 5-byte prefixes.
    ///
    /// This is the "compressed message bytes" of gRPC's
    /// [A66](https://github.com/grpc/proposal/blob/master/A66-otel-stats.md).
    #[must_use]
    pub fn message_bytes(&self) -> Option<u64> {
        self.counts_messages().then_some(self.message_bytes)
    }

    /// Bytes of the body: messages with their prefixes, and whatever else it held, such as the last
    /// frame of gRPC-Web and of Connect's streams; no headers, no trailers of HTTP, no HTTP/2 framing.
    ///
    /// For complete messages of gRPC this is the sum of what grpc-go's
    /// [`stats`](https://pkg.go.dev/google.golang.org/grpc/stats) calls the wire length.
    #[must_use]
    pub fn body_bytes(&self) -> Option<u64> {
        (self.flags & BYTES != 0).then_some(self.body_bytes)
    }

    /// Size in bytes of the last complete message as sent, without its prefix, as
    /// [`message_bytes`](Self::message_bytes) counts it; `None` also if there was none.
    #[must_use]
    pub fn last_message_bytes(&self) -> Option<u64> {
        (self.counts_messages() && self.messages > 0).then_some(self.last_message_bytes)
    }

    /// When the first message was complete, from the start of the RPC. Known at level Detailed.
    #[must_use]
    pub fn first_message_at(&self) -> Option<Duration> {
        self.first_message_at
    }

    /// When the last message so far was complete, from the start of the RPC. Known at level Detailed.
    #[must_use]
    pub fn last_message_at(&self) -> Option<Duration> {
        self.last_message_at
    }

    /// Whether the body's end was seen; for plain HTTP and Connect's unary calls, also whether as
    /// many bytes passed as its length announced before it was dropped.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.flags & COMPLETE != 0
    }

    /// Whether the body came to its end, or was dropped, inside a message.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.flags & TRUNCATED != 0
    }

    fn counts_messages(&self) -> bool {
        self.flags & MESSAGES != 0
    }
}

/// Messages that passed together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) messages: u64,
    pub(crate) compressed_messages: u64,
    pub(crate) message_bytes: u64,
    pub(crate) last_message_bytes: u64,
}

/// One of the two ways through an RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

/// Where one direction is counted. Only one body writes, so plain stores suffice.
#[derive(Debug, Default)]
pub(crate) struct TrafficCell {
    flags: AtomicU8,
    messages: AtomicU64,
    compressed_messages: AtomicU64,
    message_bytes: AtomicU64,
    body_bytes: AtomicU64,
    last_message_bytes: AtomicU64,
}

impl TrafficCell {
    #[inline]
    pub(super) fn snapshot(&self, messages_at: Option<&MessagesAt>) -> Traffic {
        Traffic {
            flags: self.flags.load(Relaxed),
            messages: self.messages.load(Relaxed),
            compressed_messages: self.compressed_messages.load(Relaxed),
            message_bytes: self.message_bytes.load(Relaxed),
            body_bytes: self.body_bytes.load(Relaxed),
            last_message_bytes: self.last_message_bytes.load(Relaxed),
            first_message_at: messages_at.and_then(|at| at.first.get()),
            last_message_at: messages_at.and_then(|at| at.last.get()),
        }
    }

    /// From here on bytes are known; messages too if `messages`.
    #[inline]
    pub(crate) fn observe(&self, messages: bool) {
        self.set(if messages { BYTES | MESSAGES } else { BYTES });
    }

    #[inline]
    pub(crate) fn complete(&self) {
        self.set(COMPLETE);
    }

    pub(crate) fn truncate(&self) {
        self.set(TRUNCATED);
    }

    pub(crate) fn lose(&self) {
        self.set(LOST);
    }

    /// From here on the messages in the bytes are unknown.
    pub(crate) fn lose_messages(&self) {
        self.flags
            .store(self.flags.load(Relaxed) & !MESSAGES, Relaxed);
    }

    #[inline]
    pub(crate) fn bytes(&self, more: u64) {
        add(&self.body_bytes, more);
    }

    /// Counts a message and returns its number, from 0.
    #[inline]
    pub(crate) fn message(&self, size: u64, compressed: bool) -> u64 {
        let sequence = self.messages.load(Relaxed);
        add(&self.messages, 1);
        add(&self.message_bytes, size);
        if compressed {
            add(&self.compressed_messages, 1);
        }
        self.last_message_bytes.store(size, Relaxed);
        sequence
    }

    /// Counts several messages at once.
    #[inline]
    pub(crate) fn messages(&self, tally: &Tally) {
        if tally.messages == 0 {
            return;
        }
        add(&self.messages, tally.messages);
        add(&self.message_bytes, tally.message_bytes);
        add(&self.compressed_messages, tally.compressed_messages);
        self.last_message_bytes
            .store(tally.last_message_bytes, Relaxed);
    }

    /// How many bytes have passed.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Relaxed)
    }

    /// Whether the stream failed under the body, so that nothing more can pass either way.
    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        self.flags.load(Relaxed) & LOST != 0
    }

    #[inline]
    fn set(&self, flags: u8) {
        self.flags.store(self.flags.load(Relaxed) | flags, Relaxed);
    }
}

#[inline]
fn add(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Relaxed).saturating_add(more), Relaxed);
}
