use std::time::Duration;

use super::{
    Frames, GoAway,
    scanner::{Frame, Scanner},
};
use crate::Role;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0])
}

/// A client's side: two streams, one of which it resets, a PING, and one frame of each other kind.
fn client() -> Vec<u8> {
    [
        PREFACE.to_vec(),
        settings(),
        frame(4, 1, 0, &[]),
        frame(1, 4, 1, &[0; 40]),
        frame(0, 1, 1, &[7; 300]),
        frame(1, 5, 3, &[0; 20]),
        frame(8, 0, 0, &[0, 0, 1, 0]),
        frame(2, 0, 3, &[0; 5]),
        frame(0xbe, 9, 77, &[1; 33]),
        frame(3, 0, 3, &[0, 0, 0, 8]),
        frame(6, 0, 0, &[1, 2, 3, 4, 5, 6, 7, 8]),
        frame(7, 0, 0, &[0, 0, 0, 9, 0, 0, 0, 11, b'b', b'y', b'e']),
    ]
    .concat()
}

fn read(preface: bool, parts: &[&[u8]]) -> (Vec<Frame>, bool) {
    let mut scanner = Scanner::new(preface);
    let mut frames = Vec::new();
    for part in parts {
        scanner.read(part, &mut |frame| frames.push(frame));
    }
    (frames, scanner.is_reading())
}

#[test]
fn frames_are_the_same_however_they_are_split() {
    let bytes = client();
    let (whole, reading) = read(true, &[&bytes]);
    assert!(reading);
    assert_eq!(
        whole,
        [
            Frame::Setting { id: 3, value: 100 },
            Frame::Setting {
                id: 4,
                value: 65536
            },
            Frame::Headers {
                stream: 1,
                end: false
            },
            Frame::Data {
                stream: 1,
                end: true
            },
            Frame::Headers {
                stream: 3,
                end: true
            },
            Frame::Reset { stream: 3, code: 8 },
            Frame::Ping {
                ack: false,
                data: 0x0102_0304_0506_0708
            },
            Frame::GoAway {
                last_stream: 9,
                code: 11
            },
        ]
    );
    let single: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(read(true, &single), (whole.clone(), true));
    for at in 0..=bytes.len() {
        let (one, other) = bytes.split_at(at);
        assert_eq!(
            read(true, &[one, other]),
            (whole.clone(), true),
            "split at {at}"
        );
    }
}

#[test]
fn what_is_not_http_2_is_given_up() {
    let tls = [
        22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    for first in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        &tls,
        b"PRI * HTTP/2.1",
        b"\0",
    ] {
        assert!(!read(true, &[first]).1, "{first:?}");
    }
    // A server that speaks HTTP/1.1, or TLS.
    assert!(!read(false, &[b"HTTP/1.1 400 Bad Request\r\n\r\n"]).1);
    assert!(!read(false, &[&tls]).1);
    for (why, bad) in [
        ("a first frame that is no SETTINGS", frame(6, 0, 0, &[0; 8])),
        ("a first frame that acknowledges", frame(4, 1, 0, &[])),
        ("SETTINGS of seven bytes", frame(4, 0, 0, &[0; 7])),
        ("SETTINGS on a stream", frame(4, 0, 1, &[0; 6])),
    ] {
        assert!(!read(false, &[&bad]).1, "{why}");
    }
    for (why, bad) in [
        ("DATA on no stream", frame(0, 0, 0, &[1])),
        ("HEADERS on no stream", frame(1, 0, 0, &[1])),
        ("PING of seven bytes", frame(6, 0, 0, &[0; 7])),
        ("PING on a stream", frame(6, 0, 1, &[0; 8])),
        ("RST_STREAM of five bytes", frame(3, 0, 1, &[0; 5])),
        ("GOAWAY of seven bytes", frame(7, 0, 0, &[0; 7])),
        ("WINDOW_UPDATE of three bytes", frame(8, 0, 0, &[0; 3])),
        (
            "SETTINGS that acknowledge with a payload",
            frame(4, 1, 0, &[0; 6]),
        ),
    ] {
        assert!(!read(false, &[&settings(), &bad]).1, "{why}");
    }
}

#[test]
fn longest_frame_is_skipped() {
    let long = frame(0, 0, 1, &vec![0; (1 << 24) - 1]);
    let bytes = [settings(), long, frame(6, 1, 0, &[9; 8])].concat();
    let parts: Vec<_> = bytes.chunks(16_384).collect();
    let (frames, reading) = read(false, &parts);
    assert!(reading);
    let last = Frame::Ping {
        ack: true,
        data: 0x0909_0909_0909_0909,
    };
    assert_eq!(frames.last(), Some(&last));
    assert_eq!(frames.len(), 4);
}

#[test]
fn random_bytes_never_panic() {
    let mut random = 1_u64;
    let mut next = move || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 56) as u8
    };
    for round in 0..100_000_u32 {
        let mut frames = Frames::new(Role::Server);
        if round % 2 == 0 {
            frames.received(PREFACE, None);
            frames.received(&settings(), None);
            frames.sent(&settings(), None);
        }
        let length = next() % 60;
        let bytes: Vec<u8> = (0..length).map(|_| next() >> (next() % 8)).collect();
        frames.received(&bytes, None);
        frames.sent(&bytes, None);
        let _ = frames.figures();
    }
}

#[test]
fn figures_are_those_of_both_directions() {
    let at = |millis| Some(Duration::from_millis(millis));
    let mut frames = Frames::new(Role::Client);
    assert_eq!(frames.figures(), None, "nothing has passed");
    frames.sent(&client(), at(10));
    let server = [
        frame(4, 0, 0, &[0, 3, 0, 0, 0, 7, 0, 5, 0, 0, 64, 0]),
        frame(1, 4, 1, &[0; 10]),
        frame(6, 1, 0, &[8; 8]),
    ];
    frames.received(&server.concat(), at(20));
    let figures = frames.figures().unwrap();
    assert_eq!(figures.streams_opened(), 2);
    assert_eq!(
        figures.streams_open(),
        Some(1),
        "one was reset, and one is half closed"
    );
    assert_eq!(figures.ping(), None, "another PING was acknowledged");
    assert_eq!(figures.max_concurrent_streams(), Some(7), "the peer's");
    assert_eq!(figures.max_frame_size(), Some(16384));
    assert_eq!(figures.initial_window_size(), None);
    assert_eq!(figures.resets_sent().collect::<Vec<_>>(), [("CANCEL", 1)]);
    assert_eq!(figures.resets_received().count(), 0);
    let bye = GoAway {
        code: 11,
        last_stream: 9,
    };
    assert_eq!(
        (figures.goaway_sent(), figures.goaway_received()),
        (Some(bye), None)
    );
    assert_eq!(bye.code_name(), "ENHANCE_YOUR_CALM");
    // Trailers end the stream and open none.
    frames.received(&frame(1, 5, 1, &[0; 4]), at(30));
    frames.received(&frame(6, 1, 0, &[1, 2, 3, 4, 5, 6, 7, 8]), at(35));
    frames.received(&frame(3, 0, 5, &[0, 0, 1, 0]), at(36));
    let figures = frames.figures().unwrap();
    assert_eq!(
        (figures.streams_opened(), figures.streams_open()),
        (2, Some(0))
    );
    assert_eq!(figures.ping(), at(25));
    assert_eq!(
        figures.resets_received().collect::<Vec<_>>(),
        [("UNKNOWN", 1)]
    );
    frames.received(b"\0\0\0\x06\0\0\0\0\0", at(40));
    assert_eq!(
        frames.figures(),
        None,
        "a PING without a payload is not HTTP/2"
    );
}

#[test]
fn more_open_streams_than_are_tracked_are_unknown() {
    let mut frames = Frames::new(Role::Server);
    frames.received(PREFACE, None);
    frames.received(&settings(), None);
    for stream in 0..144 {
        frames.received(&frame(1, 4, 2 * stream + 1, &[0; 3]), None);
    }
    assert_eq!(frames.figures().unwrap().streams_open(), Some(144));
    frames.received(&frame(1, 4, 289, &[0; 3]), None);
    let figures = frames.figures().unwrap();
    assert_eq!(
        (figures.streams_open(), figures.streams_opened()),
        (None, 145)
    );
}

#[test]
fn round_trip_is_that_of_the_first_ping_unless_its_answer_is_lost() {
    let at = |seconds| Some(Duration::from_secs(seconds));
    let mut frames = Frames::new(Role::Client);
    frames.sent(&[PREFACE, &settings()].concat(), at(0));
    frames.received(&settings(), at(0));
    let ping = |ack, data| frame(6, ack, 0, &[data; 8]);
    frames.sent(&ping(0, 7), at(10));
    frames.sent(&ping(0, 7), at(14));
    frames.received(&ping(1, 7), at(15));
    assert_eq!(frames.figures().unwrap().ping(), at(5));
    frames.received(&ping(1, 7), at(16));
    assert_eq!(
        frames.figures().unwrap().ping(),
        at(5),
        "one is measured at a time"
    );
    frames.sent(&ping(0, 1), at(20));
    frames.sent(&ping(0, 2), at(81));
    frames.received(&ping(1, 2), at(84));
    assert_eq!(
        frames.figures().unwrap().ping(),
        at(3),
        "the first was lost"
    );
}

#[test]
fn only_a_client_s_own_streams_are_opened() {
    let mut frames = Frames::new(Role::Server);
    frames.received(&[PREFACE, &settings()].concat(), None);
    for stream in [2, 1, 3, 4, 5] {
        frames.received(&frame(1, 4, stream, &[0; 3]), None);
    }
    let figures = frames.figures().unwrap();
    assert_eq!(
        (figures.streams_opened(), figures.streams_open()),
        (3, Some(3))
    );
}
