use std::{
    borrow::Cow,
    sync::{Arc, Weak},
    time::Duration,
};

use http::Method;

use super::{
    EndpointRef, Event, Level, MethodKind, MethodPath, Protocol, Role, RpcStart, SampleKey, Scope,
    Severity, Stats, Tick,
    internal::{HttpMethod, RareFields, current, pool},
    record::{MOST_ANCESTORS, ParentLink, Record},
};
use crate::time::Instant;

/// The record of one RPC: a cheap clone of a shared handle.
///
/// A tracer gets it in [`start`](crate::Tracer::start) and [`finish`](crate::Tracer::finish), a
/// handler finds it in the request's extensions, and any code that runs under the service calls
/// [`RpcInfo::current`]. Any holder can tag the RPC and record events. The record stays readable
/// after the RPC is over: a record you hold is never reused.
///
/// ```
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, ServiceExt as _};
/// use tower_tracer::{Event, Level, RpcInfo, TracerLayer};
///
/// static CACHE_MISS: Event = Event::new("cache_miss", Level::Base);
///
/// async fn handler(request: Request<String>) -> Result<Response<String>, std::io::Error> {
///     let rpc = request.extensions().get::<RpcInfo>().unwrap();
///     rpc.set_tag("tenant", "blue");
///     look_up();
///     Ok(Response::default())
/// }
///
/// // Somewhere below the handler, where there is no request at hand.
/// fn look_up() {
///     if let Some(rpc) = RpcInfo::current() {
///         rpc.record(CACHE_MISS);
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let layer = TracerLayer::new(()).insert_into_response();
/// let service = ServiceBuilder::new().layer(layer).service_fn(handler);
/// let response = service.oneshot(Request::default()).await.unwrap();
///
/// let rpc = response.extensions().get::<RpcInfo>().unwrap();
/// assert_eq!(rpc.tag("tenant").as_deref(), Some("blue"));
/// assert!(rpc.stats().at(CACHE_MISS).is_some());
/// assert!(RpcInfo::current().is_none());
/// # }
/// ```
#[derive(Clone)]
pub struct RpcInfo(Arc<Record>);

impl RpcInfo {
    /// The record of an RPC that starts now, with this HTTP method.
    #[inline]
    pub(crate) fn new(
        start: RpcStart,
        http_method: Option<&Method>,
        level: Level,
        now: Tick,
    ) -> Self {
        let mut record = pool::take();
        // It always is: there is no other holder.
        if let Some(record) = Arc::get_mut(&mut record) {
            record.begin(start, level, now);
        }
        let rpc = Self(record);
        if let Some(method) = http_method
            && rpc.0.start.http_method == Some(HttpMethod::OWN)
        {
            let _ = rpc.stats().extra().http_method.set(method.clone());
        }
        rpc
    }

    /// Releases the layer's handle. If it is the last, the record goes to the pool.
    #[inline]
    pub(crate) fn release(mut self) {
        if let Some(record) = Arc::get_mut(&mut self.0) {
            record.clear();
            pool::put(self.0);
        }
    }

    /// Links this record to the one above it: that of an outer layer, else the current one. Called
    /// once, before any other code sees this record.
    #[inline]
    pub(crate) fn set_parent(&self, outer: Option<Self>) {
        // A handler that forwards its request makes a new call, not an attempt of its own RPC.
        let is_attempt = matches!(&outer, Some(rpc) if rpc.role() == self.role());
        let Some(rpc) = outer.or_else(current) else {
            return;
        };
        let above_it = rpc.0.parent.get().map_or(0, |above| above.ancestors);
        if above_it == MOST_ANCESTORS {
            self.set_sample_key(rpc.sample_key());
            return;
        }
        let _ = self.0.parent.set(ParentLink {
            attempt: is_attempt.then(|| rpc.stats().next_attempt()),
            rpc,
            ancestors: above_it + 1,
        });
    }

    /// The connection that it came on; `None` if that is unknown or not traced. See
    /// [`connection`](crate::connection).
    #[cfg(feature = "connection")]
    #[cfg_attr(docsrs, doc(cfg(feature = "connection")))]
    #[must_use]
    pub fn connection(&self) -> Option<&crate::connection::ConnectionInfo> {
        self.0.connection.get().map(|on| &on.connection)
    }

    /// Once, when the connection is known. Not one of the other side, which a proxy may have left in a request or
    /// a response.
    #[cfg(feature = "connection")]
    pub(crate) fn set_connection(&self, connection: crate::connection::ConnectionInfo) {
        use crate::connection::OnConnection;
        if connection.role() != self.role() {
            return;
        }
        let enter = || OnConnection::enter(connection, self);
        self.0.connection.get_or_init(enter);
    }

    /// The RPC is over: it is no longer among those of its connection.
    #[cfg(feature = "connection")]
    #[inline]
    pub(crate) fn leave_connection(&self) {
        if let Some(on) = self.0.connection.get() {
            on.leave();
        }
    }

    /// The record of the RPC whose code is running. It is set around every poll of the inner future
    /// and of both bodies. `None` outside of them, and in spawned tasks.
    #[must_use]
    pub fn current() -> Option<Self> {
        current()
    }

    /// Which side this record is about.
    #[must_use]
    #[inline]
    pub fn role(&self) -> Role {
        self.0.start.role
    }

    /// Which sides of its method stream, if the layer's [methods](crate::TracerLayer::methods) say so.
    /// It is never inferred from what passes.
    #[must_use]
    pub fn method_kind(&self) -> Option<MethodKind> {
        self.0.start.kind
    }

    /// What the two sides speak.
    #[must_use]
    #[inline]
    pub fn protocol(&self) -> Protocol {
        self.0.start.protocol
    }

    /// The path as the request had it, without a query. On a server a peer chose it: use
    /// [`full_method`](Self::full_method) for names.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.start.path.as_str()
    }

    /// The package of the service, `pkg` of `pkg.Svc`.
    #[must_use]
    pub fn package(&self) -> Option<&str> {
        self.named()?.package()
    }

    /// The full name of the service, `pkg.Svc`.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        self.named()?.service()
    }

    /// The name of the method, `Method`.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.named()?.method()
    }

    /// `pkg.Svc/Method`; `None` if the path does not have that form, and for plain HTTP.
    ///
    /// On a server the caller chose it: the method need not exist.
    #[must_use]
    pub fn full_method(&self) -> Option<&str> {
        self.named()?.full_method()
    }

    /// The request's HTTP method; `None` for a request that is not HTTP.
    #[must_use]
    pub fn http_method(&self) -> Option<&Method> {
        match self.0.start.http_method? {
            HttpMethod::OWN => self.stats().extra_if_any()?.http_method.get(),
            standard => standard.get(),
        }
    }

    /// The end that calls (From in Kitex).
    #[must_use]
    pub fn caller(&self) -> EndpointRef<'_> {
        let start = &self.0.start;
        EndpointRef {
            configured: start.endpoints.as_ref().map(|e| &e.caller),
            socket: self.0.start.sockets.peer,
        }
    }

    /// The end that is called (To in Kitex).
    #[must_use]
    pub fn callee(&self) -> EndpointRef<'_> {
        let start = &self.0.start;
        EndpointRef {
            configured: start.endpoints.as_ref().map(|e| &e.callee),
            socket: self.0.start.sockets.local,
        }
    }

    /// The other end: the callee on a client, the caller on a server.
    #[must_use]
    pub fn peer(&self) -> EndpointRef<'_> {
        match self.role() {
            Role::Client => self.callee(),
            Role::Server => self.caller(),
        }
    }

    /// The time the RPC was given: `grpc-timeout` of the request, or the server's own timeout, if
    /// the layer is configured with one and it is shorter.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.0.start.timeout
    }

    /// When that time is over; `None` also if the clock cannot represent it.
    ///
    /// In a browser (`wasm32-unknown-unknown`) it is an `Instant` of the crate `web-time`, since that of the
    /// standard library cannot be read there. Everywhere else the two are one type.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.start.deadline
    }

    /// Which attempt of a call this is, 1 for the first.
    ///
    /// On a server it comes from `grpc-previous-rpc-attempts`. On a client it counts the records
    /// that had the same parent record in their request, which is what a retry layer between two
    /// tracer layers makes.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        let counted = self.0.parent.get().and_then(|above| above.attempt);
        self.0.start.attempt.or(counted).unwrap_or(1)
    }

    /// The parent of this record: the record of an outer layer on the same request (the call of
    /// which this is an attempt), else the record that was current when the call was made (the RPC
    /// being served when a handler calls a client).
    ///
    /// A record keeps at most 64 ancestors. If its parent has 64, it has no parent and starts a new
    /// chain, so a request that is forwarded without end holds at most 65 records. The new chain
    /// inherits the [draw](crate::RequestParts::draw) of the old one.
    #[must_use]
    #[inline]
    pub fn parent(&self) -> Option<&Self> {
        self.0.parent.get().map(|above| &above.rpc)
    }

    /// The record of an outer layer that has seen the same request on the same side: the record of
    /// the call, if this is an attempt. It is then also the [parent](Self::parent).
    #[must_use]
    pub fn same_request_parent(&self) -> Option<&Self> {
        let above = self.0.parent.get()?;
        above.attempt.is_some().then_some(&above.rpc)
    }

    /// The scopes that its code runs in; set once, when its tracers have started.
    #[inline]
    pub(crate) fn set_scope(&self, scope: Weak<dyn Scope>) {
        let _ = self.0.scope.set(scope);
    }

    /// The same, while it is not over.
    pub(crate) fn scope(&self) -> Option<Arc<dyn Scope>> {
        self.0.scope.get()?.upgrade()
    }

    /// How much is recorded.
    #[must_use]
    pub fn level(&self) -> Level {
        self.stats().level()
    }

    /// What happened to it.
    #[must_use]
    #[inline]
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Records an event now. The first record of an event counts; see [`Event`].
    ///
    /// An RPC keeps 64 user-defined events. Further ones, and those after its end, are
    /// [counted](Stats::events_left_out) but not kept.
    pub fn record(&self, event: Event) {
        self.stats().record(event, Severity::Info, None);
    }

    /// As [`record`](Self::record), with a severity and a text.
    pub fn record_with(&self, event: Event, status: Severity, info: impl Into<Cow<'static, str>>) {
        self.stats().record(event, status, Some(info.into()));
    }

    /// Tags the RPC; a second value for a key replaces the first. An RPC keeps 64 tags; whether this
    /// one was kept is returned.
    pub fn set_tag(
        &self,
        key: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> bool {
        let (key, value) = (key.into(), value.into());
        let mut tags = self.stats().extra().tags();
        if let Some(tag) = tags.iter_mut().find(|(k, _)| *k == key) {
            tag.1 = value;
            return true;
        }
        let fits = tags.len() < RareFields::TAGS;
        if fits {
            tags.push((key, value));
        }
        fits
    }

    /// The value of a tag.
    #[must_use]
    pub fn tag(&self, key: &str) -> Option<Cow<'static, str>> {
        let tags = self.stats().extra_if_any()?.tags();
        let found = tags.iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value.clone())
    }

    /// All tags, in the order in which they were first set.
    #[must_use]
    pub fn tags(&self) -> Vec<(Cow<'static, str>, Cow<'static, str>)> {
        self.stats()
            .extra_if_any()
            .map(|extra| extra.tags().clone())
            .unwrap_or_default()
    }

    /// The random number that it shares with its ancestors and descendants.
    pub(crate) fn sample_key(&self) -> SampleKey {
        let inherit = || self.parent().map_or_else(SampleKey::new, Self::sample_key);
        self.0.sample_key.get_or_init(inherit)
    }

    /// Sets a key that was drawn before the record was made.
    pub(crate) fn set_sample_key(&self, draw: SampleKey) {
        self.0.sample_key.get_or_init(|| draw);
    }

    /// Whether two handles refer to the same record.
    #[must_use]
    pub fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn named(&self) -> Option<&MethodPath> {
        (self.protocol() != Protocol::Http).then_some(&self.0.start.path)
    }
}
