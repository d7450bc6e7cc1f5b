//! Reads one body as it passes, by the framing of its protocol.

use bytes::Buf;
use http::{
    HeaderMap, Method, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::Body;

#[cfg(feature = "connect")]
use super::connect;
use super::{Base64, EndFrame, Frames, Framing, WireStatus, detect, end_frame::Text, grpc};
use crate::rpc::{Protocol, Tally};

/// Reads one body: finds its messages, its end, and the status that it holds. It is small, since it
/// moves with the body.
#[derive(Debug, Default)]
pub(crate) enum BodyReader {
    /// Reads nothing: the RPC is untraced, or messages cannot be told from the bytes.
    #[default]
    Bytes,
    /// Messages of gRPC: the common case.
    Framed(Framing),
    /// Everything else.
    Other(Box<Other>),
}

/// How a body ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BodyEnd<'a> {
    /// Whether it ended with trailers, or with a frame that holds what trailers would.
    pub(crate) has_trailers: bool,
    /// The status that it ended with, or else the OK of its headers.
    pub(crate) status: Option<WireStatus<'a>>,
}

/// What a frame at the end of a body holds.
pub(crate) enum EndOfBody {
    /// The trailers of gRPC-Web.
    Trailers(HeaderMap),
    /// A status, as Connect has it there.
    #[cfg_attr(not(feature = "connect"), expect(dead_code))]
    Status(BodyEnd<'static>),
}

/// Reads a body that is not plain gRPC.
#[derive(Debug)]
pub(crate) struct Other {
    protocol: Protocol,
    messages: Messages,
    /// Reads the status at the end of a body, if it is in the body.
    end_frame: Option<Box<EndFrame>>,
    /// How many bytes are still to come; `UNKNOWN` if the length is not known.
    rest: u64,
    /// Whether that is the body's own size hint, which HTTP/1 makes a header of.
    hinted: bool,
    /// Whether trailers can follow when the body says that it is at its end.
    awaits_trailers: bool,
    /// HTTP allows no body here; a server drops it without a poll.
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

impl BodyReader {
    /// For a body of gRPC.
    #[inline]
    pub(crate) fn framed() -> Self {
        Self::Framed(Framing::default())
    }

    /// For the body of a request.
    #[inline]
    pub(crate) fn of_request<'a>(
        protocol: Protocol,
        headers: &HeaderMap,
        method: Option<&Method>,
        query: impl FnOnce() -> Option<&'a str>,
    ) -> Self {
        match protocol {
            Protocol::Grpc => Self::framed(),
            _ => Self::Other(Box::new(Other::of_request(
                protocol, headers, method, query,
            ))),
        }
    }

    /// For the body of the response to a request that spoke `asked`.
    pub(crate) fn of_response<B: Body>(response: &Response<B>, asked: Protocol) -> Self {
        let other = Other::of_response(response, asked);
        match asked == Protocol::Grpc && other.is_plain_grpc() {
            true => Self::framed(),
            false => Self::Other(Box::new(other)),
        }
    }

    /// Says how long the body is by its own size hint, which counts if its header says nothing.
    #[inline]
    pub(crate) fn hint(&mut self, length: impl FnOnce() -> Option<u64>) {
        if let Self::Other(other) = self
            && is_unframed(other.protocol)
        {
            other.hint(length());
        }
    }

    /// The body is about to be polled. A poller that trusts its size hint polls for no more than that.
    #[inline]
    pub(crate) fn before_poll(&mut self) {
        if let Self::Other(other) = self
            && other.hinted
            && other.rest == 0
        {
            other.rest = UNKNOWN;
        }
    }

    /// Reads the next piece, and reports the messages that it completes: their size and whether they
    /// are compressed. Returns `false` if messages can no longer be told from the bytes.
    #[inline]
    pub(crate) fn read(&mut self, data: &impl Buf, mut message: impl FnMut(u64, bool)) -> bool {
        let (bytes, length) = (data.chunk(), data.remaining());
        match self {
            Self::Bytes => true,
            Self::Framed(framing) if bytes.len() == length => {
                let mut found = Found {
                    message: &mut message,
                    end_frame: None,
                };
                framing.scan(bytes, &mut found);
                true
            }
            // A piece in parts cannot be read without taking it.
            Self::Framed(_) => {
                *self = Self::Bytes;
                false
            }
            Self::Other(other) => other.read(bytes, length, &mut message),
        }
    }

    /// Counts the messages that the next piece of plain gRPC completes, all at once; `None` for any other
    /// body, of which nothing is read.
    #[inline]
    pub(crate) fn tally(&mut self, data: &impl Buf) -> Option<Tally> {
        match self {
            Self::Framed(framing) if data.chunk().len() == data.remaining() => {
                Some(framing.tally(data.chunk()))
            }
            _ => None,
        }
    }

    /// The body is at its end, or dropped before it. Reports the message that ends with the body, and
    /// returns whether one was cut off.
    #[inline]
    pub(crate) fn end(&self, complete: bool, message: impl FnMut(u64, bool)) -> bool {
        match self {
            Self::Bytes => false,
            Self::Framed(framing) => framing.is_inside(),
            Self::Other(other) => other.end(complete, message),
        }
    }

    /// Whether the body is as long as its header says: it is over.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Other(other) if other.rest == 0 && !other.hinted)
    }

    /// Whether the body is whole if it is dropped now, as far as its length is known. More may still
    /// follow.
    pub(crate) fn is_at_end(&self) -> bool {
        matches!(self, Self::Other(other) if other.unread || other.rest == 0)
    }

    /// Whether the body is only at its end when a poll says so.
    pub(crate) fn awaits_trailers(&self) -> bool {
        matches!(self, Self::Other(other) if other.awaits_trailers)
    }

    /// Whether the headers had the status OK.
    #[inline]
    pub(crate) fn has_ok(&self) -> bool {
        matches!(self, Self::Other(other) if other.ok_in_headers)
    }

    /// Whether messages can be counted. An error is not a message.
    #[inline]
    pub(crate) fn counts_messages(&self) -> bool {
        match self {
            Self::Bytes => false,
            Self::Framed(_) => true,
            Self::Other(other) => {
                !matches!(other.messages, Messages::None) || other.end_frame.is_some()
            }
        }
    }

    /// What the frame at the end of the body holds, once it is complete.
    #[inline]
    pub(crate) fn end_of_body(&mut self) -> Option<EndOfBody> {
        match self {
            Self::Other(other) => other.end_frame.as_mut()?.end_of_body(),
            Self::Bytes | Self::Framed(_) => None,
        }
    }

    /// How a body ended that has no trailers.
    pub(crate) fn body_end(&mut self) -> BodyEnd<'static> {
        #[cfg(feature = "connect")]
        if let Self::Other(other) = self
            && let Some(error) = other.end_frame.as_mut().and_then(|end| end.unary_error())
        {
            return BodyEnd {
                has_trailers: false,
                status: Some(error),
            };
        }
        BodyEnd {
            has_trailers: false,
            status: self.has_ok().then_some(WireStatus::OK),
        }
    }

    /// How a body ended that has these trailers. Their status counts before the one in the headers.
    pub(crate) fn trailers_end<'a>(&self, trailers: &'a HeaderMap) -> BodyEnd<'a> {
        let protocol = match self {
            Self::Other(other) => other.protocol,
            Self::Bytes | Self::Framed(_) => Protocol::Grpc,
        };
        let status = WireStatus::in_headers(protocol, trailers);
        BodyEnd {
            has_trailers: true,
            status: status.or_else(|| self.has_ok().then_some(WireStatus::OK)),
        }
    }
}

impl Other {
    #[cfg_attr(not(feature = "connect"), expect(unused_variables))]
    fn of_request<'a>(
        protocol: Protocol,
        headers: &HeaderMap,
        method: Option<&Method>,
        query: impl FnOnce() -> Option<&'a str>,
    ) -> Self {
        #[cfg(feature = "connect")]
        if protocol == Protocol::ConnectUnary && method == Some(&Method::GET) {
            let query = query().unwrap_or_default();
            let mut reader = Self::nothing(protocol);
            if let Some((size, compressed)) = connect::message_in(query) {
                reader.messages = Messages::Outside { size, compressed };
            }
            return reader;
        }
        let mut reader = Self::new(protocol, headers);
        if is_unframed(protocol) {
            reader.rest = content_length(headers).unwrap_or(UNKNOWN);
        }
        reader
    }

    fn of_response<B: Body>(response: &Response<B>, asked: Protocol) -> Self {
        let headers = response.headers();
        let content_type = headers.get(CONTENT_TYPE);
        let mut reader = match detect::of_response(asked, content_type) {
            Some(protocol) => Self::response(protocol, headers),
            None => Self::nothing(asked),
        };
        // tonic-web's client translated it: its body still has the trailers when it says that it is
        // at its end.
        reader.awaits_trailers = asked == Protocol::Grpc && detect::is_grpc_web(content_type);
        reader.ok_in_headers = asked.is_grpc()
            && grpc::status(headers).is_some_and(|status| status.as_bytes() == b"0");
        #[cfg(feature = "connect")]
        if asked == Protocol::ConnectUnary && !response.status().is_success() {
            reader.read_error();
        }
        if is_unframed(asked) {
            reader.rest = content_length(headers).unwrap_or(UNKNOWN);
            reader.hint(response.body().size_hint().exact());
            reader.unread = matches!(
                response.status(),
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        }
        reader
    }

    /// Whether there is nothing to read but messages of gRPC.
    fn is_plain_grpc(&self) -> bool {
        matches!(self.messages, Messages::Framed(_)) && !self.awaits_trailers && !self.ok_in_headers
    }

    fn response(protocol: Protocol, headers: &HeaderMap) -> Self {
        let mut reader = Self::new(protocol, headers);
        let text = match protocol {
            Protocol::GrpcWeb | Protocol::GrpcWebText => Text::Trailers,
            #[cfg(feature = "connect")]
            Protocol::ConnectStreaming => Text::Stream,
            _ => return reader,
        };
        reader.end_frame = Some(Box::new(EndFrame::new(text)));
        reader
    }

    #[cfg_attr(not(feature = "connect"), expect(unused_variables))]
    fn new(protocol: Protocol, headers: &HeaderMap) -> Self {
        let messages = match protocol {
            Protocol::Grpc | Protocol::GrpcWeb | Protocol::ConnectStreaming => {
                Messages::Framed(Framing::default())
            }
            Protocol::GrpcWebText => Messages::Text(Base64::default(), Framing::default()),
            #[cfg(feature = "connect")]
            Protocol::ConnectUnary => Messages::Whole {
                size: 0,
                compressed: connect::is_compressed(headers),
            },
            _ => Messages::None,
        };
        Self {
            messages,
            ..Self::nothing(protocol)
        }
    }

    /// Reads nothing but the length.
    fn nothing(protocol: Protocol) -> Self {
        Self {
            protocol,
            messages: Messages::None,
            end_frame: None,
            rest: UNKNOWN,
            hinted: false,
            awaits_trailers: false,
            unread: false,
            ok_in_headers: false,
        }
    }

    fn hint(&mut self, length: Option<u64>) {
        if self.rest == UNKNOWN {
            self.rest = length.unwrap_or(UNKNOWN);
            self.hinted = true;
        }
    }

    /// The body is an error of Connect.
    #[cfg(feature = "connect")]
    fn read_error(&mut self) {
        let compressed = matches!(self.messages, Messages::Whole { compressed, .. } if compressed);
        self.messages = Messages::None;
        self.end_frame = Some(Box::new(EndFrame::of_unary_error(compressed)));
    }

    /// Reads a piece of this length, of which `bytes` are the first.
    fn read(&mut self, bytes: &[u8], length: usize, message: &mut impl FnMut(u64, bool)) -> bool {
        if self.rest != UNKNOWN {
            self.rest = self.rest.saturating_sub(length as u64);
        }
        let whole = bytes.len() == length;
        let mut found = Found {
            message,
            end_frame: self.end_frame.as_deref_mut(),
        };
        match &mut self.messages {
            Messages::Framed(framing) if whole => framing.scan(bytes, &mut found),
            Messages::Text(base64, framing) if whole => {
                let decoded = base64.decode(bytes, |bytes| framing.scan(bytes, &mut found));
                if decoded.is_err() {
                    self.messages = Messages::None;
                    return false;
                }
            }
            #[cfg(feature = "connect")]
            Messages::Whole { size, .. } => *size = size.saturating_add(length as u64),
            #[cfg(feature = "connect")]
            Messages::Outside { .. } => {}
            Messages::None => {
                let end_frame = self.end_frame.as_deref_mut();
                if let Some(end_frame) = end_frame.filter(|end| end.is_whole_body()) {
                    end_frame.push(bytes);
                    if !whole {
                        end_frame.lose();
                    }
                }
            }
            Messages::Framed(_) | Messages::Text(..) => {
                self.messages = Messages::None;
                return false;
            }
        }
        true
    }

    #[cfg_attr(not(feature = "connect"), expect(unused_variables, unused_mut))]
    fn end(&self, complete: bool, mut message: impl FnMut(u64, bool)) -> bool {
        match &self.messages {
            Messages::Framed(framing) => framing.is_inside(),
            Messages::Text(base64, framing) => base64.is_inside() || framing.is_inside(),
            #[cfg(feature = "connect")]
            Messages::Whole { size, compressed } => {
                if complete {
                    message(*size, *compressed);
                }
                !complete && *size > 0
            }
            #[cfg(feature = "connect")]
            Messages::Outside { size, compressed } => {
                if complete {
                    message(*size, *compressed);
                }
                false
            }
            Messages::None => false,
        }
    }
}

/// Whether bodies have neither frames nor trailers that matter: the end of the bytes is the end.
fn is_unframed(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Http | Protocol::ConnectUnary)
}

/// How long the body is by its header: a server that has sent so much does not poll again.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

struct Found<'a, M> {
    message: &'a mut M,
    end_frame: Option<&'a mut EndFrame>,
}

impl<M: FnMut(u64, bool)> Frames for Found<'_, M> {
    #[inline]
    fn content(&mut self, flags: u8, bytes: &[u8]) {
        if let Some(end_frame) = &mut self.end_frame
            && end_frame.is_flagged(flags)
        {
            end_frame.content(flags, bytes);
        }
    }

    #[inline]
    fn frame(&mut self, flags: u8, length: u32) {
        if let Some(end_frame) = &mut self.end_frame
            && end_frame.is_flagged(flags)
        {
            end_frame.complete(flags);
        } else {
            (self.message)(length.into(), flags & 1 != 0);
        }
    }
}
