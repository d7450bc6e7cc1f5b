//! The page as a tower service.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use tokio::runtime::Handle;
use tower_service::Service;

#[cfg(feature = "connection")]
use super::connections::ConnectionsPage;
use super::{
    Access,
    answer::{Kind, LiveBody, events, json, plain, whole},
    config::Config,
    desk::Waiting,
    events::Events,
    filter::{MOST, Query, Refused, View},
    guard, html,
    page::one,
    schema::Page,
    text,
    tracer::Shared,
    watch::WATCHERS,
};

const SCRIPT: &str = include_str!("app.js");
const STYLE: &str = include_str!("style.css");

/// The page as a tower service; made by [`Live::service`](super::Live::service).
#[derive(Clone)]
pub struct LiveService {
    shared: Arc<Shared>,
    config: Arc<Config>,
}

/// The answer of a [`LiveService`].
pub struct LiveFuture(Answer);

enum Answer {
    Ready(Ready<Response<LiveBody>>),
    Later(Pin<Box<dyn Future<Output = Response<LiveBody>> + Send>>),
}

/// A page that a reader may see.
enum Wanted {
    Overview(Query),
    One(u64),
    #[cfg(feature = "connection")]
    Connections(usize),
    Watch(Query),
}

impl LiveService {
    pub(super) fn new(shared: Arc<Shared>, config: Arc<Config>) -> Self {
        Self { shared, config }
    }

    /// Answers at once what needs no look at the RPCs.
    fn answer(&self, parts: &Parts) -> Answer {
        match self.route(parts) {
            Ok((Wanted::Watch(query), kind, access)) => {
                Answer::ready(self.watch(query, kind, access))
            }
            Ok((wanted, kind, access)) => match Waiting::begin(&self.shared) {
                Some(waiting) => {
                    let page = self.clone().make(waiting, wanted, kind, access);
                    Answer::Later(Box::pin(page))
                }
                None => Answer::ready(plain(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too many readers wait for this page",
                )),
            },
            Err(response) => Answer::ready(*response),
        }
    }

    fn route(&self, parts: &Parts) -> Result<(Wanted, Kind, Access), Box<Response<LiveBody>>> {
        let access =
            guard::check(parts, &self.config).map_err(|(status, why)| refuse(status, why))?;
        if parts.method != Method::GET && parts.method != Method::HEAD {
            let why = "this page is for reading: GET";
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, why);
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            return Err(response.into());
        }
        let path = parts.uri.path().trim_start_matches('/');
        let raw = parts.uri.query().unwrap_or_default();
        match (path, raw) {
            ("app.js", _) | ("", "app.js") => return Err(whole(Kind::Script, SCRIPT).into()),
            ("style.css", _) | ("", "style.css") => return Err(whole(Kind::Style, STYLE).into()),
            _ => {}
        }
        let query = Query::parse(raw).and_then(|query| match access {
            Access::Everything => Ok(query),
            _ => query.filter.check_public().map(|()| query),
        });
        let mut query = query.map_err(|refused| match refused {
            Refused::Invalid(why) => refuse(StatusCode::BAD_REQUEST, &why),
            Refused::Private(why) => refuse(StatusCode::FORBIDDEN, why),
        })?;
        let (path, json) = match path.strip_suffix(".json") {
            Some(path) => (path, true),
            None => (path, query.format.as_deref() == Some("json")),
        };
        let kind = match query.format.as_deref() {
            _ if json => Kind::Json,
            Some("html") => Kind::Html,
            Some("text") => Kind::Text,
            Some(_) => {
                return Err(refuse(
                    StatusCode::BAD_REQUEST,
                    "format is html, text or json",
                ));
            }
            None => preferred(&parts.headers),
        };
        if query.limit == 0 {
            // A row of a connection has its RPCs below it, and is twice as long.
            let short = kind == Kind::Html && query.view == View::Connections;
            query.limit = if short { MOST / 2 } else { MOST };
        }
        let wanted = match (path, path.strip_prefix("rpc/"), query.rpc) {
            ("watch", ..) => Wanted::Watch(query),
            ("" | "index", ..) if query.view == View::Watch => Wanted::Watch(query),
            (_, Some(id), _) => match u64::from_str_radix(id, 16) {
                // Links of a page begin where its path ends.
                Ok(_) if kind == Kind::Html => return Err(see(&format!("../?rpc={id}"))),
                Ok(id) => Wanted::One(id),
                Err(_) => return Err(refuse(StatusCode::NOT_FOUND, "there is no such RPC")),
            },
            #[cfg(feature = "connection")]
            ("connections", ..) if kind == Kind::Html => {
                return Err(see(&format!("./?view=connections&{raw}")));
            }
            #[cfg(feature = "connection")]
            ("connections", ..) => Wanted::Connections(query.limit),
            #[cfg(feature = "connection")]
            ("" | "index", ..) if query.view == View::Connections => {
                Wanted::Connections(query.limit)
            }
            ("" | "index", _, Some(id)) => Wanted::One(id),
            ("" | "index", ..) => Wanted::Overview(query),
            _ => {
                return Err(refuse(
                    StatusCode::NOT_FOUND,
                    "there is no such page: see /",
                ));
            }
        };
        Ok((wanted, kind, access))
    }

    fn watch(&self, query: Query, kind: Kind, access: Access) -> Response<LiveBody> {
        if Handle::try_current().is_err() {
            return plain(
                StatusCode::NOT_IMPLEMENTED,
                "to watch needs a runtime of tokio",
            );
        }
        match Events::new(Arc::clone(&self.shared), query, kind, access) {
            Some(watched) => events(watched),
            None => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("{WATCHERS} readers watch already"),
            ),
        }
    }

    /// Makes a page when it is its turn.
    async fn make(
        self,
        waiting: Waiting,
        wanted: Wanted,
        kind: Kind,
        access: Access,
    ) -> Response<LiveBody> {
        let page = waiting.turn(move || self.page(wanted, kind, access)).await;
        page.unwrap_or_else(|| {
            plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the page could not be made",
            )
        })
    }

    fn page(&self, wanted: Wanted, kind: Kind, access: Access) -> Response<LiveBody> {
        match wanted {
            Wanted::One(id) => {
                let Some(rpc) = one(&self.shared, id, access) else {
                    let why = "there is no such RPC: it is over, and was not kept";
                    return plain(StatusCode::NOT_FOUND, why);
                };
                match kind {
                    Kind::Json => json(&rpc),
                    Kind::Html => whole(kind, html::rpc(&rpc, &self.config)),
                    _ => whole(kind, text::rpc(&rpc)),
                }
            }
            #[cfg(feature = "connection")]
            Wanted::Connections(limit) => {
                let page = ConnectionsPage::of(&self.shared, &self.config, limit, access);
                match kind {
                    Kind::Json => json(&page),
                    Kind::Html => whole(kind, html::connections(&page)),
                    _ => whole(kind, text::connections(&page)),
                }
            }
            Wanted::Overview(query) | Wanted::Watch(query) => {
                let page = Page::of(&self.shared, &self.config, &query, access);
                match kind {
                    Kind::Json => json(&page),
                    Kind::Html => whole(kind, html::page(&page, &query)),
                    _ => whole(kind, text::page(&page, &query)),
                }
            }
        }
    }
}

fn refuse(status: StatusCode, why: &str) -> Box<Response<LiveBody>> {
    Box::new(plain(status, why))
}

/// A page of HTML is named in the query, so that its links work under any prefix.
fn see(location: &str) -> Box<Response<LiveBody>> {
    let mut response = plain(StatusCode::SEE_OTHER, "see the overview");
    if let Ok(location) = HeaderValue::try_from(location.trim_end_matches('&')) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Box::new(response)
}

/// Browsers ask for HTML, `curl` for anything.
fn preferred(headers: &HeaderMap) -> Kind {
    let accept = headers.get(header::ACCEPT);
    match accept.and_then(|value| value.to_str().ok()) {
        Some(accept) if accept.contains("text/html") => Kind::Html,
        Some(accept) if accept.contains("application/json") => Kind::Json,
        _ => Kind::Text,
    }
}

impl Answer {
    fn ready(response: Response<LiveBody>) -> Self {
        Self::Ready(ready(response))
    }
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
        LiveFuture(self.answer(&parts))
    }
}

impl Future for LiveFuture {
    type Output = Result<Response<LiveBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match &mut self.0 {
            Answer::Ready(response) => Pin::new(response).poll(cx),
            Answer::Later(response) => response.as_mut().poll(cx),
        };
        response.map(Ok)
    }
}

impl fmt::Debug for LiveFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for LiveService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveService")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
