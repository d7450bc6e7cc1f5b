mod write;

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::Version;

use super::{
    AtomicLevel, Code, Direction, Ending, Event, RecordedEvent, Role, Severity, Status, Tick,
    Traffic, TrafficCell,
    failures::is_failure,
    internal::{AtomicOffset, MessagesAt, RareFields},
};
use crate::time::system_time;

/// A rule other than the default one decided that it succeeded, or failed.
const SUCCEEDED: u8 = 1;
const FAILED: u8 = 1 << 1;
/// Its code is being dropped, before its end.
const DROPPING: u8 = 1 << 2;
/// It was cancelled because its parent was over.
const WITH_PARENT: u8 = 1 << 3;

const STATUS_MASK: u16 = (1 << VERSION_SHIFT) - 1;
const VERSION_SHIFT: u32 = 10;

const VERSIONS: [Version; 5] = [
    Version::HTTP_09,
    Version::HTTP_10,
    Version::HTTP_11,
    Version::HTTP_2,
    Version::HTTP_3,
];

/// What happened to an RPC: its events with their times, what moved, and how it ended.
///
/// All of it can be read at any time, live while the RPC runs, and after it for as long as you hold
/// the [`RpcInfo`](crate::RpcInfo). Times are readings of the monotonic clock, as offsets from the
/// start of the RPC.
///
/// ```
/// # use {http::{Request, Response}, tower::{ServiceBuilder, ServiceExt as _}};
/// use tower_tracer::{Code, Ending, Event, Level, RpcInfo, Status, TracerLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), http::Error> {
/// // A gRPC handler that finds nothing, which is no failure of the server.
/// let service = ServiceBuilder::new()
///     .layer(TracerLayer::new(()).level(Level::Detailed).insert_into_response())
///     .service_fn(async |_: Request<String>| {
///         Response::builder().header("grpc-status", "5").body(String::new())
///     });
/// let request = Request::post("/echo.Echo/UnaryEcho").header("content-type", "application/grpc");
/// let response = service.oneshot(request.body(String::new())?).await?;
///
/// let stats = response.extensions().get::<RpcInfo>().unwrap().stats();
/// assert_eq!(stats.status(), Some(Status::Grpc(Code::NotFound)));
/// assert_eq!(stats.code(), Some(Code::NotFound));
/// assert_eq!(stats.ending(), Some(Ending::HeadersOnly));
/// assert_eq!(stats.http_status(), Some(200));
/// assert!(!stats.failed() && stats.error().is_none());
///
/// assert_eq!(stats.duration(), stats.between(Event::RPC_START, Event::RPC_FINISH));
/// assert!(stats.at(Event::RESPONSE_HEADERS) <= stats.duration());
/// assert_eq!(stats.at(Event::TRAILERS), None);
///
/// // This layer does not know the type of the request's body; unknown is not zero.
/// assert_eq!(stats.request().body_bytes(), None);
/// assert_eq!(stats.response().body_bytes(), Some(0));
/// # Ok(()) }
/// ```
pub struct Stats {
    role: Role,
    level: AtomicLevel,
    start: Tick,
    start_time: OnceLock<SystemTime>,
    finish: AtomicOffset,
    request: TrafficCell,
    response: TrafficCell,
    /// Attempts made under this record.
    attempts: AtomicU32,
    /// The response's HTTP status, and above it the place of its version in `VERSIONS`, plus one.
    http_head: AtomicU16,
    status: AtomicU32,
    wire_status: AtomicU32,
    ending: AtomicU8,
    /// What is known besides: see the constants above.
    marks: AtomicU8,
    extra: OnceLock<Box<RareFields>>,
}

impl Stats {
    /// What the RPC cost: from [`Event::RPC_START`] to [`Event::RPC_FINISH`]. `None` while it runs.
    ///
    /// It is Kitex's cost of an RPC, `RPCFinish` less `RPCStart` ([its
    /// monitoring](https://www.cloudwego.io/docs/kitex/tutorials/framework-exten/monitoring/)), and
    /// the call duration of gRPC's
    /// [A66](https://github.com/grpc/proposal/blob/master/A66-otel-stats.md) if the layer is
    /// outside of all retries.
    #[must_use]
    #[inline]
    pub fn duration(&self) -> Option<Duration> {
        self.finish.get()
    }

    /// How long the RPC has been running, or ran.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.duration()
            .unwrap_or_else(|| Duration::from_nanos(self.now()))
    }

    /// When an event happened, from the start of the RPC; `None` if it did not, or not yet, or if
    /// the RPC's level is below the event's.
    #[must_use]
    pub fn at(&self, event: Event) -> Option<Duration> {
        if event == Event::RPC_START {
            Some(Duration::ZERO)
        } else if event == Event::RPC_FINISH {
            self.finish.get()
        } else if event.is_predefined() {
            self.extra.get()?.moment(event)?.get()
        } else {
            self.custom(event).map(|recorded| recorded.at)
        }
    }

    /// On a client, how long the request waited before the transport took the first byte of its body: for a
    /// connection, in a queue, for a free stream.
    ///
    /// It is the delay of the draft of gRFC A121 as far as a layer sees it: the cause is not known, a request
    /// without a body has none, and time in `poll_ready` comes before the RPC. Known at
    /// [`Level::Detailed`](crate::Level::Detailed); `None` on a server.
    #[must_use]
    pub fn send_delay(&self) -> Option<Duration> {
        match self.role {
            Role::Client => self.at(Event::REQUEST_FIRST_BYTE),
            Role::Server => None,
        }
    }

    /// The time from one event to another; `None` if one of them is missing, or if they happened in
    /// the opposite order.
    #[must_use]
    pub fn between(&self, from: Event, to: Event) -> Option<Duration> {
        self.at(to)?.checked_sub(self.at(from)?)
    }

    /// The wall-clock time of an event.
    ///
    /// The first call reads the system's clock. All later calls for this RPC are relative to that
    /// reading, so differences are those of the monotonic clock.
    #[must_use]
    pub fn time(&self, event: Event) -> Option<SystemTime> {
        let at = self.at(event)?;
        self.start_time().checked_add(at)
    }

    /// The wall-clock time of the RPC's start; see [`time`](Self::time).
    #[must_use]
    pub fn start_time(&self) -> SystemTime {
        *self.start_time.get_or_init(|| {
            let now = system_time();
            now.checked_sub(Duration::from_nanos(self.now()))
                .unwrap_or(now)
        })
    }

    /// An event as it was recorded: its time, severity and text.
    #[must_use]
    pub fn event(&self, event: Event) -> Option<RecordedEvent> {
        let at = self.at(event)?;
        // An event that moved on after its text was recorded has the later time.
        let recorded = self
            .custom(event)
            .map(|recorded| RecordedEvent { at, ..recorded });
        Some(recorded.unwrap_or(RecordedEvent {
            event,
            at,
            status: Severity::Info,
            info: None,
        }))
    }

    /// All events so far, predefined and user-defined, in the order of their times.
    #[must_use]
    pub fn events(&self) -> Vec<RecordedEvent> {
        let mut events: Vec<_> = Event::PREDEFINED
            .iter()
            .filter_map(|event| self.event(*event))
            .collect();
        events.extend(self.user_events());
        events.sort_by_key(|recorded| recorded.at);
        events
    }

    /// The user-defined events so far, in the order in which they were recorded.
    #[must_use]
    pub fn user_events(&self) -> Vec<RecordedEvent> {
        let Some(extra) = self.extra.get() else {
            return Vec::new();
        };
        let recorded = extra.events();
        let own = recorded.iter().filter(|r| !r.event.is_predefined());
        own.cloned().collect()
    }

    /// How many records were made under this one on the same request, by layers further in: the
    /// attempts of a call, as gRPC's
    /// [A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md) counts them, if a
    /// retry layer is between two tracer layers.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// How many events were not kept: user-defined ones beyond the first 64 of the RPC, and any that
    /// was recorded after its end.
    #[must_use]
    pub fn events_left_out(&self) -> u64 {
        self.extra
            .get()
            .map_or(0, |extra| extra.events_left_out.load(Ordering::Relaxed))
    }

    /// What moved from the client to the server.
    #[must_use]
    pub fn request(&self) -> Traffic {
        self.request.snapshot(self.messages_at(Direction::Request))
    }

    /// What moved from the server to the client.
    #[must_use]
    pub fn response(&self) -> Traffic {
        self.response
            .snapshot(self.messages_at(Direction::Response))
    }

    /// What this side sent: the request on a client, the response on a server.
    #[must_use]
    pub fn sent(&self) -> Traffic {
        match self.role {
            Role::Client => self.request(),
            Role::Server => self.response(),
        }
    }

    /// What this side received: the response on a client, the request on a server.
    #[must_use]
    pub fn received(&self) -> Traffic {
        match self.role {
            Role::Client => self.response(),
            Role::Server => self.request(),
        }
    }

    /// The status of the RPC, `None` while it runs, and for an HTTP exchange that ended without a
    /// response.
    ///
    /// For gRPC, the first of these that is there counts: an error in the headers (the RPC is then over, and
    /// trailers that follow do not count), the trailers, OK in the headers. Connect has it at the end of
    /// its body.
    ///
    /// Without a status from the peer it is inferred:
    ///
    /// * If the service or the body failed, the causes of the error decide. UNKNOWN if none of them has
    ///   a code.
    /// * If the response ended, a client takes gRPC's
    ///   [mapping of its HTTP status](https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md),
    ///   and a server UNKNOWN. A unary call of Connect takes the HTTP status on both sides.
    /// * If the RPC was dropped, CANCELLED. A client that drops the page of an HTTP error takes the
    ///   mapping instead.
    ///
    /// A garbled status is UNKNOWN. A cancellation after the deadline is DEADLINE_EXCEEDED, as grpc-go
    /// reports it. What the peer sent is [`wire_status`](Self::wire_status).
    #[must_use]
    #[inline]
    pub fn status(&self) -> Option<Status> {
        Status::unpack(self.status.load(Ordering::Acquire))
    }

    /// The gRPC code of the [status](Self::status); `None` while the RPC runs, and for plain HTTP.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.status()?.code()
    }

    /// The status that the peer sent or that the error carried: not inferred, not corrected by the
    /// clock. `None` if there was none, and for a plain HTTP exchange whose body did not reach its
    /// end.
    #[must_use]
    pub fn wire_status(&self) -> Option<Status> {
        Status::unpack(self.wire_status.load(Ordering::Acquire))
    }

    /// A `grpc-status` that is not a code, as it was sent: its first 64 bytes, with everything but
    /// printable ASCII escaped.
    #[must_use]
    pub fn raw_status(&self) -> Option<&str> {
        self.extra.get()?.raw_status.get().map(|raw| &**raw)
    }

    /// The HTTP status of the response ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#section-15)),
    /// once its headers passed.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        match self.http_head.load(Ordering::Relaxed) & STATUS_MASK {
            0 => None,
            status => Some(status),
        }
    }

    /// The version of HTTP that a client's response came in, as the inner service says it
    /// ([RFC 9110 2.5](https://www.rfc-editor.org/rfc/rfc9110#section-2.5)). `None` on a server, and before
    /// the headers passed.
    #[must_use]
    pub fn http_version(&self) -> Option<Version> {
        let packed = self.http_head.load(Ordering::Relaxed) >> VERSION_SHIFT;
        let place = usize::from(packed).checked_sub(1)?;
        VERSIONS.get(place).copied()
    }

    /// How the RPC ended, `None` while it runs.
    #[must_use]
    #[inline]
    pub fn ending(&self) -> Option<Ending> {
        Ending::unpack(self.ending.load(Ordering::Acquire))
    }

    /// The text of the error: the status's message, or what the error displays. 1024 bytes at most.
    ///
    /// It can hold text from a peer: escape it when you print it (`{:?}` does).
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.extra.get()?.error.get().map(|text| &**text)
    }

    /// The message of a panic of the inner service, 1024 bytes at most; empty if the panic carried
    /// no text.
    #[must_use]
    pub fn panic(&self) -> Option<&str> {
        self.extra.get()?.panic.get().map(|text| &**text)
    }

    /// Whether the RPC is over and was a failure of this side, as the layer's
    /// [`Failures`](crate::rpc::Failures) decide. By default a NOT_FOUND is a failure on a client and
    /// none on a server, which did its work. All tracers of this crate follow it.
    #[must_use]
    pub fn failed(&self) -> bool {
        let marks = self.marks.load(Ordering::Relaxed);
        match marks & (SUCCEEDED | FAILED) {
            0 => self.fails_by_default(),
            decided => decided == FAILED,
        }
    }

    /// What the default rule says.
    pub(super) fn fails_by_default(&self) -> bool {
        let fails = |ending| is_failure(self.role, self.status(), ending);
        !self.cancelled_with_parent() && self.ending().is_some_and(fails)
    }

    /// Whether a client's call was cancelled because the server RPC that made it was over: it had ended, was
    /// cancelled, exceeded its deadline or panicked. A call that its handler gave up by itself is not.
    ///
    /// It is no [failure](Self::failed) by default. The tracers of this crate name the ending
    /// `cancelled_with_parent` then, and the OpenTelemetry span has the attribute
    /// `tower_tracer.cancelled_with_parent`.
    #[must_use]
    pub fn cancelled_with_parent(&self) -> bool {
        self.marks.load(Ordering::Relaxed) & WITH_PARENT != 0
    }

    /// The ending as a label, and its place among all of them.
    #[cfg(any(
        feature = "live",
        feature = "metrics",
        feature = "prometheus",
        feature = "tracing"
    ))]
    pub(crate) fn ending_label(&self) -> Option<(usize, &'static str)> {
        let ending = self.ending()?;
        Some(match self.cancelled_with_parent() {
            true => (Ending::ALL.len(), super::ending::WITH_PARENT),
            false => (ending as usize, ending.as_str()),
        })
    }

    fn messages_at(&self, direction: Direction) -> Option<&MessagesAt> {
        Some(self.extra.get()?.messages(direction))
    }

    pub(super) fn extra(&self) -> &RareFields {
        self.extra.get_or_init(Box::default)
    }

    pub(super) fn extra_if_any(&self) -> Option<&RareFields> {
        self.extra.get().map(|extra| &**extra)
    }

    fn custom(&self, event: Event) -> Option<RecordedEvent> {
        let events = self.extra.get()?.events();
        events.iter().find(|r| r.event == event).cloned()
    }
}
