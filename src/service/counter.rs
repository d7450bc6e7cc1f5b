//! Counts the data of one body, by the framing of its protocol.

use bytes::Buf;
use http::HeaderMap;

use crate::{
    protocol::{Base64, EndFrame, EndStatus, Frames, Framing, Text},
    rpc::{Protocol, TrafficCell},
    tracer::Meter,
};

/// Counts the data of one body. Small, since it is moved with the body.
#[derive(Debug, Default)]
pub(super) enum Counter {
    /// Bytes only: nobody traces the RPC, or messages cannot be told from the bytes.
    #[default]
    Bytes,
    /// Messages of gRPC.
    Framed(Framing),
    /// What is not plain gRPC.
    Other(Box<Other>),
}

/// Counts the data of a body that is not plain gRPC's.
#[derive(Debug)]
pub(super) struct Other {
    messages: Messages,
    /// What says the status at the end of a body, where that is in the body.
    last: Option<Box<EndFrame>>,
    /// How many bytes are still to come; `UNKNOWN` where the length is not known.
    rest: u64,
    /// Whether that is the body's own word, which HTTP/1 puts into the header.
    hinted: bool,
    /// Whether trailers can follow when the body says that it is at its end.
    waits: bool,
    /// Nobody is to look at the body, even if there is one.
    unread: bool,
    /// The headers have the status OK, and more follows them.
    ok_in_headers: bool,
}

const UNKNOWN: u64 = u64::MAX;

/// Where the messages of a body are.
#[derive(Debug)]
enum Messages {
    /// Nowhere: the protocol has none, or they cannot be told from the bytes.
    None,
    /// Behind prefixes.
    Framed(Framing),
    /// Behind prefixes, all in base64.
    Text(Base64, Framing),
    /// The body is one message.
    #[cfg(feature = "connect")]
    Whole { size: u64, compressed: bool },
    /// One message, outside of the body.
    #[cfg(feature = "connect")]
    Outside { size: u64, compressed: bool },
}

impl Counter {
    /// For a body of gRPC.
    #[inline]
    pub(super) fn framed() -> Self {
        Self::Framed(Framing::default())
    }

    #[inline]
    pub(super) fn other(other: Other) -> Self {
        Self::Other(Box::new(other))
    }

    /// The body is polled.
    #[inline]
    pub(super) fn ask(&mut self) {
        if let Self::Other(other) = self {
            other.ask();
        }
    }

    /// A piece of the body passed, and was counted if it was the common case: one whole message.
    #[inline]
    pub(super) fn whole_message(&self, cell: &TrafficCell, data: &impl Buf) -> bool {
        let bytes = data.chunk();
        let Self::Framed(framing) = self else {
            return false;
        };
        let Some((flags, content)) = framing.whole(bytes) else {
            return false;
        };
        if bytes.len() != data.remaining() {
            return false;
        }
        cell.bytes(bytes.len() as u64);
        cell.message(content.len() as u64, flags & 1 != 0);
        true
    }

    /// A piece of the body passed.
    #[inline]
    pub(super) fn data(&mut self, meter: &Meter<'_>, data: &impl Buf) {
        let (bytes, length) = (data.chunk(), data.remaining());
        meter.bytes(length as u64);
        match self {
            Self::Bytes => {}
            Self::Framed(framing) if bytes.len() == length => {
                framing.scan(bytes, &mut Found { meter, last: None });
            }
            Self::Framed(_) => {
                *self = Self::Bytes;
                meter.lose_messages();
            }
            Self::Other(other) => other.data(meter, bytes, length),
        }
    }

    /// The body is at its end, and that was put down if it was the common case: between messages.
    #[inline]
    pub(super) fn end_between(&self, cell: &TrafficCell) -> bool {
        let between = matches!(self, Self::Framed(framing) if !framing.is_inside());
        if between {
            cell.complete();
        }
        between
    }

    /// The body is at its end, or dropped.
    #[inline]
    pub(super) fn end(&self, meter: &Meter<'_>, complete: bool) {
        match self {
            Self::Bytes => {}
            Self::Framed(framing) if framing.is_inside() => meter.truncate(),
            Self::Framed(_) => {}
            Self::Other(other) => other.end(meter, complete),
        }
        if complete {
            meter.complete();
        }
    }

    /// Whether the body is as long as its header says: it is over.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Other(other) if other.rest == 0 && !other.hinted)
    }

    /// Whether the body is at its end as far as was said: dropped now it is whole. More may follow
    /// all the same.
    pub(super) fn is_at_end(&self) -> bool {
        matches!(self, Self::Other(other) if other.unread || other.rest == 0)
    }

    /// Whether the body is only at its end when a poll says so.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Other(other) if other.waits)
    }

    /// Whether the headers had the status OK.
    #[inline]
    pub(super) fn has_ok(&self) -> bool {
        matches!(self, Self::Other(other) if other.ok_in_headers)
    }

    /// Whether messages can be counted. An error is none.
    #[inline]
    pub(super) fn counts_messages(&self) -> bool {
        match self {
            Self::Bytes => false,
            Self::Framed(_) => true,
            Self::Other(other) => other.counts_messages(),
        }
    }

    /// The body's own word on how the RPC ended, once it was there.
    #[inline]
    pub(super) fn end_status(&mut self) -> Option<EndStatus> {
        match self {
            Self::Other(other) => other.end_status(),
            Self::Bytes | Self::Framed(_) => None,
        }
    }

    /// The error of a unary call of Connect, whose body is at its end.
    #[cfg(feature = "connect")]
    pub(super) fn error(&mut self) -> Option<crate::protocol::connect::Error> {
        match self {
            Self::Other(other) => other.error(),
            Self::Bytes | Self::Framed(_) => None,
        }
    }
}

impl Other {
    /// For the request of an RPC.
    #[inline]
    pub(super) fn request(protocol: Protocol, headers: &HeaderMap) -> Self {
        Self::new(protocol, headers)
    }

    /// For the request of a call whose message is the query of a GET.
    #[cfg(feature = "connect")]
    pub(super) fn get(query: &str) -> Self {
        let messages = match crate::protocol::connect::message_in(query) {
            Some((size, compressed)) => Messages::Outside { size, compressed },
            None => Messages::None,
        };
        Self {
            messages,
            ..Self::nothing()
        }
    }

    /// For the response to it.
    #[inline]
    pub(super) fn response(protocol: Protocol, headers: &HeaderMap) -> Self {
        let mut counter = Self::new(protocol, headers);
        let text = match protocol {
            Protocol::GrpcWeb | Protocol::GrpcWebText => Text::Trailers,
            #[cfg(feature = "connect")]
            Protocol::ConnectStreaming => Text::Stream,
            _ => return counter,
        };
        counter.last = Some(Box::new(EndFrame::new(text)));
        counter
    }

    #[inline]
    fn new(protocol: Protocol, headers: &HeaderMap) -> Self {
        let messages = match protocol {
            Protocol::Grpc | Protocol::GrpcWeb | Protocol::ConnectStreaming => {
                Messages::Framed(Framing::default())
            }
            Protocol::GrpcWebText => Messages::Text(Base64::default(), Framing::default()),
            #[cfg(feature = "connect")]
            Protocol::ConnectUnary => Messages::Whole {
                size: 0,
                compressed: headers
                    .get(http::header::CONTENT_ENCODING)
                    .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")),
            },
            _ => Messages::None,
        };
        let _ = headers;
        Self {
            messages,
            ..Self::nothing()
        }
    }

    /// Counts nothing but bytes.
    pub(super) fn nothing() -> Self {
        Self {
            messages: Messages::None,
            last: None,
            rest: UNKNOWN,
            hinted: false,
            waits: false,
            unread: false,
            ok_in_headers: false,
        }
    }

    fn counts_messages(&self) -> bool {
        !matches!(self.messages, Messages::None) || self.last.is_some()
    }

    /// Tells how long the body is, by its header.
    pub(super) fn expect(&mut self, length: Option<u64>) {
        self.rest = length.unwrap_or(UNKNOWN);
    }

    /// Tells how long the body is by its own word, which counts where its header says nothing.
    pub(super) fn hint(&mut self, length: Option<u64>) {
        if self.rest == UNKNOWN {
            self.rest = length.unwrap_or(UNKNOWN);
            self.hinted = true;
        }
    }

    /// The headers have the status OK: it counts if no other follows.
    pub(super) fn expect_ok(&mut self) {
        self.ok_in_headers = true;
    }

    /// Tells that nobody is to look at the body, even if there is one.
    pub(super) fn expect_none(&mut self) {
        self.unread = true;
    }

    /// The body is polled: one who goes by its own word would not ask it for more than that.
    fn ask(&mut self) {
        if self.hinted && self.rest == 0 {
            self.rest = UNKNOWN;
        }
    }

    /// Has the end waited for, whatever the body says of itself.
    pub(super) fn wait(&mut self) {
        self.waits = true;
    }

    /// Reads the body itself, which holds the error.
    #[cfg(feature = "connect")]
    pub(super) fn keep_error(&mut self) {
        let compressed = matches!(self.messages, Messages::Whole { compressed, .. } if compressed);
        self.messages = Messages::None;
        self.last = Some(Box::new(EndFrame::unary_error(compressed)));
    }

    #[cfg(feature = "connect")]
    fn error(&mut self) -> Option<crate::protocol::connect::Error> {
        self.last.as_mut()?.error()
    }

    /// A piece of the body passed, of which `bytes` are the first.
    fn data(&mut self, meter: &Meter<'_>, bytes: &[u8], length: usize) {
        if self.rest != UNKNOWN {
            self.rest = self.rest.saturating_sub(length as u64);
        }
        let whole = bytes.len() == length;
        let mut found = Found {
            meter,
            last: self.last.as_deref_mut(),
        };
        match &mut self.messages {
            Messages::Framed(framing) if whole => framing.scan(bytes, &mut found),
            Messages::Text(base64, framing) if whole => {
                let decoded = base64.decode(bytes, |bytes| framing.scan(bytes, &mut found));
                if decoded.is_err() {
                    self.lose_messages(meter);
                }
            }
            #[cfg(feature = "connect")]
            Messages::Whole { size, .. } => *size = size.saturating_add(length as u64),
            #[cfg(feature = "connect")]
            Messages::Outside { .. } => {}
            Messages::None => {
                if let Some(last) = self.last.as_deref_mut().filter(|last| last.is_whole_body()) {
                    last.push(bytes);
                    // Data in pieces is only seen in part.
                    if !whole {
                        last.lose();
                    }
                }
            }
            // Data in pieces cannot be looked at without taking it.
            Messages::Framed(_) | Messages::Text(..) => self.lose_messages(meter),
        }
    }

    #[cfg_attr(not(feature = "connect"), expect(unused_variables))]
    fn end(&self, meter: &Meter<'_>, complete: bool) {
        let truncated = match &self.messages {
            Messages::Framed(framing) => framing.is_inside(),
            Messages::Text(base64, framing) => base64.is_inside() || framing.is_inside(),
            #[cfg(feature = "connect")]
            Messages::Whole { size, compressed } => {
                if complete {
                    meter.message(*size, *compressed);
                }
                !complete && *size > 0
            }
            #[cfg(feature = "connect")]
            Messages::Outside { size, compressed } => {
                if complete {
                    meter.message(*size, *compressed);
                }
                false
            }
            Messages::None => false,
        };
        if truncated {
            meter.truncate();
        }
    }

    fn end_status(&mut self) -> Option<EndStatus> {
        self.last.as_mut()?.status()
    }

    #[cold]
    fn lose_messages(&mut self, meter: &Meter<'_>) {
        self.messages = Messages::None;
        meter.lose_messages();
    }
}

struct Found<'a, 'm> {
    meter: &'a Meter<'m>,
    last: Option<&'a mut EndFrame>,
}

impl Frames for Found<'_, '_> {
    #[inline]
    fn content(&mut self, flags: u8, bytes: &[u8]) {
        if let Some(last) = &mut self.last
            && last.is_flagged(flags)
        {
            last.content(flags, bytes);
        }
    }

    #[inline]
    fn frame(&mut self, flags: u8, length: u32) {
        if let Some(last) = &mut self.last
            && last.is_flagged(flags)
        {
            last.complete(flags);
        } else {
            self.meter.message(length.into(), flags & 1 != 0);
        }
    }
}
