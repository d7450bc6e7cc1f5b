use std::{
    any::Any,
    cell::{Cell, OnceCell},
    fmt,
    sync::Arc,
};

use http::{Extensions, HeaderMap, Method, Uri, Version};

use super::{Context, Describe, DirectionMeter, EventSink, StreamEventKind};
use crate::{
    config::Config,
    protocol,
    rpc::{Direction, Level, MethodPath, Protocol, Role, RpcInfo, SampleKey, TrafficCell},
};

/// Says how a request carries the record of its RPC. One of the two traits that make
/// [`TracerLayer`](crate::TracerLayer) fit a tower service; the other is
/// [`TracedResponse`](crate::service::TracedResponse).
///
/// It is implemented for [`http::Request`], and with feature `reqwest` for reqwest's. For a custom request,
/// [`path`](Self::path) is enough:
///
/// ```
/// use tower_tracer::{RpcInfo, service::{RequestObserver, TracedRequest}};
///
/// struct Lookup {
///     key: String,
///     rpc: Option<RpcInfo>,
/// }
///
/// impl TracedRequest for Lookup {
///     fn path(&self) -> &str {
///         "/store.Store/Lookup"
///     }
///
///     // Below: so that the service finds the record, and the request's size is known.
///     fn set_rpc(&mut self, rpc: RpcInfo) -> Option<RpcInfo> {
///         self.rpc.replace(rpc)
///     }
///
///     fn rpc(&self) -> Option<&RpcInfo> {
///         self.rpc.as_ref()
///     }
///
///     fn observe(&mut self, mut observer: RequestObserver) {
///         observer.message(self.key.len() as u64, false);
///         observer.complete();
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`TracerLayer` does not know how to trace a `{Self}`",
    label = "the request type of the traced service",
    note = "`http::Request<B>` is traced for every `B: 'static`",
    note = "for a request type of your own, implement `tower_tracer::service::TracedRequest`"
)]
pub trait TracedRequest {
    /// The path that names the method, `/pkg.Svc/Method`.
    fn path(&self) -> &str;

    /// The same, for the record to keep. Copies [`path`](Self::path) unless implemented; a
    /// `&'static str` costs nothing.
    fn method_path(&self) -> MethodPath {
        MethodPath::from(Arc::<str>::from(self.path()))
    }

    /// Hands the record to the request, for the service to find, and returns the one it had: that
    /// of an outer layer.
    fn set_rpc(&mut self, rpc: RpcInfo) -> Option<RpcInfo> {
        self.extensions_mut()?.insert(rpc)
    }

    /// The record the request carries: that of an outer layer.
    fn rpc(&self) -> Option<&RpcInfo> {
        self.extensions()?.get()
    }

    /// The URI as it was received, for a request over HTTP.
    fn uri(&self) -> Option<&Uri> {
        None
    }

    /// The same for a request over HTTP that holds no [`Uri`] to borrow. Called if a tracer asks for it.
    fn to_uri(&self) -> Option<Uri> {
        None
    }

    /// The side that all requests of this type are on, if it is only one. What the layer is configured with
    /// counts before it.
    fn fixed_role(&self) -> Option<Role> {
        None
    }

    /// The HTTP method, for a request over HTTP.
    fn http_method(&self) -> Option<&Method> {
        None
    }

    /// The version of HTTP, for a request over HTTP.
    fn version(&self) -> Option<Version> {
        None
    }

    /// The headers, if there are any.
    fn headers(&self) -> Option<&HeaderMap> {
        None
    }

    /// The headers, for a tracer to change.
    fn headers_mut(&mut self) -> Option<&mut HeaderMap> {
        None
    }

    /// The extensions, if there are any.
    fn extensions(&self) -> Option<&Extensions> {
        None
    }

    /// The extensions, for a tracer to change.
    fn extensions_mut(&mut self) -> Option<&mut Extensions> {
        None
    }

    /// The body, if it may be of a type that was named to the layer with
    /// [`body_type`](crate::TracerLayer::body_type). If it is, [`observe`](Self::observe) is not called.
    fn body_mut(&mut self) -> Option<&mut dyn Any> {
        None
    }

    /// Counts the request's content. Called once, after all tracers have started, right before the
    /// request goes to the service. Unless implemented, the request's figures are unknown.
    fn observe(&mut self, observer: RequestObserver) {
        drop(observer);
    }
}

/// The request as a tracer sees it in [`start`](crate::Tracer::start).
///
/// A request that is not HTTP may have no headers or extensions: they are empty when read, and
/// `None` when they are to be changed.
pub struct RequestParts<'a> {
    request: &'a mut dyn Describe,
    config: &'a Config,
    /// The random number of the RPC, if a tracer asked for it.
    sample_key: Cell<Option<SampleKey>>,
    /// The record, once it is made; taken out while a tracer starts.
    pub(super) rpc: Option<RpcInfo>,
    role: Option<Role>,
    /// The URI of a request that has none to borrow.
    made_uri: OnceCell<Option<Box<Uri>>>,
}

impl<'a> RequestParts<'a> {
    #[inline]
    pub(crate) fn new(request: &'a mut dyn Describe, config: &'a Config) -> Self {
        Self {
            request,
            config,
            sample_key: Cell::new(None),
            rpc: None,
            role: None,
            made_uri: OnceCell::new(),
        }
    }

    /// The path. On a server it is what the caller sent: fit for a log, not for a label.
    #[must_use]
    pub fn path(&self) -> &str {
        self.request.path()
    }

    /// The headers; empty for a request that has none.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        static NONE: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);
        self.request.headers().unwrap_or(&NONE)
    }

    /// The headers, to be changed: a client's tracer injects its context here.
    pub fn headers_mut(&mut self) -> Option<&mut HeaderMap> {
        self.request.headers_mut()
    }

    /// The extensions.
    #[must_use]
    pub fn extensions(&self) -> Option<&Extensions> {
        self.request.extensions()
    }

    /// The extensions, to be changed. The record is there already.
    pub fn extensions_mut(&mut self) -> Option<&mut Extensions> {
        self.request.extensions_mut()
    }

    /// The URI as it was received, for a request over HTTP: with feature `axum` also within
    /// `Router::nest`, which takes its prefix off the [`path`](Self::path).
    #[must_use]
    pub fn uri(&self) -> Option<&Uri> {
        self.request.uri().or_else(|| {
            let made = || self.request.to_uri().map(Box::new);
            self.made_uri.get_or_init(made).as_deref()
        })
    }

    /// The HTTP method, for a request over HTTP.
    #[must_use]
    pub fn http_method(&self) -> Option<&Method> {
        self.request.http_method()
    }

    /// The version of HTTP, for a request over HTTP. On a client it is the one that the caller asked
    /// for; the connection may have another.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.request.version()
    }

    /// Which side the layer is on.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role.unwrap_or_else(|| self.request.role(self.config))
    }

    /// What the request speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        protocol::detect(self.request.headers(), || self.request.query_of_get())
    }

    /// Whether this is a call of gRPC's health service, `grpc.health.v1.Health`.
    #[must_use]
    pub fn is_health_check(&self) -> bool {
        self.path().starts_with("/grpc.health.v1.Health/")
    }

    /// Whether this is a call of gRPC's reflection service, in its version `v1` or `v1alpha`.
    #[must_use]
    pub fn is_reflection(&self) -> bool {
        let path = self.path();
        path.starts_with("/grpc.reflection.v1.ServerReflection/")
            || path.starts_with("/grpc.reflection.v1alpha.ServerReflection/")
    }

    /// The RPC's draw, a random number from 0 up to, and without, 1: a sampler takes part if it is
    /// below its ratio, as [`sample`](crate::Tracer::sample) does.
    ///
    /// Drawn once per RPC, and inherited by the RPCs under it: by the attempts of a call, and by
    /// the calls a handler makes, even if the RPC itself was declined.
    ///
    /// ```
    /// use tower_tracer::{Tracer, on_finish};
    ///
    /// // All calls of one service, a hundredth of the others.
    /// let tracer = on_finish(|rpc| println!("{rpc:?}"))
    ///     .filter(|rpc| rpc.path().starts_with("/shop.Checkout/") || rpc.draw() < 0.01);
    /// # let _ = tower_tracer::TracerLayer::new(tracer);
    /// ```
    #[must_use]
    pub fn draw(&self) -> f64 {
        let key = self.sample_key.get().unwrap_or_else(|| {
            let key = match (&self.rpc, self.request.rpc()) {
                (Some(rpc), _) | (None, Some(rpc)) => rpc.sample_key(),
                (None, None) => RpcInfo::current()
                    .map(|rpc| rpc.sample_key())
                    .or_else(SampleKey::of_declined)
                    .unwrap_or_else(SampleKey::new),
            };
            self.sample_key.set(Some(key));
            key
        });
        key.as_f64()
    }

    /// Takes the record out; makes it if there is none.
    #[inline]
    pub(super) fn take_rpc(&mut self, level: Level) -> RpcInfo {
        if let Some(rpc) = self.rpc.take() {
            return rpc;
        }
        let key = self.sample_key.get();
        let rpc = self.request.begin_rpc(self.config, level, key);
        self.role = Some(rpc.role());
        rpc
    }

    pub(crate) fn sample_key(&self) -> Option<SampleKey> {
        self.sample_key.get()
    }
}

impl fmt::Debug for RequestParts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestParts")
            .field("path", &self.path())
            .field("http_method", &self.http_method())
            .finish_non_exhaustive()
    }
}

/// Counts what a request holds; handed to [`TracedRequest::observe`].
///
/// The request's figures are unknown until one of the methods is called.
pub struct RequestObserver {
    pub(crate) context: Context,
    pub(crate) sink: Option<Arc<dyn EventSink>>,
}

impl RequestObserver {
    /// The record this counts for.
    pub(crate) fn rpc(&self) -> Option<&RpcInfo> {
        self.context.rpc()
    }

    /// Counts a message of this size, as sent.
    pub fn message(&mut self, size: u64, compressed: bool) {
        if let Some(meter) = self.meter() {
            meter.observe(true);
            meter.bytes(size);
            meter.message(size, compressed);
        }
        self.progress();
    }

    /// The request is all there: the client sends no more.
    pub fn complete(&mut self) {
        if let Some(meter) = self.meter() {
            meter.observe(true);
            meter.complete();
        }
    }

    /// The request's headers, as the tracers left them.
    pub(crate) fn headers(&self, headers: Option<&HeaderMap>) {
        if let (Some(meter), Some(headers)) = (self.meter(), headers) {
            meter.tell(StreamEventKind::RequestHeaders(headers));
        }
    }

    /// Runs code of the request's body, in its drop.
    #[inline]
    pub(crate) fn run<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.context.run_nested(f)
    }

    /// Runs a poll of the request's body. On a server that is code of the transport, not of a user, so it
    /// runs without the tracers' scopes.
    #[inline]
    pub(crate) fn run_poll<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let is_server = |rpc: &RpcInfo| rpc.role() == Role::Server;
        match self.rpc().is_some_and(is_server) {
            true => self.context.run_nested_without_scopes(f),
            false => self.context.run_nested(f),
        }
    }

    /// Whether its tracers have scopes.
    #[inline]
    pub(crate) fn has_scopes(&self) -> bool {
        self.context.has_scopes()
    }

    /// The counters of the request, if no times are recorded and no tracer wants events.
    #[inline]
    pub(crate) fn quiet_cell(&self) -> Option<&TrafficCell> {
        match &self.sink {
            Some(sink) if sink.wants_events() => None,
            _ => self.context.rpc()?.stats().quiet_cell(Direction::Request),
        }
    }

    /// Something of the request has passed: reports progress if it is time.
    #[inline]
    pub(crate) fn progress(&self) {
        if let Some(sink) = &self.sink {
            sink.progress();
        }
    }

    #[inline]
    pub(crate) fn meter(&self) -> Option<DirectionMeter<'_>> {
        let rpc = self.context.rpc()?;
        let sink = self.sink.as_deref().filter(|sink| sink.wants_events());
        Some(DirectionMeter::new(rpc.stats(), Direction::Request, sink))
    }
}

impl fmt::Debug for RequestObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestObserver")
            .field("rpc", &self.rpc())
            .finish_non_exhaustive()
    }
}
