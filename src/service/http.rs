//! How HTTP requests and responses are traced.

use std::{any::Any, fmt};

use http::{
    Extensions, HeaderMap, Method, Request, Response, StatusCode, Uri, header::CONTENT_LENGTH,
};
use http_body::Body;
#[cfg(feature = "tonic")]
use http_body_util::combinators::UnsyncBoxBody;

use super::{
    OpenRpc, ResponseBody, TracedResponse,
    body::RequestBody,
    counter::{Counter, Other},
    ending::Cause,
};
use crate::{
    protocol::{self, find, grpc},
    rpc::{Direction, Event, MethodPath, Protocol, RpcInfo},
    tracer::{RequestObserver, TracedRequest, Tracer, WireEventKind},
};

impl<B: 'static> TracedRequest for Request<B> {
    fn path(&self) -> &str {
        self.uri().path()
    }

    #[inline]
    fn to_path(&self) -> MethodPath {
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

    /// Counts the body where it is of a type that can hold any body: tonic's and axum's.
    #[inline(always)]
    fn observe(&mut self, observer: RequestObserver) {
        let Some(rpc) = observer.rpc() else { return };
        let counter = match rpc.protocol() {
            Protocol::Grpc => Counter::framed(),
            protocol => counter_of(self, protocol),
        };
        let body: &mut dyn Any = self.body_mut();
        #[cfg(feature = "tonic")]
        if let Some(body) = body.downcast_mut::<tonic::body::Body>() {
            // tonic takes a body in this box as it is; any other it wraps, to map its errors.
            return observe(body, counter, observer, |body| {
                tonic::body::Body::new(UnsyncBoxBody::new(body))
            });
        }
        #[cfg(feature = "axum")]
        if let Some(body) = body.downcast_mut::<axum::body::Body>() {
            return observe(body, counter, observer, axum::body::Body::new);
        }
        let _ = (body, counter, observer);
    }
}

/// What counts a request that is not gRPC's.
fn counter_of<B>(request: &Request<B>, protocol: Protocol) -> Counter {
    #[cfg(feature = "connect")]
    if protocol == Protocol::ConnectUnary && request.method() == Method::GET {
        let query = request.uri().query().unwrap_or_default();
        return Counter::other(Other::get(query));
    }
    let mut counter = Other::request(protocol, request.headers());
    if is_plain(protocol) {
        counter.expect(length_of(request.headers()));
    }
    Counter::other(counter)
}

/// Wraps a body and erases it into its own type again.
#[cfg_attr(
    not(any(feature = "tonic", feature = "axum")),
    expect(
        dead_code,
        reason = "no feature brings a body type that can hold any body"
    )
)]
#[inline(always)]
fn observe<B>(
    body: &mut B,
    mut counter: Counter,
    observer: RequestObserver,
    erase: fn(RequestBody<B>) -> B,
) where
    B: Body + Default,
    B::Error: fmt::Display + 'static,
{
    let Some(rpc) = observer.rpc() else { return };
    let cell = rpc.stats().cell(Direction::Request);
    cell.observe(counter.counts_messages());
    if body.is_end_stream() {
        if let Some(meter) = observer.meter() {
            counter.end(&meter, true);
        }
        return;
    }
    if let Counter::Other(other) = &mut counter
        && is_plain(rpc.protocol())
    {
        other.hint(body.size_hint().exact());
    }
    let inner = std::mem::take(body);
    *body = erase(RequestBody::new(inner, counter, observer));
}

impl<B> TracedResponse for Response<B>
where
    B: Body,
    B::Error: fmt::Display + 'static,
{
    type Traced<T: Tracer> = Response<ResponseBody<B, T>>;

    #[inline(always)]
    fn traced<T: Tracer>(self, mut open: OpenRpc<T>) -> Self::Traced<T> {
        if open.is_bare() {
            return self.map(ResponseBody::bare);
        }
        let counter = if begins_messages(&self, &open) {
            Counter::framed()
        } else {
            begin(&self, &mut open)
        };
        self.map(|body| ResponseBody::new(body, counter, open))
    }

    fn carry(&mut self, rpc: &RpcInfo) {
        self.extensions_mut().insert(rpc.clone());
    }
}

/// Whether this is the common case, the head of a response of gRPC that messages follow; then it is
/// put down, and else nothing.
#[inline]
fn begins_messages<B: Body, T: Tracer>(response: &Response<B>, open: &OpenRpc<T>) -> bool {
    let Some(rpc) = open.rpc() else {
        return false;
    };
    let headers = response.headers();
    let begins = rpc.protocol() == Protocol::Grpc
        && grpc::begins_messages(headers)
        && !response.body().is_end_stream();
    if begins {
        let stats = rpc.stats();
        stats.set_http_status(response.status().as_u16());
        stats.cell(Direction::Response).observe(true);
        if open.quiet_cell().is_none()
            && let Some(meter) = open.meter()
        {
            meter.event(
                Event::RESPONSE_HEADERS,
                WireEventKind::ResponseHeaders(headers),
            );
        }
    }
    begins
}

/// Looks at the head of a response; where that is all, the RPC is over.
#[inline(never)]
fn begin<B: Body, T: Tracer>(response: &Response<B>, open: &mut OpenRpc<T>) -> Counter {
    let (Some(meter), Some(rpc)) = (open.meter(), open.rpc()) else {
        return Counter::default();
    };
    let headers = response.headers();
    let protocol = rpc.protocol();
    let (content_type, [status]) = find(headers, [grpc::STATUS]);
    meter.stats.set_http_status(response.status().as_u16());
    let mut counter = match protocol::of_response(protocol, content_type) {
        Some(protocol) => Other::response(protocol, headers),
        None => Other::nothing(),
    };
    // tonic-web's client translated it: its body has the trailers yet when it says that it is at
    // its end.
    if protocol == Protocol::Grpc && protocol::is_grpc_web(content_type) {
        counter.wait();
    }
    #[cfg(feature = "connect")]
    if protocol == Protocol::ConnectUnary && !response.status().is_success() {
        counter.keep_error();
    }
    if is_plain(protocol) {
        counter.expect(length_of(headers));
        counter.hint(response.body().size_hint().exact());
        if has_no_body(response.status()) {
            counter.expect_none();
        }
    }
    // An error decides at once. OK does not: messages may follow, and trailers with another status.
    let is_grpc_ok = status.is_some_and(|status| status.as_bytes() == b"0");
    let is_grpc_error = protocol.is_grpc() && status.is_some() && !is_grpc_ok;
    if protocol.is_grpc() && is_grpc_ok {
        counter.expect_ok();
    }
    let counter = Counter::other(counter);
    let at_once =
        protocol == Protocol::Http && open.settings().is_some_and(|s| s.finish_at_response);
    // An HTTP server drops the body of an answer to HEAD unpolled, and that of a CONNECT it takes.
    let is_bodiless = protocol == Protocol::Http
        && rpc.http_method().is_some_and(|method| {
            *method == Method::HEAD
                || (*method == Method::CONNECT && response.status().is_success())
        });
    let is_whole = is_bodiless || response.body().is_end_stream();
    if is_whole || !at_once {
        meter.observe(counter.counts_messages());
    }
    meter.event(
        Event::RESPONSE_HEADERS,
        WireEventKind::ResponseHeaders(headers),
    );
    if is_whole {
        counter.end(&meter, true);
        open.end(&Cause::Headers(headers));
    } else if is_grpc_error {
        // Trailers-only, as gRPC calls it: nobody will look at the body.
        open.end(&Cause::Headers(headers));
    } else if at_once {
        open.end(&Cause::Told(None));
    }
    counter
}

/// Whether bodies have neither frames nor trailers that matter: the end of the bytes is the end.
#[inline]
fn is_plain(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Http | Protocol::ConnectUnary)
}

/// How long the body is, by its header: a server that has sent so much does not poll again.
fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether an HTTP/1 server drops the response's body unread, even if there is one.
fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}
