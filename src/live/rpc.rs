//! One RPC as pages show it: a bounded copy of its record.

use std::time::{Instant, UNIX_EPOCH};

use serde::Serialize;

use super::{
    entry::Entry,
    format::{self, visible},
    rows::Rows,
    tree::{Nested, noted},
};
use crate::{Event, Role, RpcInfo, Stats, Status, rpc::Severity, rpc::Traffic};

/// The most bytes of a method, of an error, and of any other text that are kept.
const NAME: usize = 256;
const ERROR: usize = 1_024;
const TEXT: usize = 256;
/// How many of the user's events, of tags and of headers are kept.
const EVENTS: usize = 64;
const TAGS: usize = 32;

/// A copy of what is known of an RPC, with its texts cut. Times are seconds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Rpc {
    pub(super) id: String,
    pub(super) role: &'static str,
    pub(super) method: String,
    #[serde(skip)]
    pub(super) row: u32,
    pub(super) protocol: &'static str,
    pub(super) in_flight: bool,
    /// Unix time of its start.
    pub(super) started: f64,
    /// How long it runs, or ran.
    pub(super) seconds: f64,
    /// Until its deadline; below zero when that is past. Of an RPC in flight.
    pub(super) deadline_in: Option<f64>,
    pub(super) timeout: Option<f64>,
    pub(super) attempt: u32,
    pub(super) attempts_made: u32,
    pub(super) parent: Option<String>,
    /// The number of its connection.
    pub(super) connection: Option<u64>,
    pub(super) waiting_for: Option<&'static str>,
    pub(super) last_event: Option<&'static str>,
    pub(super) sent: Moved,
    pub(super) received: Moved,
    pub(super) status: Option<String>,
    pub(super) wire_status: Option<String>,
    pub(super) http_status: Option<u16>,
    pub(super) ending: Option<&'static str>,
    pub(super) failed: bool,
    /// What only a reader with full access sees.
    #[serde(flatten)]
    pub(super) private: Private,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) events: Vec<Moment>,
    pub(super) events_left_out: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) children: Vec<Nested>,
    pub(super) children_left_out: u64,
}

/// What a peer sent or who it is.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Private {
    pub(super) peer: Option<String>,
    pub(super) error: Option<String>,
    pub(super) panic: Option<String>,
    pub(super) raw_status: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) headers: Vec<(String, String)>,
    pub(super) trace_id: Option<String>,
}

/// What moved in one direction. `None` is not known.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Moved {
    pub(super) messages: Option<u64>,
    pub(super) message_bytes: Option<u64>,
    pub(super) compressed_messages: Option<u64>,
    pub(super) body_bytes: Option<u64>,
    /// From the start of the RPC; at level Detailed.
    pub(super) first_message_at: Option<f64>,
    pub(super) last_message_at: Option<f64>,
    pub(super) complete: bool,
    pub(super) truncated: bool,
}

/// An event with its time from the start of the RPC.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Moment {
    pub(super) name: String,
    pub(super) at: f64,
    pub(super) severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) info: Option<String>,
}

impl Rpc {
    /// A copy with all there is.
    pub(super) fn of(entry: &Entry, rows: &Rows) -> Self {
        let mut copy = Self::row_of(entry);
        let stats = entry.rpc.stats();
        let events = stats.events();
        let kept = events.len().min(EVENTS + Event::PREDEFINED.len());
        copy.events_left_out = stats.events_left_out() + (events.len() - kept) as u64;
        copy.events = events
            .into_iter()
            .take(kept)
            .map(|recorded| Moment {
                name: visible(recorded.event.name(), 64).into_owned(),
                at: recorded.at.as_secs_f64(),
                severity: match recorded.status {
                    Severity::Info => "info",
                    Severity::Warn => "warn",
                    Severity::Error => "error",
                },
                info: recorded.info.map(|info| visible(&info, TEXT).into_owned()),
            })
            .collect();
        let text = |text: Option<&str>| text.map(|text| visible(text, ERROR).into_owned());
        copy.private.error = text(stats.error());
        copy.private.panic = text(stats.panic());
        copy.private.raw_status = text(stats.raw_status());
        let tags = entry.rpc.tags();
        let tags = tags.iter().take(TAGS).map(|(key, value)| pair(key, value));
        copy.private.tags = tags.collect();
        if let Some(extra) = &entry.extra {
            let headers = extra.headers.iter();
            copy.private.headers = headers.map(|(name, value)| pair(name, value)).collect();
            copy.children = noted(&extra.children, copy.seconds, rows);
            copy.children_left_out = extra.children_left_out;
        }
        copy
    }

    /// A copy with what a row of a table shows.
    pub(super) fn row_of(entry: &Entry) -> Self {
        let rpc = &entry.rpc;
        let stats = rpc.stats();
        let in_flight = stats.ending().is_none();
        let started = stats.start_time().duration_since(UNIX_EPOCH);
        let left = rpc.deadline().filter(|_| in_flight).map(time_left);
        let peer = rpc.peer();
        let address = peer.address().map(|address| address.to_string());
        let peer = address.or_else(|| peer.name().map(str::to_owned));
        let trace = entry.extra.as_ref().and_then(|extra| extra.trace);
        let events = [
            Event::TRAILERS,
            Event::RESPONSE_LAST_BYTE,
            Event::RESPONSE_HEADERS,
            Event::SERVER_HANDLE_FINISH,
            Event::SERVER_HANDLE_START,
            Event::HALF_CLOSE,
            Event::REQUEST_LAST_BYTE,
        ];
        let last_event = events
            .into_iter()
            .filter_map(|event| Some((stats.at(event)?, event.name())))
            .max_by_key(|(at, _)| *at)
            .filter(|_| in_flight)
            .map(|(_, name)| name);
        Self {
            id: format::id(entry.id),
            role: rpc.role().as_str(),
            method: method_of(rpc),
            row: entry.row,
            protocol: rpc.protocol().as_str(),
            in_flight,
            started: started.unwrap_or_default().as_secs_f64(),
            seconds: stats.elapsed().as_secs_f64(),
            deadline_in: left,
            timeout: rpc.timeout().map(|timeout| timeout.as_secs_f64()),
            attempt: rpc.attempt(),
            attempts_made: stats.attempts(),
            parent: entry.parent.map(|parent| format::id(parent.id.get())),
            connection: connection_of(rpc),
            waiting_for: in_flight.then(|| waiting_for(rpc.role(), stats)),
            last_event,
            sent: stats.sent().into(),
            received: stats.received().into(),
            status: stats.status().map(status),
            wire_status: stats.wire_status().map(status),
            http_status: stats.http_status(),
            ending: stats.ending_label().map(|(_, ending)| ending),
            failed: stats.failed(),
            private: Private {
                peer: peer.map(|peer| visible(&peer, TEXT).into_owned()),
                trace_id: trace.map(|of| of.trace.as_str().to_owned()),
                ..Private::default()
            },
            events: Vec::new(),
            events_left_out: 0,
            children: Vec::new(),
            children_left_out: 0,
        }
    }

    /// Takes out what a reader who may see figures and no more must not see.
    pub(super) fn hide_private(&mut self, rows: &Rows) {
        self.private = Private::default();
        if let Some(row) = rows.get(self.row) {
            row.public_name().clone_into(&mut self.method);
        }
        for event in &mut self.events {
            event.info = None;
        }
        for child in &mut self.children {
            child.hide_private(rows);
        }
    }

    /// About how many bytes of memory it takes.
    pub(super) fn size(&self) -> usize {
        let texts = |pairs: &[(String, String)]| {
            pairs
                .iter()
                .map(|(k, v)| 48 + k.len() + v.len())
                .sum::<usize>()
        };
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let private = &self.private;
        size_of::<Self>()
            + self.method.len()
            + text(&private.peer)
            + text(&private.error)
            + text(&private.panic)
            + texts(&private.tags)
            + texts(&private.headers)
            + self.events.len() * size_of::<Moment>()
            + self
                .events
                .iter()
                .map(|event| event.name.len() + text(&event.info))
                .sum::<usize>()
            + self.children.iter().map(Nested::size).sum::<usize>()
    }
}

/// The name of its method, or what else says where it goes.
pub(super) fn method_of(rpc: &RpcInfo) -> String {
    match (rpc.full_method(), rpc.http_method()) {
        (Some(method), _) => method.to_owned(),
        (None, Some(verb)) if !rpc.protocol().is_rpc() => {
            format!("{verb:.16} {}", visible(rpc.path(), NAME))
        }
        _ => visible(rpc.path(), NAME).into_owned(),
    }
}

#[cfg(feature = "connection")]
fn connection_of(rpc: &RpcInfo) -> Option<u64> {
    rpc.connection().map(|connection| connection.number())
}

#[cfg(not(feature = "connection"))]
fn connection_of(_: &RpcInfo) -> Option<u64> {
    None
}

/// A status by its name; an HTTP status by its number.
pub(super) fn status(status: Status) -> String {
    status.to_string()
}

fn pair(key: &str, value: &str) -> (String, String) {
    (
        visible(key, 64).into_owned(),
        visible(value, TEXT).into_owned(),
    )
}

/// Seconds until an instant, below zero if that is past.
fn time_left(deadline: Instant) -> f64 {
    let now = Instant::now();
    match deadline.checked_duration_since(now) {
        Some(left) => left.as_secs_f64(),
        None => -now.saturating_duration_since(deadline).as_secs_f64(),
    }
}

/// What has to happen next, as far as the figures show it.
pub(super) fn waiting_for(role: Role, stats: &Stats) -> &'static str {
    match (role, stats.http_status()) {
        (Role::Client, None) => "headers",
        (Role::Server, None)
            if !stats.request().is_complete() && stats.request().body_bytes().is_some() =>
        {
            "request"
        }
        (Role::Server, None) => "handler",
        _ => "response",
    }
}

impl From<Traffic> for Moved {
    fn from(traffic: Traffic) -> Self {
        Self {
            messages: traffic.messages(),
            message_bytes: traffic.message_bytes(),
            compressed_messages: traffic.compressed_messages(),
            body_bytes: traffic.body_bytes(),
            first_message_at: traffic.first_message_at().map(|at| at.as_secs_f64()),
            last_message_at: traffic.last_message_at().map(|at| at.as_secs_f64()),
            complete: traffic.is_complete(),
            truncated: traffic.truncated(),
        }
    }
}
