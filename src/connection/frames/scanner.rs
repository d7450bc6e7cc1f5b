//! Reads the headers of HTTP/2 frames as they pass, and skips what is in between.

/// The client's connection preface (RFC 9113 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many bytes a frame's header has (RFC 9113 4.1).
const HEADER: usize = 9;

/// The most of a payload that is looked at.
const LOOK: usize = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;

/// A frame that says something about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Headers {
        stream: u32,
        end: bool,
    },
    Data {
        stream: u32,
        end: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    /// One of a SETTINGS frame.
    Setting {
        id: u16,
        value: u32,
    },
    Ping {
        ack: bool,
        data: u64,
    },
    GoAway {
        last_stream: u32,
        code: u32,
    },
}

/// Reads one direction. It gives up at the first byte that is not HTTP/2.
pub(super) struct Scanner {
    step: Step,
    /// The bytes of a header, or of the part of a payload that is looked at, so far.
    kept: [u8; HEADER],
    count: usize,
}

#[derive(Clone, Copy)]
enum Step {
    /// How much of the preface has passed.
    Preface(usize),
    /// The next bytes are a frame's header: the first frame's, which is SETTINGS, or a later one's.
    Header {
        first: bool,
    },
    /// The next bytes of a payload are looked at, `left` of it in all.
    Look {
        head: Head,
        left: usize,
    },
    Skip(usize),
    GivenUp,
}

/// A frame's header.
#[derive(Clone, Copy)]
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Scanner {
    pub(super) const fn new(preface: bool) -> Self {
        Self {
            step: match preface {
                true => Step::Preface(0),
                false => Step::Header { first: true },
            },
            kept: [0; HEADER],
            count: 0,
        }
    }

    /// Whether it understands what passes.
    pub(super) fn is_reading(&self) -> bool {
        !matches!(self.step, Step::GivenUp)
    }

    /// Reads the next bytes.
    pub(super) fn read(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Frame)) {
        while !bytes.is_empty() {
            match self.step {
                Step::GivenUp => return,
                Step::Preface(passed) => {
                    let expected = PREFACE.get(passed..).unwrap_or_default();
                    let length = expected.len().min(bytes.len());
                    let (now, rest) = bytes.split_at(length);
                    bytes = rest;
                    self.step = match expected.starts_with(now) {
                        false => Step::GivenUp,
                        true if length == expected.len() => Step::Header { first: true },
                        true => Step::Preface(passed + length),
                    };
                }
                Step::Skip(left) => {
                    let length = left.min(bytes.len());
                    (_, bytes) = bytes.split_at(length);
                    self.step = skip(left - length);
                }
                Step::Header { first } => {
                    if let Some(header) = self.keep(HEADER, &mut bytes) {
                        self.step = step_of(header, first, found);
                    }
                }
                Step::Look { head, left } => {
                    let wanted = head.look();
                    if let Some(looked) = self.keep(wanted, &mut bytes) {
                        head.report(looked, found);
                        let left = left - wanted;
                        // A SETTINGS frame is a list.
                        self.step = match head.kind == SETTINGS && left > 0 {
                            true => Step::Look { head, left },
                            false => skip(left),
                        };
                    }
                }
            }
        }
    }

    /// Keeps bytes until there are as many as wanted.
    #[inline]
    fn keep(&mut self, wanted: usize, bytes: &mut &[u8]) -> Option<[u8; HEADER]> {
        // Nearly always they are there at once. What follows them is not looked at.
        if self.count == 0
            && let Some(now) = bytes.first_chunk()
        {
            *bytes = bytes.get(wanted..)?;
            return Some(*now);
        }
        let room = self.kept.get_mut(self.count..wanted)?;
        let length = room.len().min(bytes.len());
        let (now, rest) = bytes.split_at(length);
        room.iter_mut()
            .zip(now)
            .for_each(|(kept, byte)| *kept = *byte);
        *bytes = rest;
        self.count += length;
        if self.count < wanted {
            return None;
        }
        self.count = 0;
        Some(self.kept)
    }
}

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

fn skip(left: usize) -> Step {
    match left {
        0 => Step::Header { first: false },
        left => Step::Skip(left),
    }
}

/// What follows a header.
fn step_of(header: [u8; HEADER], first: bool, found: &mut impl FnMut(Frame)) -> Step {
    let [a, b, c, kind, flags, d, e, f, g] = header;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let stream = u32::from_be_bytes([d & 0x7f, e, f, g]);
    let head = Head {
        kind,
        flags,
        stream,
    };
    if !head.may_have(length) || first && (kind != SETTINGS || flags & ACK != 0) {
        return Step::GivenUp;
    }
    let end = flags & END_STREAM != 0;
    match kind {
        DATA => found(Frame::Data { stream, end }),
        HEADERS => found(Frame::Headers { stream, end }),
        _ => {}
    }
    match head.look() {
        0 => skip(length),
        _ if length == 0 => skip(0),
        _ => Step::Look { head, left: length },
    }
}

impl Head {
    /// Whether a frame of its kind may be on its stream, and as long (RFC 9113 6).
    fn may_have(self, length: usize) -> bool {
        let on_stream = self.stream != 0;
        match self.kind {
            DATA | HEADERS | PUSH_PROMISE | CONTINUATION => on_stream,
            PRIORITY => on_stream && length == 5,
            RST_STREAM => on_stream && length == 4,
            SETTINGS if self.flags & ACK != 0 => !on_stream && length == 0,
            SETTINGS => !on_stream && length.is_multiple_of(6),
            PING => !on_stream && length == 8,
            GOAWAY => !on_stream && length >= 8,
            WINDOW_UPDATE => length == 4,
            _ => true,
        }
    }

    /// How many bytes of the payload are looked at, at a time.
    fn look(self) -> usize {
        match self.kind {
            RST_STREAM => 4,
            SETTINGS => 6,
            PING | GOAWAY => LOOK,
            _ => 0,
        }
    }

    fn report(self, looked: [u8; HEADER], found: &mut impl FnMut(Frame)) {
        let [a, b, c, d, e, f, g, h, _] = looked;
        let first = u32::from_be_bytes([a, b, c, d]);
        match self.kind {
            RST_STREAM => found(Frame::Reset {
                stream: self.stream,
                code: first,
            }),
            SETTINGS => found(Frame::Setting {
                id: u16::from_be_bytes([a, b]),
                value: u32::from_be_bytes([c, d, e, f]),
            }),
            PING => found(Frame::Ping {
                ack: self.flags & ACK != 0,
                data: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            }),
            GOAWAY => found(Frame::GoAway {
                last_stream: first & 0x7fff_ffff,
                code: u32::from_be_bytes([e, f, g, h]),
            }),
            _ => {}
        }
    }
}
