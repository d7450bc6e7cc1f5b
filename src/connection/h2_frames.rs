//! Reads the frame headers of an HTTP/2 connection (RFC 9113) from the bytes that pass, and counts.

use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Frame types.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// END_STREAM of DATA and HEADERS, ACK of SETTINGS and PING.
const END_STREAM_OR_ACK: u8 = 1;
/// A stream identifier without the reserved bit before it.
const STREAM_MASK: u32 = 0x7fff_ffff;

/// Reads the frame headers of one direction.
///
/// It keeps at most nine bytes at a time. Bytes that are not HTTP/2 make it give up for good.
#[derive(Debug)]
pub(super) struct Scanner {
    step: Step,
    /// The first bytes of a frame header or of a part of a payload, if the rest is still to come.
    kept: [u8; 9],
    /// How many bytes of the preface, or of what `kept` is for, have been seen.
    seen: usize,
    /// How many bytes of the payload are still to come.
    missing: usize,
    /// The stream of the frame.
    stream: u32,
    /// Whether there has been a frame.
    has_frame: bool,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Preface,
    Header,
    ResetStream,
    Setting,
    Ping {
        ack: bool,
    },
    GoAway,
    /// A payload, or the end of one, that is not read.
    Skip,
    /// Not HTTP/2.
    Unknown,
}

/// What a [`Scanner`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A HEADERS frame, reported as soon as its frame header is complete.
    Headers { stream: u32, end_stream: bool },
    /// A DATA frame, reported as soon as its frame header is complete.
    Data { stream: u32, end_stream: bool },
    /// A RST_STREAM frame.
    ResetStream { stream: u32, code: u32 },
    /// One setting of a SETTINGS frame.
    Setting { id: u16, value: u32 },
    /// A PING frame.
    Ping { ack: bool, data: u64 },
    /// A GOAWAY frame, without its debug data.
    GoAway { last_stream: u32, code: u32 },
}

impl Scanner {
    /// `preface`: whether the bytes begin with the client's connection preface (RFC 9113, 3.4).
    pub(super) const fn new(preface: bool) -> Self {
        Self {
            step: if preface { Step::Preface } else { Step::Header },
            kept: [0; 9],
            seen: 0,
            missing: 0,
            stream: 0,
            has_frame: false,
        }
    }

    /// Whether it still understands the bytes: false once it has given up.
    pub(super) fn is_reading(&self) -> bool {
        self.step != Step::Unknown
    }

    /// Reads the next bytes of this direction and reports the frames it finds.
    #[inline]
    pub(super) fn read(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Frame)) {
        while !bytes.is_empty() && self.is_reading() {
            if let Some(frame) = self.read_step(&mut bytes) {
                found(frame);
            }
        }
    }

    /// Takes at least one byte, and returns the frame that this completes.
    fn read_step(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        match self.step {
            Step::Preface => self.read_preface(bytes),
            Step::Header => {
                let header = self.take(bytes)?;
                return self.read_header(header);
            }
            Step::ResetStream => {
                let code = u32::from_be_bytes(self.take(bytes)?);
                let stream = self.stream;
                return Some(Frame::ResetStream { stream, code });
            }
            Step::Setting => {
                let [id @ .., a, b, c, d] = self.take::<6>(bytes)?;
                let (id, value) = (u16::from_be_bytes(id), u32::from_be_bytes([a, b, c, d]));
                return Some(Frame::Setting { id, value });
            }
            Step::Ping { ack } => {
                let data = u64::from_be_bytes(self.take(bytes)?);
                return Some(Frame::Ping { ack, data });
            }
            Step::GoAway => {
                let [stream @ .., a, b, c, d] = self.take::<8>(bytes)?;
                // Debug data may follow.
                self.set_step(Step::Skip);
                let last_stream = u32::from_be_bytes(stream) & STREAM_MASK;
                let code = u32::from_be_bytes([a, b, c, d]);
                return Some(Frame::GoAway { last_stream, code });
            }
            Step::Skip => {
                let skipped = self.missing.min(bytes.len());
                *bytes = bytes.get(skipped..).unwrap_or_default();
                self.missing -= skipped;
                self.set_step(Step::Skip);
            }
            Step::Unknown => *bytes = &[],
        }
        None
    }

    fn read_preface(&mut self, bytes: &mut &[u8]) {
        let expected = PREFACE.get(self.seen..).unwrap_or_default();
        let count = expected.len().min(bytes.len());
        let (now, rest) = bytes.split_at_checked(count).unwrap_or_default();
        *bytes = rest;
        self.seen += count;
        if !expected.starts_with(now) {
            self.step = Step::Unknown;
        } else if self.seen == PREFACE.len() {
            self.seen = 0;
            self.step = Step::Header;
        }
    }

    /// Finds out what the payload of a frame is, and reports a frame that needs no payload.
    fn read_header(&mut self, header: [u8; 9]) -> Option<Frame> {
        let [a, b, c, kind, flags, stream @ ..] = header;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes(stream) & STREAM_MASK;
        let flag = flags & END_STREAM_OR_ACK != 0;
        let payload = match kind {
            // It has to come first. Bytes of HTTP/1 or TLS do not look like that.
            _ if !self.has_frame && kind != SETTINGS => Step::Unknown,
            DATA | HEADERS | PUSH_PROMISE | CONTINUATION if stream != 0 => Step::Skip,
            PRIORITY if stream != 0 && length == 5 => Step::Skip,
            RST_STREAM if stream != 0 && length == 4 => Step::ResetStream,
            SETTINGS if stream == 0 && flag && length == 0 => Step::Setting,
            SETTINGS if stream == 0 && !flag && length.is_multiple_of(6) => Step::Setting,
            PING if stream == 0 && length == 8 => Step::Ping { ack: flag },
            GOAWAY if stream == 0 && length >= 8 => Step::GoAway,
            WINDOW_UPDATE if length == 4 => Step::Skip,
            DATA..=CONTINUATION => Step::Unknown,
            // Types of extensions.
            _ => Step::Skip,
        };
        (self.missing, self.stream, self.has_frame) = (length, stream, true);
        self.set_step(payload);
        let end_stream = flag;
        match kind {
            _ if !self.is_reading() => None,
            DATA => Some(Frame::Data { stream, end_stream }),
            HEADERS => Some(Frame::Headers { stream, end_stream }),
            _ => None,
        }
    }

    /// The next `N` bytes, at most nine, once all are there. Keeps them until then.
    fn take<const N: usize>(&mut self, bytes: &mut &[u8]) -> Option<[u8; N]> {
        let taken = match bytes.split_first_chunk() {
            Some((whole, rest)) if self.seen == 0 => {
                *bytes = rest;
                *whole
            }
            _ => self.take_pieces(bytes)?,
        };
        self.missing = self.missing.saturating_sub(N);
        self.set_step(self.step);
        Some(taken)
    }

    fn take_pieces<const N: usize>(&mut self, bytes: &mut &[u8]) -> Option<[u8; N]> {
        let places = self.kept.get_mut(self.seen..N).unwrap_or_default();
        let count = places.len().min(bytes.len());
        for (place, byte) in places.iter_mut().zip(bytes.iter()) {
            *place = *byte;
        }
        *bytes = bytes.get(count..).unwrap_or_default();
        self.seen += count;
        if self.seen < N {
            return None;
        }
        self.seen = 0;
        self.kept.first_chunk().copied()
    }

    /// The next bytes are for this step, unless the payload is complete.
    fn set_step(&mut self, step: Step) {
        let is_complete = self.missing == 0 && step != Step::Unknown;
        self.step = if is_complete { Step::Header } else { step };
    }
}

/// The figures of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// The errors that the peer reported.
    pub(super) received: Errors,
    /// The errors that were reported to the peer.
    pub(super) sent: Errors,
    /// The settings of the peer.
    pub(super) peer_settings: Settings,
    /// How long the peer took to answer the last ping that was measured.
    pub(super) round_trip: Option<Duration>,
    /// The data of the ping that is measured, and when it was sent.
    ping: Option<(u64, Duration)>,
    streams: Streams,
}

/// The errors that were reported in one direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Errors {
    /// The last GOAWAY.
    pub(super) go_away: Option<GoAway>,
    /// How many RST_STREAM frames there were: at 0 to 13 those with this code, at 15 those with a code
    /// that is not in RFC 9113.
    pub(super) resets: [u64; 16],
}

/// A GOAWAY frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GoAway {
    pub(super) code: u32,
    pub(super) last_stream: u32,
}

/// Settings that were sent; the last value of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) header_table_size: Option<u32>,
    pub(super) max_concurrent_streams: Option<u32>,
    pub(super) initial_window_size: Option<u32>,
    pub(super) max_frame_size: Option<u32>,
    pub(super) max_header_list_size: Option<u32>,
}

/// Which way a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Received,
    Sent,
}

/// After this time without an answer another ping is measured.
const PING_EXPIRES: Duration = Duration::from_secs(60);

impl Figures {
    /// Counts a frame. `now` is the time since the connection opened.
    pub(super) fn note(
        &mut self,
        direction: Direction,
        is_client: bool,
        frame: Frame,
        now: Duration,
    ) {
        let is_received = direction == Direction::Received;
        let by_client = is_received != is_client;
        let errors = match direction {
            Direction::Received => &mut self.received,
            Direction::Sent => &mut self.sent,
        };
        match frame {
            Frame::Headers { stream, end_stream } | Frame::Data { stream, end_stream } => {
                if by_client && matches!(frame, Frame::Headers { .. }) {
                    self.streams.open(stream);
                }
                if end_stream {
                    self.streams.end_half(stream, by_client);
                }
            }
            Frame::ResetStream { stream, code } => {
                errors.count_reset(code);
                self.streams.close(stream);
            }
            Frame::Setting { id, value } if is_received => self.peer_settings.set(id, value),
            Frame::Ping { ack: false, data } if !is_received => {
                let expired = |(_, sent)| now.saturating_sub(sent) > PING_EXPIRES;
                if self.ping.is_none_or(expired) {
                    self.ping = Some((data, now));
                }
            }
            Frame::Ping { ack: true, data } if is_received => {
                let ping = self.ping.take_if(|(expected, _)| *expected == data);
                if let Some((_, sent)) = ping {
                    self.round_trip = Some(now.saturating_sub(sent));
                }
            }
            Frame::Setting { .. } | Frame::Ping { .. } => {}
            Frame::GoAway { last_stream, code } => {
                errors.go_away = Some(GoAway { code, last_stream });
            }
            }
        }
    }

    /// How many streams the client has opened.
    pub(super) fn streams_opened(&self) -> u64 {
        self.streams.opened
    }

    /// How many of these are open. `None` once more have been open at once than are tracked.
    pub(super) fn streams_open(&self) -> Option<u64> {
        self.streams.open.map(|open| open as u64)
    }

    /// How many of these are closed. `None` as for [`streams_open`](Self::streams_open).
    pub(super) fn streams_closed(&self) -> Option<u64> {
        Some(self.streams.opened.saturating_sub(self.streams_open()?))
    }
}

impl Errors {
    fn count_reset(&mut self, code: u32) {
        let [counts @ .., unknown] = &mut self.resets;
        match code_name(code).and_then(|_| counts.get_mut(code as usize)) {
            Some(count) => *count += 1,
            None => *unknown += 1,
        }
    }
}

impl Settings {
    fn set(&mut self, id: u16, value: u32) {
        let setting = match id {
            1 => &mut self.header_table_size,
            3 => &mut self.max_concurrent_streams,
            4 => &mut self.initial_window_size,
            5 => &mut self.max_frame_size,
            6 => &mut self.max_header_list_size,
            _ => return,
        };
        *setting = Some(value);
    }
}

/// The streams that a client opened.
#[derive(Clone, Debug)]
struct Streams {
    tracked: [Stream; TRACKED_STREAMS],
    /// How many of `tracked` are in use. `None` once there were too many.
    open: Option<usize>,
    opened: u64,
    /// The last stream that the client opened.
    last: u32,
}

/// How many streams are tracked at once.
const TRACKED_STREAMS: usize = 128;

/// An open stream, and which of its ends have sent END_STREAM.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    id: u32,
    client_ended: bool,
    server_ended: bool,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            tracked: [Stream::default(); TRACKED_STREAMS],
            open: Some(0),
            opened: 0,
            last: 0,
        }
    }
}

impl Streams {
    /// The client sent HEADERS. These are trailers if the stream is not new.
    fn open(&mut self, id: u32) {
        if id.is_multiple_of(2) || id <= self.last {
            return;
        }
        self.last = id;
        self.opened += 1;
        self.open = self.open.and_then(|open| {
            let free = self.tracked.get_mut(open)?;
            *free = Stream {
                id,
                ..Stream::default()
            };
            Some(open + 1)
        });
    }

    /// One end sent END_STREAM.
    fn end_half(&mut self, id: u32, by_client: bool) {
        let mut open = self.open_streams().iter_mut();
        let Some(stream) = open.find(|stream| stream.id == id) else {
            return;
        };
        stream.client_ended |= by_client;
        stream.server_ended |= !by_client;
        if stream.client_ended && stream.server_ended {
            self.close(id);
        }
    }

    fn close(&mut self, id: u32) {
        let open = self.open_streams();
        let Some(&last) = open.last() else {
            return;
        };
        if let Some(place) = open.iter_mut().find(|stream| stream.id == id) {
            *place = last;
            self.open = self.open.map(|open| open - 1);
        }
    }

    fn open_streams(&mut self) -> &mut [Stream] {
        let open = self.open.unwrap_or(0);
        self.tracked.get_mut(..open).unwrap_or_default()
    }
}

/// The name of an error code in RFC 9113.
pub(super) fn code_name(code: u32) -> Option<&'static str> {
    const NAMES: [&str; 14] = [
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
    ];
    NAMES.get(code as usize).copied()
}
