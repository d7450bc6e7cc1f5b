#![doc = include_str!("live.md")]

mod answer;
mod cell;
mod children;
mod config;
#[cfg(feature = "connection")]
mod connections;
mod desk;
mod entry;
mod events;
mod filter;
mod format;
mod guard;
mod history;
mod html;
mod links;
mod page;
mod rows;
mod rpc;
mod sample;
mod schema;
mod serve;
mod service;
mod shards;
mod text;
mod tracer;
mod tree;
mod watch;

use std::{fmt, sync::Arc};

use http::{HeaderName, request::Parts};

pub use self::{
    answer::LiveBody,
    service::{LiveFuture, LiveService},
    tracer::{InFlight, LiveTracer},
};
use self::{config::Config, tracer::Shared};

/// The page of RPCs, and what its tracers share; see the [module](self).
///
/// A clone is the same page.
#[derive(Clone)]
pub struct Live {
    shared: Arc<Shared>,
    config: Arc<Config>,
}

/// What a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Access {
    /// Nothing: the answer is 403.
    None,
    /// Methods, their figures, and the times of RPCs. Paths of plain HTTP are hidden.
    Figures,
    /// Also peers, errors, tags and headers.
    Everything,
}

impl Access {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Figures => "figures",
            Self::Everything => "everything",
        }
    }
}

impl Live {
    /// A page without RPCs. Layers fill it through [`tracer`](Self::tracer).
    ///
    /// A thread reads the figures once a second, until the page and all its tracers are dropped.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Shared::new(),
            config: Arc::new(Config::new()),
        }
    }

    /// The title of the page; unless set, the name of the program.
    #[must_use]
    pub fn name(self, name: impl AsRef<str>) -> Self {
        self.set(|config| config.name = format::visible(name.as_ref(), 64).into())
    }

    /// Decides what a reader may see, from the request for the page.
    ///
    /// Unless set, readers on this machine see everything and others nothing. A panic counts as
    /// [`Access::None`].
    #[must_use]
    pub fn guard(self, guard: impl Fn(&Parts) -> Access + Send + Sync + 'static) -> Self {
        self.set(|config| config.guard = Some(Arc::new(guard)))
    }

    /// Names under which the page may be reached, besides `localhost` and IP addresses.
    ///
    /// A request with another `Host` is refused: a web site could have its own name point here.
    #[must_use]
    pub fn hosts<H: AsRef<str>>(self, names: impl IntoIterator<Item = H>) -> Self {
        self.set(|config| {
            let names = names
                .into_iter()
                .map(|name| name.as_ref().to_ascii_lowercase().into());
            config.hosts.extend(names);
        })
    }

    /// Request headers to show with an RPC: 256 bytes of each. Authorization, cookies and values that are
    /// [sensitive](http::HeaderValue::is_sensitive) are never shown.
    ///
    /// Of tracers that are made from then on. Each RPC with one of them costs some allocations more.
    #[must_use]
    pub fn headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.set(|config| config.show_headers(names))
    }

    /// Where a trace is shown, as `https://traces.example/{trace_id}`: the id comes from the request's
    /// `traceparent`.
    ///
    /// A server's RPC is then shown below the client call that made it, if this page sees both. On a client, a
    /// tracer that sends the `traceparent` has to come first: `(OtelTracer::new(), live.tracer())`.
    ///
    /// Of tracers that are made from then on.
    #[must_use]
    pub fn trace_link(self, template: impl AsRef<str>) -> Self {
        self.set(|config| config.trace_link = Some(template.as_ref().into()))
    }

    /// Links to the page of another process, such as `http://10.1.4.7:6680/`.
    #[must_use]
    pub fn peer(self, name: impl AsRef<str>, url: impl AsRef<str>) -> Self {
        self.set(|config| {
            config
                .peers
                .push((name.as_ref().into(), url.as_ref().into()))
        })
    }

    /// A tracer for a layer. Those of one page may be in many layers, on both sides.
    #[must_use]
    pub fn tracer(&self) -> LiveTracer {
        LiveTracer::new(Arc::clone(&self.shared), Arc::clone(&self.config))
    }

    /// The page as a service, for a router: `Router::new().nest_service("/debug/rpcs", live.service())`.
    #[must_use]
    pub fn service(&self) -> LiveService {
        LiveService::new(Arc::clone(&self.shared), Arc::clone(&self.config))
    }

    fn set(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(Arc::make_mut(&mut self.config));
        self
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
