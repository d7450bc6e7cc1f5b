//! Answers over HTTP.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use serde::Serialize;

use super::events::Events;

/// Nothing but what this page serves is loaded, and nothing inline runs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The body of an answer.
#[derive(Debug)]
pub struct LiveBody(Content);

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    Events(Events),
}

/// What an answer is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Html,
    Text,
    Json,
    Script,
    Style,
    Events,
}

impl Kind {
    fn media_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/json",
            Self::Script => "text/javascript; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
            Self::Events => "text/event-stream",
        }
    }
}

pub(super) fn whole(kind: Kind, body: impl Into<Bytes>) -> Response<LiveBody> {
    response(kind, Content::Whole(Some(body.into())))
}

pub(super) fn events(events: Events) -> Response<LiveBody> {
    response(Kind::Events, Content::Events(events))
}

pub(super) fn json(value: &impl Serialize) -> Response<LiveBody> {
    match serde_json::to_string(value) {
        Ok(json) => whole(Kind::Json, json),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "no JSON"),
    }
}

/// A line that says why there is no page.
pub(super) fn plain(status: StatusCode, why: &str) -> Response<LiveBody> {
    let mut response = whole(Kind::Text, format!("{why}\n"));
    *response.status_mut() = status;
    response
}

fn response(kind: Kind, content: Content) -> Response<LiveBody> {
    let mut response = Response::new(LiveBody(content));
    for (name, value) in [
        (header::CONTENT_TYPE, kind.media_type()),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

impl Body for LiveBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match &mut self.0 {
            Content::Whole(body) => body.take(),
            Content::Events(events) => Some(ready!(events.poll_next(cx))),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            Content::Events(_) => SizeHint::default(),
        }
    }
}
