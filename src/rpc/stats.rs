use std::{
    borrow::Cow,
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{
    AtomicLevel, Code, Direction, Ending, Event, Level, Outcome, RecordedEvent, Role, Severity,
    Status, Tick, Traffic, TrafficCell,
    failures::is_failure,
    internal::{AtomicOffset, MessagesAt, RareFields},
};
use crate::text::bounded;

/// A rule other than the default one decided that it succeeded, or failed.
const SUCCEEDED: u8 = 1;
const FAILED: u8 = 1 << 1;
/// Its code is being dropped, before its end.
const DROPPING: u8 = 1 << 2;
/// It was cancelled because its parent was over.
const WITH_PARENT: u8 = 1 << 3;

/// What happened to an RPC: its events with their times, what moved, and how it ended.
///
/// All of it can be read at any time, live while the RPC runs, and after it for as long as somebody
/// holds the [`RpcInfo`](crate::RpcInfo). Times are readings of the monotonic clock, as offsets from
/// the start of the RPC.
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
    http_status: AtomicU16,
    status: AtomicU32,
    wire_status: AtomicU32,
    ending: AtomicU8,
    /// What is known besides: see the constants above.
    marks: AtomicU8,
    extra: OnceLock<Box<RareFields>>,
}

impl Stats {
    /// Of no RPC yet.
    pub(super) fn blank() -> Self {
        Self {
            role: Role::Client,
            level: AtomicLevel::new(Level::Base),
            start: Tick::now(),
            start_time: OnceLock::new(),
            finish: AtomicOffset::default(),
            request: TrafficCell::default(),
            response: TrafficCell::default(),
            attempts: AtomicU32::new(0),
            http_status: AtomicU16::new(0),
            status: AtomicU32::new(0),
            wire_status: AtomicU32::new(0),
            ending: AtomicU8::new(0),
            marks: AtomicU8::new(0),
            extra: OnceLock::new(),
        }
    }

    /// Of an RPC that begins at `from`.
    #[inline]
    pub(super) fn begin(&mut self, side: Role, wanted: Level, from: Tick) {
        let Self {
            role,
            level,
            start,
            finish,
            request,
            response,
            attempts,
            http_status,
            status,
            wire_status,
            ending,
            marks,
            // Empty: nobody has asked for, or added, anything yet.
            start_time: _,
            extra: _,
        } = self;
        *role = side;
        *level = AtomicLevel::new(wanted);
        *start = from;
        *finish = AtomicOffset::default();
        *request = TrafficCell::default();
        *response = TrafficCell::default();
        *attempts = AtomicU32::new(0);
        *http_status = AtomicU16::new(0);
        *status = AtomicU32::new(0);
        *wire_status = AtomicU32::new(0);
        *ending = AtomicU8::new(0);
        *marks = AtomicU8::new(0);
    }

    /// Releases what it holds.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.start_time.take();
        self.extra.take();
    }

    /// What the RPC cost: from [`Event::RPC_START`] to [`Event::RPC_FINISH`]. `None` while it runs.
    ///
    /// It is Kitex's cost of an RPC, `RPCFinish` less `RPCStart`
    /// ([its monitoring](https://www.cloudwego.io/docs/kitex/tutorials/framework-exten/monitoring/)), and
    /// the call duration of gRPC's [A66](https://github.com/grpc/proposal/blob/master/A66-otel-stats.md)
    /// where the layer stands outside of all retries.
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

    /// When an event happened, from the start of the RPC; `None` where it did not, or not yet, or
    /// where the RPC's level is below the event's.
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

    /// The time from one event to another; `None` where one of them is missing, or they happened
    /// the other way round.
    #[must_use]
    pub fn between(&self, from: Event, to: Event) -> Option<Duration> {
        self.at(to)?.checked_sub(self.at(from)?)
    }

    /// The wall-clock time of an event.
    ///
    /// The first question asks the system's clock, and all further ones about this RPC are answered
    /// relative to it, so that differences are those of the monotonic clock.
    #[must_use]
    pub fn time(&self, event: Event) -> Option<SystemTime> {
        let at = self.at(event)?;
        self.start_time().checked_add(at)
    }

    /// The wall-clock time of the RPC's start; see [`time`](Self::time).
    #[must_use]
    pub fn start_time(&self) -> SystemTime {
        *self.start_time.get_or_init(|| {
            let now = SystemTime::now();
            now.checked_sub(Duration::from_nanos(self.now()))
                .unwrap_or(now)
        })
    }

    /// An event as it was recorded: its time, and what was said of it.
    #[must_use]
    pub fn event(&self, event: Event) -> Option<RecordedEvent> {
        let at = self.at(event)?;
        // What moved on since somebody said something of it has the later time.
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
    /// attempts of a call, as gRPC's [A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md)
    /// counts them, where a retry layer stands between two tracer layers.
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
    /// For gRPC it comes from the headers if they carry an error (the RPC is over then, and what may
    /// follow is not counted), else the trailers, else an OK in the headers. If the RPC failed below
    /// the layer, it comes from the causes of the error. If there is none of these, it comes from gRPC's
    /// [mapping of HTTP statuses](https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md)
    /// (on a client). Connect's comes from the end of its body, else from the HTTP status (on both
    /// sides). A missing or garbled one is UNKNOWN, an RPC dropped without any of these is
    /// CANCELLED, and what was CANCELLED when its deadline had passed is DEADLINE_EXCEEDED, as
    /// grpc-go reports it. What the wire said is [`wire_status`](Self::wire_status).
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

    /// The status that the peer sent, or that the error carried, where there was one: not inferred,
    /// not corrected by the clock. `None` too for a plain HTTP exchange whose body did not come to its
    /// end.
    #[must_use]
    pub fn wire_status(&self) -> Option<Status> {
        Status::unpack(self.wire_status.load(Ordering::Acquire))
    }

    /// A `grpc-status` that is no code, as it was sent: the first 64 bytes, characters that are not
    /// printable ASCII escaped.
    #[must_use]
    pub fn raw_status(&self) -> Option<&str> {
        self.extra.get()?.raw_status.get().map(|raw| &**raw)
    }

    /// The HTTP status of the response ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#section-15)),
    /// once its headers passed.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        match self.http_status.load(Ordering::Relaxed) {
            0 => None,
            status => Some(status),
        }
    }

    /// How the RPC ended, `None` while it runs.
    #[must_use]
    #[inline]
    pub fn ending(&self) -> Option<Ending> {
        Ending::unpack(self.ending.load(Ordering::Acquire))
    }

    /// The text of the error: the status's message, or what the error displays. 1024 bytes at most.
    ///
    /// It can hold what a peer sent; escape it where it is printed (`{:?}` does).
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.extra.get()?.error.get().map(|text| &**text)
    }

    /// The message of a panic of the inner service, 1024 bytes at most; empty where the panic
    /// carried no text.
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
    pub(crate) fn ending_label(&self) -> Option<(usize, &'static str)> {
        let ending = self.ending()?;
        Some(match self.cancelled_with_parent() {
            true => (Ending::ALL.len(), "cancelled_with_parent"),
            false => (ending as usize, ending.as_str()),
        })
    }

    /// Records what the layer's rule decided.
    pub(crate) fn set_failed(&self, failed: bool) {
        self.mark(if failed { FAILED } else { SUCCEEDED });
    }

    /// Records that its code is being dropped.
    pub(crate) fn set_dropping(&self) {
        self.mark(DROPPING);
    }

    /// Records why it was cancelled.
    pub(crate) fn set_cancelled_with_parent(&self) {
        self.mark(WITH_PARENT);
    }

    /// Whether its code goes on no longer: it is over, or is being dropped.
    pub(crate) fn is_going(&self) -> bool {
        self.ending().is_some() || self.marks.load(Ordering::Relaxed) & DROPPING != 0
    }

    fn mark(&self, mark: u8) {
        self.marks.fetch_or(mark, Ordering::Relaxed);
    }

    /// The number of the next attempt under this record, from 1.
    pub(super) fn next_attempt(&self) -> u32 {
        let earlier = self.attempts.fetch_add(1, Ordering::Relaxed);
        earlier.saturating_add(1)
    }

    #[inline]
    pub(crate) fn cell(&self, direction: Direction) -> &TrafficCell {
        match direction {
            Direction::Request => &self.request,
            Direction::Response => &self.response,
        }
    }

    /// Where a direction is counted, if the moments of it are not asked for.
    #[inline]
    pub(crate) fn quiet_cell(&self, direction: Direction) -> Option<&TrafficCell> {
        (!self.is_detailed()).then(|| self.cell(direction))
    }

    #[inline]
    pub(crate) fn level(&self) -> Level {
        self.level.get()
    }

    #[inline]
    pub(crate) fn raise_level(&self, level: Level) {
        self.level.raise(level);
    }

    /// Nanoseconds since the start.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.start.elapsed().min(u64::MAX - 1)
    }

    /// Records a predefined or user-defined event now.
    pub(crate) fn record(&self, event: Event, status: Severity, info: Option<Cow<'static, str>>) {
        // Start and finish are the layer's to say.
        if event.level() > self.level() || event == Event::RPC_START || event == Event::RPC_FINISH {
            return;
        }
        if self.ending().is_some() {
            self.extra().leave_out();
            return;
        }
        let now = self.now();
        let extra = self.extra();
        if let Some(moment) = extra.moment(event) {
            let fresh = moment.set(now);
            if !fresh || (status == Severity::Info && info.is_none()) {
                return;
            }
        }
        let mut events = extra.events();
        if events.iter().any(|recorded| recorded.event == event) {
            return;
        }
        if events.len() >= RareFields::EVENTS {
            drop(events);
            extra.leave_out();
            return;
        }
        events.push(RecordedEvent {
            event,
            at: Duration::from_nanos(now),
            status,
            info,
        });
    }

    /// Records a predefined event at a time that was already read.
    pub(crate) fn mark_at(&self, event: Event, now: u64) {
        if let Some(moment) = self.extra().moment(event) {
            moment.set(now);
        }
    }

    /// Moves a predefined event to a later time.
    pub(crate) fn mark_latest(&self, event: Event, now: u64) {
        if let Some(moment) = self.extra().moment(event) {
            moment.move_to(now);
        }
    }

    /// Records when a message of one direction was complete.
    pub(crate) fn message_at(&self, direction: Direction, now: u64) {
        let messages = self.extra().messages(direction);
        messages.first.set(now);
        messages.last.move_to(now);
    }

    fn messages_at(&self, direction: Direction) -> Option<&MessagesAt> {
        Some(self.extra.get()?.messages(direction))
    }

    #[inline]
    pub(crate) fn is_detailed(&self) -> bool {
        self.level() >= Level::Detailed
    }

    #[inline]
    pub(crate) fn set_http_status(&self, status: u16) {
        self.http_status.store(status, Ordering::Relaxed);
    }

    /// Records how the RPC ended. Called once, by its guard.
    pub(crate) fn end(&self, outcome: &Outcome<'_>) {
        if let Some(text) = outcome.error.as_deref().filter(|text| !text.is_empty()) {
            let _ = self
                .extra()
                .error
                .set(bounded(text, RareFields::TEXT).into());
        }
        if let Some(text) = outcome.panic {
            let _ = self
                .extra()
                .panic
                .set(bounded(text, RareFields::TEXT).into());
        }
        if let Some(raw) = &outcome.raw_status {
            let head = raw.get(..64).unwrap_or(raw);
            let raw = head.escape_ascii().to_string();
            let _ = self.extra().raw_status.set(raw.into());
        }
        self.end_with(outcome.ending, outcome.status, outcome.wire_status);
    }

    /// As [`end`](Self::end), for an RPC that ended with OK in its trailers.
    #[inline]
    pub(crate) fn end_ok(&self) {
        self.end_with(Ending::Trailers, Some(Status::OK), Some(Status::OK));
    }

    #[inline]
    fn end_with(&self, ending: Ending, status: Option<Status>, wire_status: Option<Status>) {
        self.status.store(Status::pack(status), Ordering::Relaxed);
        self.wire_status
            .store(Status::pack(wire_status), Ordering::Relaxed);
        self.finish.move_to(self.now());
        self.ending.store(ending.pack(), Ordering::Release);
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
