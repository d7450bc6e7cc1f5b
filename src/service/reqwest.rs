//! How the requests and responses of reqwest are traced.

use std::{
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use ::reqwest::{Body, Error, Request, Response, ResponseBuilderExt as _};
use bytes::Bytes;
use http::{HeaderMap, Method, Uri, Version};
use http_body::{Frame, SizeHint};

use super::{
    ResponseBody, RpcGuard, TracedResponse,
    body_types::{Counter, count},
};
use crate::{
    protocol::BodyReader,
    rpc::{Role, RpcInfo},
    tracer::{RequestObserver, TracedRequest, Tracer},
};

/// A request of a client. Its extensions are private to reqwest, so it does not carry the record: the parent
/// of an RPC is the record that is current.
impl TracedRequest for Request {
    fn path(&self) -> &str {
        self.url().path()
    }

    fn to_uri(&self) -> Option<Uri> {
        self.url().as_str().parse().ok()
    }

    fn fixed_role(&self) -> Option<Role> {
        Some(Role::Client)
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

    /// Counts a stream as it passes. Bytes in memory are counted at once and stay as they are: reqwest sends
    /// them again after a redirect, which it cannot do with a stream.
    fn observe(&mut self, observer: RequestObserver) {
        let Some(rpc) = observer.rpc() else { return };
        let reader =
            BodyReader::of_request(rpc.protocol(), self.headers(), Some(self.method()), || {
                self.url().query()
            });
        let counter = Counter { reader, observer };
        match self.body_mut() {
            None => counter.count_whole(&[]),
            Some(body) => match body.as_bytes() {
                Some(bytes) => counter.count_whole(bytes),
                None => count(body, counter, Body::wrap),
            },
        }
    }
}

impl TracedResponse for Response {
    type Traced<T: Tracer> = Self;

    /// Wraps the body by way of `http::Response`, which all but the URL survives.
    fn attach<T: Tracer>(self, guard: RpcGuard<T>) -> Self {
        if guard.is_bare() {
            return self;
        }
        let url = http::Response::builder().url(self.url().clone());
        let response = http::Response::<Body>::from(self).attach(guard);
        let mut response = response.map(|body| Body::wrap(SyncBody(Mutex::new(body))));
        if let Ok(with_url) = url.body(()) {
            let extensions = with_url.into_parts().0.extensions;
            response.extensions_mut().extend(extensions);
        }
        response.into()
    }

    fn set_rpc(&mut self, rpc: &RpcInfo) {
        self.extensions_mut().insert(rpc.clone());
    }
}

/// reqwest wants a body that is `Sync`; a tracer's state need not be. The lock is never contended.
struct SyncBody<T: Tracer>(Mutex<ResponseBody<Body, T>>);

impl<T: Tracer> SyncBody<T> {
    fn with<R>(&self, read: impl FnOnce(&ResponseBody<Body, T>) -> R) -> R {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Tracer> http_body::Body for SyncBody<T> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let body = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.with(ResponseBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.with(ResponseBody::size_hint)
    }
}
