use http::HeaderMap;
use std::time::Duration;

/// Something that passed the layer, as [`Tracer::on_event`](crate::Tracer::on_event) sees it.
///
/// Together these are what grpc-go's `stats.Handler` sees: on a client the request's are its "out"
/// events and the response's its "in" events, on a server the other way round.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StreamEvent<'a> {
    /// When, from the start of the RPC.
    pub at: Duration,
    /// What.
    pub kind: StreamEventKind<'a>,
}

/// What passed the layer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum StreamEventKind<'a> {
    /// The request's headers, as the tracers left them, on their way to the inner service.
    RequestHeaders(&'a HeaderMap),
    /// A message of the request is complete.
    RequestMessage(Message),
    /// The end of the request's body: the client sends no more.
    HalfClose,
    /// The response's headers.
    ResponseHeaders(&'a HeaderMap),
    /// A message of the response is complete.
    ResponseMessage(Message),
    /// The response's trailers.
    Trailers(&'a HeaderMap),
}

/// A message on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Its number in its direction, from 0.
    pub sequence: u64,
    /// Its size in bytes as sent, so after compression, without the 5-byte prefix.
    pub size: u64,
    /// Whether it is compressed.
    pub compressed: bool,
}

/// Takes events and progress to the tracers.
pub(crate) trait EventSink: Send + Sync {
    /// Whether a tracer wants events; if not, this is for progress alone.
    fn wants_events(&self) -> bool;

    fn emit(&self, kind: StreamEventKind<'_>, at: u64);

    /// Something has passed: reports progress if it is time.
    fn progress(&self);
}
