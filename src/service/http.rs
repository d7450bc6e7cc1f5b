//! How HTTP requests and responses are traced.

use std::{any::Any, fmt};

use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
#[cfg(feature = "tonic")]
use http_body_util::combinators::UnsyncBoxBody;

#[cfg(any(feature = "tonic", feature = "axum"))]
use super::body_types::count;
#[cfg(feature = "http-body-util")]
use super::body_types::known;
use super::{
    ResponseBody, RpcGuard, TracedResponse, body_types::Counter, fast_path, outcome::Cause,
};
use crate::{
    protocol::{BodyReader, WireStatus},
    rpc::{Code, Event, MethodPath, Protocol, RpcInfo},
    tracer::{RequestObserver, StreamEventKind, TracedRequest, Tracer},
};

impl<B: 'static> TracedRequest for Request<B> {
    fn path(&self) -> &str {
        self.uri().path()
    }

    #[inline]
    fn method_path(&self) -> MethodPath {
        match self.uri().path_and_query() {
            Some(path) => MethodPath::from(path.clone()),
            None => MethodPath::from(""),
        }
    }

    fn uri(&self) -> Option<&Uri> {
        // A router takes the prefix of a nested one off the request's own URI.
        #[cfg(feature = "axum")]
        if let Some(axum::extract::OriginalUri(received)) = Self::extensions(self).get() {
            return Some(received);
        }
        Some(Self::uri(self))
    }

    fn http_method(&self) -> Option<&Method> {
        Some(self.method())
    }

    fn version(&self) -> Option<Version> {
        Some(Self::version(self))
    }

    fn headers(&self) -> Option<&HeaderMap> {
        Some(Self::headers(self))
    }

    fn headers_mut(&mut self) -> Option<&mut HeaderMap> {
        Some(Self::headers_mut(self))
    }

    fn extensions(&self) -> Option<&Extensions> {
        Some(Self::extensions(self))
    }

    fn extensions_mut(&mut self) -> Option<&mut Extensions> {
        Some(Self::extensions_mut(self))
    }

    fn body_mut(&mut self) -> Option<&mut dyn Any> {
        Some(Self::body_mut(self))
    }

    /// Counts the body if it is of a type that can hold any body, or that is all in memory.
    #[inline(always)]
    fn observe(&mut self, observer: RequestObserver) {
        let Some(rpc) = observer.rpc() else { return };
        let reader =
            BodyReader::of_request(rpc.protocol(), self.headers(), Some(self.method()), || {
                self.uri().query()
            });
        let counter = Counter { reader, observer };
        let body: &mut dyn Any = self.body_mut();
        #[cfg(feature = "tonic")]
        if let Some(body) = body.downcast_mut::<tonic::body::Body>() {
            // tonic takes a body in this box as it is. It wraps any other, to map its errors.
            return count(body, counter, |body| {
                tonic::body::Body::new(UnsyncBoxBody::new(body))
            });
        }
        #[cfg(feature = "axum")]
        if let Some(body) = body.downcast_mut::<axum::body::Body>() {
            return count(body, counter, axum::body::Body::new);
        }
        #[cfg(feature = "http-body-util")]
        known::count(body, counter);
        #[cfg(not(feature = "http-body-util"))]
        let _ = (body, counter);
    }
}

impl<B> TracedResponse for Response<B>
where
    B: Body,
    B::Error: fmt::Display + 'static,
{
    type Traced<T: Tracer> = Response<ResponseBody<B, T>>;

    #[inline(always)]
    fn attach<T: Tracer>(self, mut guard: RpcGuard<T>) -> Self::Traced<T> {
        if guard.is_bare() {
            return self.map(ResponseBody::bare);
        }
        #[cfg(feature = "connection")]
        note_connection(&self, &guard);
        let reader =
            fast_path::response_reader(&self, &guard).unwrap_or_else(|| begin(&self, &mut guard));
        self.map(|body| ResponseBody::new(body, reader, guard))
    }

    fn set_rpc(&mut self, rpc: &RpcInfo) {
        self.extensions_mut().insert(rpc.clone());
    }
}

/// hyper-util's client says in a response which connection it came on.
#[cfg(feature = "connection")]
fn note_connection<B, T: Tracer>(response: &Response<B>, guard: &RpcGuard<T>) {
    use crate::connection::ConnectionInfo;
    if let Some(connection) = response.extensions().get::<ConnectionInfo>()
        && let Some(rpc) = guard.rpc()
    {
        rpc.set_connection(connection.clone());
    }
}

/// Records the head of a response. If that is all of the response, the RPC is over.
#[inline(never)]
fn begin<B: Body, T: Tracer>(response: &Response<B>, guard: &mut RpcGuard<T>) -> BodyReader {
    let (Some(meter), Some(rpc)) = (guard.meter(), guard.rpc()) else {
        return BodyReader::default();
    };
    let headers = response.headers();
    let protocol = rpc.protocol();
    meter.stats.set_http_head(response);
    let reader = BodyReader::of_response(response, protocol);
    let status = WireStatus::in_headers(protocol, headers);
    // An error decides at once, and the peer does not look at the body. OK does not: messages may
    // follow, and trailers with another status.
    let is_error = status
        .as_ref()
        .is_some_and(|status| status.code != Some(Code::Ok));
    let is_whole = is_bodiless(rpc, response.status()) || response.body().is_end_stream();
    let at_once = protocol == Protocol::Http
        && guard
            .config()
            .is_some_and(|config| config.finish_at_response);
    if is_whole || !at_once {
        meter.observe(reader.counts_messages());
    }
    meter.event(
        Event::RESPONSE_HEADERS,
        StreamEventKind::ResponseHeaders(headers),
    );
    if is_whole {
        meter.end(&reader, true);
    }
    if is_whole || is_error {
        guard.finish_with(Cause::Headers(status));
    } else if at_once {
        guard.finish_with(Cause::Explicit(None));
    }
    reader
}

/// An HTTP server drops the body of the response to HEAD without a poll, and that of a CONNECT that
/// succeeds.
fn is_bodiless(rpc: &RpcInfo, status: StatusCode) -> bool {
    rpc.protocol() == Protocol::Http
        && rpc.http_method().is_some_and(|method| {
            *method == Method::HEAD || (*method == Method::CONNECT && status.is_success())
        })
}
