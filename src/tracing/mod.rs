#![doc = include_str!("tracing.md")]

mod access_log;
#[cfg(feature = "connection")]
mod connections;
mod span;

use std::{fmt, sync::Arc};

use ::tracing::{Level, Span};

pub use self::span::Running;
use self::span::{Entered, Methods, SpanOf, close};
use crate::{
    Code, Ending, RequestParts, RpcInfo, Status, Tracer, methods::KnownMethods, panics::contain,
    tracer::Scope,
};

type LevelOf = dyn Fn(&RpcInfo) -> Option<Level> + Send + Sync;
type OnEnd = dyn Fn(&Span, &RpcInfo) + Send + Sync;
type OnSpan = dyn Fn(&Span, &RpcInfo, &mut RequestParts<'_>) + Send + Sync;

/// A span and an access-log event per RPC; see the [module](self).
pub struct TracingTracer {
    methods: Methods,
    level_of: Box<LevelOf>,
    on_span: Option<Box<OnSpan>>,
    on_end: Option<Box<OnEnd>>,
    progress_level: Level,
    status_code: &'static str,
}

/// The field of the status code, by the conventions and by those before 1.45.
const STATUS_CODE: &str = "rpc.status_code";
const OLD_STATUS_CODE: &str = "rpc.response.status_code";

impl TracingTracer {
    /// A tracer that logs at [`level_of`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            methods: Methods::default(),
            level_of: Box::new(|rpc| Some(level_of(rpc))),
            on_span: None,
            on_end: None,
            progress_level: Level::INFO,
            status_code: STATUS_CODE,
        }
    }

    /// The methods that are known, on a server; a span is named after no other. Those that generated
    /// clients call are known without.
    #[must_use]
    pub fn methods(mut self, known: KnownMethods) -> Self {
        self.methods.listed = Some(known);
        self
    }

    /// Chooses the level of the access-log event from an RPC that is over; `None` is no event.
    ///
    /// ```
    /// use tower_tracer::tracing::{TracingTracer, level_of};
    ///
    /// // Successes at DEBUG, the rest as by default.
    /// let tracer = TracingTracer::new().level_of(|rpc| match rpc.stats().failed() {
    ///     false => Some(tracing::Level::DEBUG),
    ///     true => Some(level_of(rpc)),
    /// });
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn level_of(
        mut self,
        choose: impl Fn(&RpcInfo) -> Option<Level> + Send + Sync + 'static,
    ) -> Self {
        self.level_of = Box::new(choose);
        self
    }

    /// The level of the line about an RPC that still runs, INFO by default. There is one at each
    /// [progress](crate::TracerLayer::progress_every): an event like that of the access log, with the counts so
    /// far and the message `rpc still running`.
    #[must_use]
    pub fn progress_level(mut self, level: Level) -> Self {
        self.progress_level = level;
        self
    }

    /// Calls this with each span that is made, before the request goes on: the place to take a remote
    /// parent from a server's request, and to put this span's context into a client's. With
    /// `tracing-opentelemetry` that is `set_parent` and `context`.
    #[must_use]
    pub fn on_span(
        mut self,
        hook: impl Fn(&Span, &RpcInfo, &mut RequestParts<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.on_span = Some(Box::new(hook));
        self
    }

    /// Calls this with each span when its RPC is over, before the access log: the place to record more
    /// of what the record has. A field has to be declared when the span is made, so a custom field
    /// takes the extension of a subscriber, such as `set_attribute` of `tracing-opentelemetry`.
    #[must_use]
    pub fn on_end(mut self, hook: impl Fn(&Span, &RpcInfo) + Send + Sync + 'static) -> Self {
        self.on_end = Some(Box::new(hook));
        self
    }

    /// Names the field of the status code: `rpc.status_code`, or `rpc.response.status_code` for a backend
    /// that expects version 1.44 of the conventions or older.
    ///
    /// # Panics
    ///
    /// If it is neither of the two: a span has no other field for it.
    #[must_use]
    pub fn status_code_key(mut self, key: &'static str) -> Self {
        assert!(
            [STATUS_CODE, OLD_STATUS_CODE].contains(&key),
            "the key of the status code is {STATUS_CODE:?} or {OLD_STATUS_CODE:?}, not {key:?}"
        );
        self.status_code = key;
        self
    }
}

/// The level at which an RPC is logged unless chosen otherwise.
///
/// An RPC that did not [fail](crate::Stats::failed) is INFO. A failure is ERROR if something is broken:
/// UNKNOWN, INTERNAL, DATA_LOSS, HTTP 5xx, an HTTP exchange without a response, a panic. Every other
/// failure is WARN.
#[must_use]
pub fn level_of(rpc: &RpcInfo) -> Level {
    let stats = rpc.stats();
    if !stats.failed() {
        return Level::INFO;
    }
    match (stats.status(), stats.ending()) {
        (_, Some(Ending::Panic))
        | (Some(Status::Grpc(Code::Unknown | Code::Internal | Code::DataLoss)), _)
        | (Some(Status::Http(500..)), _)
        | (None, _) => Level::ERROR,
        (Some(_), _) => Level::WARN,
    }
}

impl Default for TracingTracer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TracingTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracingTracer")
            .field("methods", &self.methods)
            .field("on_span", &self.on_span.is_some())
            .field("on_end", &self.on_end.is_some())
            .finish_non_exhaustive()
    }
}

impl Tracer for TracingTracer {
    type State = Running;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Running {
        let running = self.methods.open(rpc, request);
        let span = &running.spans.own;
        if span.is_none() {
            return running;
        }
        if let Some(extensions) = request.extensions_mut() {
            extensions.insert(SpanOf {
                rpc: rpc.clone(),
                spans: Arc::downgrade(&running.spans),
            });
        }
        if let Some(hook) = &self.on_span {
            contain::<Self, _>("on_span", || hook(span, rpc, request));
        }
        running
    }

    fn finish(&self, running: Running, rpc: &RpcInfo) {
        if running.undecided {
            self.methods.decide(&running.spans.own, rpc);
        }
        close(&running.spans.own, rpc, self.status_code);
        if let Some(hook) = self
            .on_end
            .as_ref()
            .filter(|_| !running.spans.own.is_none())
        {
            contain::<Self, _>("on_end", || hook(&running.spans.own, rpc));
        }
        if let Some(level) = (self.level_of)(rpc) {
            access_log::write(level, &running, rpc);
        }
    }

    fn progress(&self, running: &mut Running, rpc: &RpcInfo) {
        access_log::write(self.progress_level, running, rpc);
    }

    fn scope(&self, running: &Running, _: &RpcInfo) -> Option<Arc<dyn Scope>> {
        let spans = &running.spans;
        (!spans.own.is_none()).then(|| Arc::new(Entered(Arc::downgrade(spans))) as Arc<dyn Scope>)
    }
}
