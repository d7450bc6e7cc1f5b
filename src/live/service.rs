//! The page over HTTP.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use tower_service::Service;

use super::{
    Access,
    config::Config,
    filter::{Query, Refused},
    guard, html,
    page::{Page, one},
    text,
    tracer::Shared,
};

const SCRIPT: &str = include_str!("app.js");
const STYLE: &str = include_str!("style.css");

/// Nothing but what this page serves is loaded, and nothing inline runs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The page as a tower service; made by [`Live::service`](super::Live::service).
#[derive(Clone)]
pub struct LiveService {
    shared: Arc<Shared>,
    config: Arc<Config>,
}

/// The answer of a [`LiveService`].
#[derive(Debug)]
pub struct LiveFuture(Ready<Response<LiveBody>>);

/// The body of an answer.
#[derive(Debug)]
pub struct LiveBody(Option<Bytes>);

impl LiveService {
    pub(super) fn new(shared: Arc<Shared>, config: Arc<Config>) -> Self {
        Self { shared, config }
    }

    fn answer(&self, parts: &Parts) -> Response<LiveBody> {
        let access = match guard::check(parts, &self.config) {
            Ok(access) => access,
            Err((status, why)) => return plain(status, why),
        };
        if parts.method != Method::GET && parts.method != Method::HEAD {
            let mut response = plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "this page is for reading: GET\n",
            );
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            return response;
        }
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        match (path.trim_end_matches('/').rsplit('/').next(), query) {
            (Some("app.js"), _) | (_, "app.js") => return typed("text/javascript", SCRIPT.into()),
            (Some("style.css"), _) | (_, "style.css") => return typed("text/css", STYLE.into()),
            _ => {}
        }
        let parsed = Query::parse(query).and_then(|query| {
            if access != Access::Everything {
                query.filter.check_public()?;
            }
            Ok(query)
        });
        let mut query = match parsed {
            Ok(query) => query,
            Err(Refused::Invalid(why)) => {
                return plain(StatusCode::BAD_REQUEST, format!("{why}\n"));
            }
            Err(Refused::Private(why)) => return plain(StatusCode::FORBIDDEN, format!("{why}\n")),
        };
        let path = path
            .strip_suffix(".json")
            .inspect(|_| query.format = Some("json".into()))
            .unwrap_or(path);
        if let Some((_, id)) = path.rsplit_once("/rpc/") {
            match u64::from_str_radix(id, 16) {
                Ok(id) => query.rpc = Some(id),
                Err(_) => return plain(StatusCode::NOT_FOUND, "there is no such RPC\n"),
            }
        } else if !matches!(path, "" | "/" | "/index") {
            return plain(StatusCode::NOT_FOUND, "there is no such page: see /\n");
        }
        let format = query
            .format
            .as_deref()
            .unwrap_or_else(|| preferred(&parts.headers));
        match query.rpc {
            Some(id) => {
                let Some(rpc) = one(&self.shared, id, access) else {
                    return plain(
                        StatusCode::NOT_FOUND,
                        "this RPC is over, and was not kept\n",
                    );
                };
                match format {
                    "json" => json(&rpc),
                    "html" => typed("text/html", html::rpc(&rpc, &self.config)),
                    _ => typed("text/plain", text::rpc(&rpc)),
                }
            }
            None => {
                let page = Page::of(&self.shared, &self.config, &query, access);
                match format {
                    "json" => json(&page),
                    "html" => typed("text/html", html::page(&page, &query)),
                    _ => typed("text/plain", text::page(&page, &query)),
                }
            }
        }
    }
}

/// Browsers ask for HTML, `curl` for anything.
fn preferred(headers: &HeaderMap) -> &'static str {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    match accept.unwrap_or_default() {
        accept if accept.contains("text/html") => "html",
        accept if accept.contains("application/json") => "json",
        _ => "text",
    }
}

fn json(value: &impl serde::Serialize) -> Response<LiveBody> {
    match serde_json::to_string(value) {
        Ok(json) => typed("application/json", json),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "no JSON\n"),
    }
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response<LiveBody> {
    let mut response = typed("text/plain", text.into());
    *response.status_mut() = status;
    response
}

fn typed(kind: &'static str, body: String) -> Response<LiveBody> {
    let mut response = Response::new(LiveBody(Some(body.into())));
    let kind = match kind {
        "application/json" => "application/json",
        "text/html" => "text/html; charset=utf-8",
        "text/css" => "text/css; charset=utf-8",
        "text/javascript" => "text/javascript; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    };
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

impl<B> Service<Request<B>> for LiveService {
    type Response = Response<LiveBody>;
    type Error = Infallible;
    type Future = LiveFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> LiveFuture {
        let (parts, _) = request.into_parts();
        LiveFuture(ready(self.answer(&parts)))
    }
}

impl Future for LiveFuture {
    type Output = Result<Response<LiveBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Ok)
    }
}

impl Body for LiveBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

impl fmt::Debug for LiveService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveService")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
