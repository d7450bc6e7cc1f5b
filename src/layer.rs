use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use crate::{
    config::{Config, LevelHandle},
    methods::KnownMethods,
    rpc::{Endpoint, Endpoints, Failures, Level, Role, Target, clock},
    service::{BodyTypes, LevelOf, RequestBody, Shared, TracerService, view_as},
    tracer::RequestParts,
};

/// Traces every RPC of the service it wraps, with a [`Tracer`](crate::Tracer) of yours.
///
/// The same layer fits a tonic client, a tonic server, an axum router, and every other tower
/// service whose request and response say how they are traced:
/// [`TracedRequest`](crate::service::TracedRequest) and [`TracedResponse`](crate::service::TracedResponse). HTTP's do,
/// whatever their bodies are. The service's errors pass unchanged; they have to be
/// `Display + 'static`. If an error type is your own, name it with
/// [`error_type`](Self::error_type), and the layer reads its causes.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use tower::ServiceBuilder;
/// use tower_tracer::TracerLayer;
///
/// # let my_tracer = std::sync::Arc::new(());
/// # let routes = tonic::service::Routes::default();
/// // A client:
/// let channel = tonic::transport::Endpoint::from_static("http://[::1]:50051").connect_lazy();
/// let channel = ServiceBuilder::new()
///     .layer(TracerLayer::new(my_tracer.clone()))
///     .service(channel);
///
/// // A server:
/// tonic::transport::Server::builder()
///     .layer(TracerLayer::new(my_tracer))
///     .add_routes(routes)
///     .serve("[::1]:50051".parse()?)
///     .await?;
/// # Ok(()) }
/// ```
///
/// # Which side
///
/// [`client`](Self::client) and [`server`](Self::server) say it. Without them it is found from each
/// request: a call made by code that `tonic-build` generated is a client's (it carries a
/// `tonic::GrpcMethod`), and so is one of reqwest's; a request that carries the record of an outer layer is
/// of the same side, and any other is a server's. So say `.client()` for an HTTP client, for a client without
/// generated code, and in a proxy.
///
/// # Several tracers
///
/// A tuple is one tracer: `TracerLayer::new((a, b))`. They share a record, start in order, and finish
/// in reverse order. Two layers have a record each, and the inner one's
/// [`parent`](crate::RpcInfo::parent) is the outer one.
///
/// # The order of layers
///
/// A layer sees what passes through it. On a tonic server, requests that are shed by tonic's own
/// limits never reach it, and at a deadline it is dropped. On a tonic client, it is outside of
/// connecting, buffering and tonic's timeout, and sees them as part of the call.
///
/// An optional layer is a layer with an optional tracer: `TracerLayer::new(enabled.then_some(tracer))`.
/// tower's `option_layer` cannot be it, as the service's types would differ.
///
/// # What a record does not tell
///
/// * How long a caller waited in `poll_ready`: an RPC begins with `call`.
/// * A call that an interceptor refused further out, as that of a generated client made by
///   `with_interceptor` is: it leaves no record.
/// * What tonic does not accept of what has passed: a message that cannot be decoded or is above the
///   limit, an encoding that is not supported, a unary response without a message, a `grpc-message`
///   that is no UTF-8. The caller gets tonic's error. For the layer it is a cancellation if tonic then
///   drops the response before its end.
/// * Tokio's paused time, but for deadlines: durations are real ones, also in tests with
///   `tokio::time::pause`. Whether a deadline has passed is asked of tokio's clock.
pub struct TracerLayer<T> {
    tracer: Arc<T>,
    level_of: Option<Arc<LevelOf>>,
    body_types: BodyTypes,
    config: Config,
}

impl<T> TracerLayer<T> {
    /// A layer with this tracer, at [`Level::Base`], that finds its [side](Self#which-side) from
    /// each request.
    pub fn new(tracer: T) -> Self
    where
        // Not needed here: it has the compiler point at what is no tracer.
        T: crate::Tracer,
    {
        clock::prepare();
        Self {
            tracer: Arc::new(tracer),
            level_of: None,
            body_types: BodyTypes::default(),
            config: Config::default(),
        }
    }

    /// The layer is on a client.
    #[must_use]
    pub fn client(mut self) -> Self {
        self.config.role = Some(Role::Client);
        self
    }

    /// The layer is on a server.
    #[must_use]
    pub fn server(mut self) -> Self {
        self.config.role = Some(Role::Server);
        self
    }

    /// How much is recorded. A tracer that needs more raises it for the RPCs it takes part in;
    /// [`Level::Disabled`] is not raised, and asks no tracer.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.config.level = LevelHandle::new(level);
        self
    }

    /// What changes the level of this layer's services, and of its clones made from here on, while
    /// they run. Take it after [`level`](Self::level).
    ///
    /// ```
    /// use tower_tracer::{Level, TracerLayer};
    ///
    /// let layer = TracerLayer::new(()).level(Level::Disabled);
    /// let handle = layer.level_handle();
    /// // … when an operator asks for it:
    /// handle.set(Level::Detailed);
    /// assert_eq!(handle.get(), Level::Detailed);
    /// ```
    #[must_use]
    pub fn level_handle(&self) -> LevelHandle {
        self.config.level.clone()
    }

    /// Chooses the level of each request, called first of all; it replaces [`level`](Self::level).
    ///
    /// ```
    /// use tower_tracer::{Level, TracerLayer};
    ///
    /// let layer = TracerLayer::new(()).level_of(|request| {
    ///     match request.path().starts_with("/grpc.health.v1.Health/") {
    ///         true => Level::Disabled,
    ///         false => Level::Base,
    ///     }
    /// });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn level_of(
        mut self,
        choose: impl Fn(&RequestParts<'_>) -> Level + Send + Sync + 'static,
    ) -> Self {
        self.level_of = Some(Arc::new(choose));
        self
    }

    /// The methods of the services, from a descriptor set: records have their
    /// [kinds](crate::RpcInfo::method_kind) then. Which methods a tracer may name in a label is a setting
    /// of the tracer.
    ///
    /// ```
    /// use tower_tracer::{TracerLayer, methods::KnownMethods};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let descriptor_set = [];
    /// // As `tonic-build` writes it with `file_descriptor_set_path`.
    /// let known = KnownMethods::from_descriptor_set(&descriptor_set)?;
    /// let layer = TracerLayer::new(()).methods(known);
    /// # let _ = layer;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn methods(mut self, known: KnownMethods) -> Self {
        self.config.methods = Some(known);
        self
    }

    /// Tells who calls: on a client, this program.
    #[must_use]
    pub fn caller(mut self, caller: Endpoint) -> Self {
        self.endpoints().caller = caller;
        self
    }

    /// Sets the server that a client calls, which a layer above a channel cannot see.
    ///
    /// It is the address of the [callee](crate::RpcInfo::callee): `server.address`, `server.port` and
    /// `grpc.target` of OpenTelemetry. Without it they come from the request's URI, where a tonic client
    /// has only a path.
    ///
    /// ```no_run
    /// # #[cfg(feature = "transport")] {
    /// use tonic::transport::Endpoint;
    /// use tower::ServiceBuilder;
    /// use tower_tracer::TracerLayer;
    ///
    /// # let tracer = ();
    /// let endpoint = Endpoint::from_static("http://shop.example:50051");
    /// let channel = ServiceBuilder::new()
    ///     .layer(TracerLayer::new(tracer).target(&endpoint))
    ///     .service(endpoint.connect_lazy());
    /// # let _ = channel;
    /// # }
    /// ```
    #[must_use]
    pub fn target(mut self, target: impl Into<Target>) -> Self {
        let target = target.into();
        // An endpoint for a custom connector has none.
        if !target.as_str().is_empty() {
            let endpoints = self.endpoints();
            endpoints.callee = std::mem::take(&mut endpoints.callee).address(target.0);
        }
        self
    }

    /// Tells who is called: on a server this program, on a client the server it talks to, whose
    /// address a layer above a channel cannot know.
    #[must_use]
    pub fn callee(mut self, callee: Endpoint) -> Self {
        self.endpoints().callee = callee;
        self
    }

    /// Decides which RPCs are failures, for all tracers of the layer: what
    /// [`Stats::failed`](crate::Stats::failed) says. Without it OpenTelemetry's rule decides; see
    /// [`Failures`].
    ///
    /// ```
    /// use tower_tracer::{Code, TracerLayer, rpc::Failures};
    ///
    /// let only_own = Failures::new().server([Code::Internal, Code::Unknown, Code::DataLoss]);
    /// let layer = TracerLayer::new(()).failures(only_own);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn failures(mut self, failures: Failures) -> Self {
        self.config.failures = Some(failures);
        self
    }

    /// Tells the timeout that the server itself sets, `tonic::transport::Server::timeout`, which a
    /// layer cannot see. The deadline of an RPC is the earlier of it and the request's own.
    #[must_use]
    pub fn server_timeout(mut self, timeout: Duration) -> Self {
        self.config.server_timeout = Some(timeout);
        self
    }

    /// Reports the progress of RPCs that run for long: the tracers' [`progress`](crate::Tracer::progress) is
    /// called when something has passed and this interval has gone by since the start or the last report.
    ///
    /// There is no timer and no task, so a stream on which nothing passes is not reported. The clock is read
    /// for each frame, which is not so without this.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use tower_tracer::TracerLayer;
    ///
    /// # let tracer = ();
    /// let layer = TracerLayer::new(tracer).progress_every(Duration::from_secs(10));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn progress_every(mut self, interval: Duration) -> Self {
        self.config.progress_every = Some(interval);
        self
    }

    /// Finishes plain HTTP exchanges at the response's headers instead of the end of its body: for
    /// HTTP clients whose callers may not read the body. Other protocols are not affected.
    #[must_use]
    pub fn finish_at_response(mut self) -> Self {
        self.config.finish_at_response = true;
        self
    }

    /// Puts the [`RpcInfo`](crate::RpcInfo) into the extensions of the response, for the caller to
    /// read.
    ///
    /// Not done by default, since it costs up to three allocations. Through a tonic client it
    /// reaches the caller of a call that succeeds; a `tonic::Status` does not carry extensions.
    #[must_use]
    pub fn insert_into_response(mut self) -> Self {
        self.config.insert_into_response = true;
        self
    }

    /// Names an error type of the service's or of its bodies, so that the status of an RPC that fails
    /// with it comes from the error's causes.
    ///
    /// The layer reads the causes of the errors that come with tonic, hyper, hyper-util, h2, axum, reqwest and
    /// the standard library, and of every boxed error (`tower::BoxError`). Of any other type it sees
    /// only the text, until it is named here. Call it once for each type.
    ///
    /// ```
    /// use tower_tracer::TracerLayer;
    ///
    /// #[derive(Debug)]
    /// enum GatewayError {
    ///     Upstream(tonic::Status),
    /// }
    ///
    /// impl std::fmt::Display for GatewayError {
    ///     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    ///         f.write_str("the upstream failed")
    ///     }
    /// }
    ///
    /// impl std::error::Error for GatewayError {
    ///     fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
    ///         let Self::Upstream(status) = self;
    ///         Some(status)
    ///     }
    /// }
    ///
    /// let layer = TracerLayer::new(()).error_type::<GatewayError>();
    /// # let _ = (layer, GatewayError::Upstream(tonic::Status::ok("")));
    /// ```
    #[must_use]
    pub fn error_type<E: std::error::Error + 'static>(mut self) -> Self {
        self.config.error_types.push(view_as::<E>);
        self
    }

    /// Names a type of request bodies, so that they are counted, and says how a counted body is boxed
    /// back into that type.
    ///
    /// The type of a request stays as it is, so its body is counted only if it can be wrapped and boxed
    /// back, or is in memory:
    ///
    /// | body of a request | is counted |
    /// | --- | --- |
    /// | `tonic::body::Body` (feature `tonic`), `axum::body::Body` (feature `axum`) | as it passes |
    /// | `BoxBody<Bytes, E>` and `UnsyncBoxBody<Bytes, E>` of `http-body-util` (feature `http-body-util`, which `tonic`, `axum` and `reqwest` bring), with the error `Infallible`, `tower::BoxError`, `std::io::Error`, `hyper::Error` (feature `transport`), `tonic::Status` (feature `tonic`), `axum::Error` (feature `axum`) or `reqwest::Error` (feature `reqwest`) | as it passes |
    /// | any other body that can hold any body: the same two with another error, one of yours | as it passes, once it is named here |
    /// | `Full<Bytes>` and `Empty<Bytes>` (feature `http-body-util`) | when the request goes to the service: all of it, even if the service then reads nothing |
    /// | a `reqwest::Request` (feature `reqwest`) | a stream as it passes, bytes in memory when the request goes to the service |
    /// | any other, such as `hyper::body::Incoming`, `String` or `StreamBody` | no: its sizes and messages are unknown |
    ///
    /// A response's body is counted whatever its type is.
    ///
    /// `B::default()` takes the place of a body while it is wrapped; an empty one will do. Call this once
    /// for each type. A type that is named here is counted as it passes, also if the layer knows it.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::combinators::BoxBody;
    /// use tower_tracer::TracerLayer;
    ///
    /// # type UploadError = std::fmt::Error;
    /// let layer = TracerLayer::new(()).body_type::<BoxBody<Bytes, UploadError>>(BoxBody::new);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn body_type<B>(mut self, box_again: fn(RequestBody<B>) -> B) -> Self
    where
        B: http_body::Body + Default + 'static,
        B::Error: fmt::Display + 'static,
    {
        self.body_types.push(box_again);
        self
    }

    fn endpoints(&mut self) -> &mut Endpoints {
        Arc::make_mut(self.config.endpoints.get_or_insert_default())
    }
}

impl<S, T> Layer<S> for TracerLayer<T> {
    type Service = TracerService<S, T>;

    fn layer(&self, inner: S) -> Self::Service {
        TracerService {
            inner,
            shared: Arc::new(Shared {
                tracer: Some(Arc::clone(&self.tracer)),
                level_of: self.level_of.clone(),
                body_types: self.body_types.clone(),
                config: self.config.clone(),
            }),
        }
    }
}

impl<T> Clone for TracerLayer<T> {
    fn clone(&self) -> Self {
        Self {
            tracer: Arc::clone(&self.tracer),
            level_of: self.level_of.clone(),
            body_types: self.body_types.clone(),
            config: self.config.clone(),
        }
    }
}

impl<T> fmt::Debug for TracerLayer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracerLayer")
            .field("tracer", &std::any::type_name::<T>())
            .field("level_of", &self.level_of.is_some())
            .field("body_types", &self.body_types.len())
            .field("config", &self.config)
            .finish()
    }
}
