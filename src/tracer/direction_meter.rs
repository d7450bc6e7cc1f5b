use std::cell::Cell;

use bytes::Buf;

use super::{EventSink, Message, StreamEventKind};
use crate::{
    protocol::BodyReader,
    rpc::{Direction, Event, Stats},
};

/// Counts one direction of an RPC, and tells those who want to hear.
pub(crate) struct DirectionMeter<'a> {
    pub(crate) stats: &'a Stats,
    pub(crate) direction: Direction,
    pub(crate) sink: Option<&'a dyn EventSink>,
    /// The moment this counts at, once the clock was read.
    now: Cell<Option<u64>>,
}

impl<'a> DirectionMeter<'a> {
    /// Counts what passes at one moment: the clock is read once at most.
    #[inline]
    pub(crate) fn new(
        stats: &'a Stats,
        direction: Direction,
        sink: Option<&'a dyn EventSink>,
    ) -> Self {
        Self {
            stats,
            direction,
            sink,
            now: Cell::new(None),
        }
    }

    #[inline]
    fn now(&self) -> u64 {
        self.now.get().unwrap_or_else(|| {
            let now = self.stats.now();
            self.now.set(Some(now));
            now
        })
    }

    /// From here on the direction's bytes are known; its messages too where `messages`.
    #[inline]
    pub(crate) fn observe(&self, messages: bool) {
        self.stats.cell(self.direction).observe(messages);
    }

    /// Bytes of the body passed.
    #[inline]
    pub(crate) fn bytes(&self, more: u64) {
        self.stats.cell(self.direction).bytes(more);
        // A frame that only ends a stream is no byte.
        if more > 0 && self.stats.is_detailed() {
            let (first, last) = match self.direction {
                Direction::Request => (Event::REQUEST_FIRST_BYTE, Event::REQUEST_LAST_BYTE),
                Direction::Response => (Event::RESPONSE_FIRST_BYTE, Event::RESPONSE_LAST_BYTE),
            };
            let now = self.now();
            self.stats.mark_at(first, now);
            self.stats.mark_latest(last, now);
        }
    }

    /// Whether no byte of the body has passed.
    pub(crate) fn is_empty(&self) -> bool {
        self.stats.cell(self.direction).body_bytes() == 0
    }

    /// A message is complete.
    #[inline]
    pub(crate) fn message(&self, size: u64, compressed: bool) {
        let cell = self.stats.cell(self.direction);
        let sequence = cell.message(size, compressed);
        if !self.stats.is_detailed() && self.sink.is_none() {
            return;
        }
        self.message_passed(Message {
            sequence,
            size,
            compressed,
        });
    }

    #[inline(never)]
    fn message_passed(&self, message: Message) {
        let (event, kind) = match self.direction {
            Direction::Request => (
                Event::REQUEST_FIRST_MESSAGE,
                StreamEventKind::RequestMessage(message),
            ),
            Direction::Response => (
                Event::RESPONSE_FIRST_MESSAGE,
                StreamEventKind::ResponseMessage(message),
            ),
        };
        if self.stats.is_detailed() {
            self.stats.message_at(self.direction, self.now());
        }
        self.event(event, kind);
    }

    /// The end of the body was seen.
    #[inline]
    pub(crate) fn complete(&self) {
        self.stats.cell(self.direction).complete();
        if self.direction == Direction::Request {
            self.event(Event::HALF_CLOSE, StreamEventKind::HalfClose);
        }
    }

    /// Counts the next piece of a body.
    #[inline]
    pub(crate) fn read(&self, reader: &mut BodyReader, data: &impl Buf) {
        self.bytes(data.remaining() as u64);
        if self.sink.is_none()
            && !self.stats.is_detailed()
            && let Some(tally) = reader.tally(data)
        {
            return self.stats.cell(self.direction).messages(&tally);
        }
        let readable = reader.read(data, |size, compressed| self.message(size, compressed));
        if !readable {
            self.stats.cell(self.direction).lose_messages();
        }
    }

    /// The body is at its end, or dropped before it.
    #[inline]
    pub(crate) fn end(&self, reader: &BodyReader, complete: bool) {
        let truncated = reader.end(complete, |size, compressed| self.message(size, compressed));
        if truncated {
            self.stats.cell(self.direction).truncate();
        }
        if complete {
            self.complete();
        }
    }

    /// The stream failed under the body.
    pub(crate) fn lose(&self) {
        self.stats.cell(self.direction).lose();
    }

    /// Something other than a message passed.
    #[inline]
    pub(crate) fn event(&self, event: Event, kind: StreamEventKind<'_>) {
        if self.stats.is_detailed() {
            self.stats.mark_at(event, self.now());
        }
        self.tell(kind);
    }

    /// Tells those who want to hear.
    #[inline]
    pub(crate) fn tell(&self, kind: StreamEventKind<'_>) {
        if let Some(sink) = self.sink {
            sink.emit(kind, self.now());
        }
    }
}
