use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, header, request::Parts};

use super::{Access, entry::Extra, format::visible};
use crate::{RequestParts, trace_id::TraceParent};

/// How long the value of a header may be.
const HEADER: usize = 256;

type Guard = dyn Fn(&Parts) -> Access + Send + Sync;

/// What a user sets on a [`Live`](super::Live).
#[derive(Clone)]
pub(super) struct Config {
    pub(super) name: Box<str>,
    pub(super) guard: Option<Arc<Guard>>,
    /// Host names besides those of this machine.
    pub(super) hosts: Vec<Box<str>>,
    headers: Vec<HeaderName>,
    pub(super) trace_link: Option<Box<str>>,
    /// Names and addresses of other pages.
    pub(super) peers: Vec<(Box<str>, Box<str>)>,
}

impl Config {
    pub(super) fn new() -> Self {
        let program = std::env::args_os().next();
        let name = program.as_ref().and_then(|path| {
            let name = std::path::Path::new(path).file_stem()?;
            Some(visible(name.to_str()?, 64).into_owned())
        });
        Self {
            name: name.unwrap_or_else(|| "RPCs".to_owned()).into(),
            guard: None,
            hosts: Vec::new(),
            headers: Vec::new(),
            trace_link: None,
            peers: Vec::new(),
        }
    }

    /// Adds headers to those that are shown, but for those that never are.
    pub(super) fn show_headers(&mut self, names: impl IntoIterator<Item = HeaderName>) {
        let never = [
            header::AUTHORIZATION,
            header::PROXY_AUTHORIZATION,
            header::COOKIE,
            header::SET_COOKIE,
        ];
        let names = names.into_iter().filter(|name| !never.contains(name));
        self.headers.extend(names);
    }

    /// What is kept of a request from its start.
    #[inline]
    pub(super) fn extra_of(&self, request: &RequestParts<'_>) -> Option<Box<Extra>> {
        if self.headers.is_empty() && self.trace_link.is_none() {
            return None;
        }
        self.read(request.headers())
    }

    #[cold]
    fn read(&self, headers: &HeaderMap) -> Option<Box<Extra>> {
        let shown = self.headers.iter().filter_map(|name| {
            let value = headers.get(name).filter(|value| !value.is_sensitive())?;
            let value = String::from_utf8_lossy(value.as_bytes());
            Some((name.as_str().into(), visible(&value, HEADER).into()))
        });
        let has_link = self.trace_link.is_some();
        let extra = Extra {
            headers: shown.collect(),
            trace: has_link.then(|| TraceParent::of_headers(headers)).flatten(),
            ..Extra::default()
        };
        (!extra.headers.is_empty() || extra.trace.is_some()).then(|| Box::new(extra))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("name", &self.name)
            .field("guard", &self.guard.is_some())
            .field("hosts", &self.hosts)
            .field("headers", &self.headers)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}
