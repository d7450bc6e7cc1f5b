//! How the layer writes an RPC's [`Stats`].

use std::{
    borrow::Cow,
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering},
    },
    time::Duration,
};

use http::{Response, Version};

use super::{DROPPING, FAILED, SUCCEEDED, Stats, VERSION_SHIFT, VERSIONS, WITH_PARENT};
use crate::{
    rpc::{
        AtomicLevel, Direction, Ending, Event, Level, Outcome, RecordedEvent, Role, Severity,
        Status, Tick, TrafficCell,
        internal::{AtomicOffset, RareFields},
    },
    text::bounded,
};

impl Stats {
    /// Statistics of no RPC yet.
    pub(in crate::rpc) fn blank() -> Self {
        Self {
            role: Role::Client,
            level: AtomicLevel::new(Level::Base),
            start: Tick::now(),
            start_time: OnceLock::new(),
            finish: AtomicOffset::default(),
            request: TrafficCell::default(),
            response: TrafficCell::default(),
            attempts: AtomicU32::new(0),
            http_head: AtomicU16::new(0),
            status: AtomicU32::new(0),
            wire_status: AtomicU32::new(0),
            ending: AtomicU8::new(0),
            marks: AtomicU8::new(0),
            extra: OnceLock::new(),
        }
    }

    /// Makes them the statistics of an RPC that begins at `from`.
    #[inline]
    pub(in crate::rpc) fn begin(&mut self, side: Role, wanted: Level, from: Tick) {
        let Self {
            role,
            level,
            start,
            finish,
            request,
            response,
            attempts,
            http_head,
            status,
            wire_status,
            ending,
            marks,
            // Empty: `clear` has emptied them, and the RPC has not begun.
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
        *http_head = AtomicU16::new(0);
        *status = AtomicU32::new(0);
        *wire_status = AtomicU32::new(0);
        *ending = AtomicU8::new(0);
        *marks = AtomicU8::new(0);
    }

    /// Releases what it holds.
    #[inline]
    pub(in crate::rpc) fn clear(&mut self) {
        self.start_time.take();
        self.extra.take();
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
    pub(in crate::rpc) fn next_attempt(&self) -> u32 {
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

    /// The counters of a direction, if its times are not recorded.
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
        // Only the layer records start and finish.
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

    #[inline]
    pub(crate) fn is_detailed(&self) -> bool {
        self.level() >= Level::Detailed
    }

    #[inline]
    pub(crate) fn set_http_head<B>(&self, response: &Response<B>) {
        // What a server's response says is not what its connection has.
        let version = match self.role {
            Role::Client => place_of(response.version()),
            Role::Server => 0,
        };
        let packed = response.status().as_u16() | version << VERSION_SHIFT;
        self.http_head.store(packed, Ordering::Relaxed);
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
}

/// The place of a version, plus one; 0 for one that has no name.
fn place_of(version: Version) -> u16 {
    let mut places = (1..).zip(VERSIONS);
    places
        .find(|(_, known)| *known == version)
        .map_or(0, |(place, _)| place)
}
