//! What a connection's HTTP/2 frames say, read from the plaintext that passes.

mod scanner;
mod streams;

use std::time::Duration;

use self::{
    scanner::{Frame, Scanner},
    streams::Streams,
};
use crate::Role;

/// Codes of errors that have a name, and one place for the rest.
const CODES: usize = 15;

/// When the answer to a PING is not expected any more.
const PING_LOST: Duration = Duration::from_secs(60);

/// What the HTTP/2 frames of a connection say; see [`ConnectionInfo::h2`](super::ConnectionInfo::h2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct H2Figures {
    goaway: BothWays<Option<GoAway>>,
    resets: BothWays<[u32; CODES]>,
    ping: Option<Duration>,
    streams_opened: u64,
    streams_open: Option<usize>,
    max_concurrent_streams: Option<u32>,
    initial_window_size: Option<u32>,
    max_frame_size: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct BothWays<T> {
    received: T,
    sent: T,
}

/// A GOAWAY frame ([RFC 9113 6.8](https://www.rfc-editor.org/rfc/rfc9113#section-6.8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GoAway {
    /// Its error code: see [`code_name`](Self::code_name).
    pub code: u32,
    /// The last stream that its sender may still process.
    pub last_stream: u32,
}

impl GoAway {
    /// The code's name, such as `NO_ERROR`; `UNKNOWN` for a code that has none.
    #[must_use]
    pub fn code_name(self) -> &'static str {
        NAMES.get(place(self.code)).copied().unwrap_or("UNKNOWN")
    }
}

/// By code ([RFC 9113 7](https://www.rfc-editor.org/rfc/rfc9113#section-7)).
const NAMES: [&str; CODES] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
    "UNKNOWN",
];

fn place(code: u32) -> usize {
    usize::try_from(code).map_or(CODES - 1, |code| code.min(CODES - 1))
}

impl H2Figures {
    /// The last GOAWAY that the peer sent.
    #[must_use]
    pub fn goaway_received(&self) -> Option<GoAway> {
        self.goaway.received
    }

    /// The last GOAWAY that this side sent.
    #[must_use]
    pub fn goaway_sent(&self) -> Option<GoAway> {
        self.goaway.sent
    }

    /// How many streams the peer reset, by the name of the code.
    pub fn resets_received(&self) -> impl Iterator<Item = (&'static str, u64)> {
        named(&self.resets.received)
    }

    /// How many streams this side reset, by the name of the code.
    pub fn resets_sent(&self) -> impl Iterator<Item = (&'static str, u64)> {
        named(&self.resets.sent)
    }

    /// The latest round trip of a PING of this side.
    #[must_use]
    pub fn ping(&self) -> Option<Duration> {
        self.ping
    }

    /// How many streams the client has opened.
    #[must_use]
    pub fn streams_opened(&self) -> u64 {
        self.streams_opened
    }

    /// How many streams are open; `None` once more than 16 were still open 128 streams later.
    #[must_use]
    pub fn streams_open(&self) -> Option<usize> {
        self.streams_open
    }

    /// How many streams the peer allows at a time, if it says so.
    #[must_use]
    pub fn max_concurrent_streams(&self) -> Option<u32> {
        self.max_concurrent_streams
    }

    /// How many bytes of a stream the peer takes at first, if it says so.
    #[must_use]
    pub fn initial_window_size(&self) -> Option<u32> {
        self.initial_window_size
    }

    /// The largest frame that the peer takes, if it says so.
    #[must_use]
    pub fn max_frame_size(&self) -> Option<u32> {
        self.max_frame_size
    }
}

fn named(counts: &[u32; CODES]) -> impl Iterator<Item = (&'static str, u64)> {
    let counts = NAMES.into_iter().zip(counts.map(u64::from));
    counts.filter(|(_, count)| *count > 0)
}

/// Both scanners of a connection, and what they have found.
pub(super) struct Frames {
    client: Scanner,
    server: Scanner,
    is_client: bool,
    found: Found,
}

#[derive(Default)]
struct Found {
    figures: H2Figures,
    streams: Streams,
    ping: Option<(u64, Duration)>,
    is_h2: bool,
}

impl Frames {
    pub(super) fn new(role: Role) -> Self {
        Self {
            client: Scanner::new(true),
            server: Scanner::new(false),
            is_client: role == Role::Client,
            found: Found::default(),
        }
    }

    /// Whether there is nothing to find any more.
    pub(super) fn has_given_up(&self) -> bool {
        !self.client.is_reading() || !self.server.is_reading()
    }

    pub(super) fn received(&mut self, bytes: &[u8], now: Option<Duration>) {
        let from_client = !self.is_client;
        self.read(bytes, from_client, true, now);
    }

    pub(super) fn sent(&mut self, bytes: &[u8], now: Option<Duration>) {
        let from_client = self.is_client;
        self.read(bytes, from_client, false, now);
    }

    fn read(&mut self, bytes: &[u8], from_client: bool, received: bool, now: Option<Duration>) {
        if self.has_given_up() {
            return;
        }
        let (found, now) = (&mut self.found, now.unwrap_or_default());
        let scanner = match from_client {
            true => &mut self.client,
            false => &mut self.server,
        };
        scanner.read(bytes, &mut |frame| {
            found.note(frame, from_client, received, now)
        });
    }

    /// `None` if what passed is not HTTP/2, or could not be read to the end.
    pub(super) fn figures(&self) -> Option<H2Figures> {
        if self.has_given_up() || !self.found.is_h2 {
            return None;
        }
        let mut figures = self.found.figures.clone();
        figures.streams_open = self.found.streams.count();
        Some(figures)
    }
}

impl<T> BothWays<T> {
    fn of(&mut self, received: bool) -> &mut T {
        match received {
            true => &mut self.received,
            false => &mut self.sent,
        }
    }
}

impl Found {
    fn note(&mut self, frame: Frame, from_client: bool, received: bool, now: Duration) {
        self.is_h2 = true;
        let figures = &mut self.figures;
        match frame {
            Frame::Headers { stream, end } => {
                if from_client && self.streams.open(stream) {
                    figures.streams_opened += 1;
                }
                if end {
                    self.streams.end(stream, from_client);
                }
            }
            Frame::Data { stream, end: true } => self.streams.end(stream, from_client),
            Frame::Data { .. } => {}
            Frame::Reset { stream, code } => {
                if let Some(count) = figures.resets.of(received).get_mut(place(code)) {
                    *count = count.saturating_add(1);
                }
                self.streams.reset(stream);
            }
            Frame::Setting { id, value } if received => match id {
                3 => figures.max_concurrent_streams = Some(value),
                4 => figures.initial_window_size = Some(value),
                5 => figures.max_frame_size = Some(value),
                _ => {}
            },
            Frame::Setting { .. } => {}
            Frame::Ping { ack: false, data } if !received => {
                // The first that is not answered is measured, unless its answer never came.
                let is_old = |(_, sent)| now.saturating_sub(sent) > PING_LOST;
                if self.ping.is_none_or(is_old) {
                    self.ping = Some((data, now));
                }
            }
            Frame::Ping { ack: true, data } if received => {
                if let Some((_, sent)) = self.ping.take_if(|(asked, _)| *asked == data) {
                    figures.ping = Some(now.saturating_sub(sent));
                }
            }
            Frame::Ping { .. } => {}
            Frame::GoAway { last_stream, code } => {
                *figures.goaway.of(received) = Some(GoAway { code, last_stream });
            }
        }
    }
}

#[cfg(test)]
mod tests;
