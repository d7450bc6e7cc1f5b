//! The record agrees with what tonic reports to its caller, over thousands of hostile peers.
//!
//! `DIFFERENTIAL_CALLS` says how many calls (5,000 unless set), `DIFFERENTIAL_SEED` with which seed. A
//! difference is printed with its script. Where the two may differ, [`is_named`] says why, in the words of
//! the docs.

use std::{collections::BTreeMap, env, time::Duration};

use crate::support::raw_peer::{End, Got, Kind, RawServer, Step, ask, encoded, framed, map};
use crate::support::tcp::echo::{EchoClient, say};
use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use tonic::transport::Endpoint;
use tower::Layer as _;
use tower_tracer::{Code, RpcInfo, TracerLayer, testing::RecordingTracer};

/// A small generator of numbers (xorshift64*), so that a case is its number.
struct Numbers(u64);

impl Numbers {
    fn of(seed: u64, case: u64) -> Self {
        let mut numbers = Self((seed ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
        for _ in 0..4 {
            numbers.next();
        }
        numbers
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

/// What one peer does, and how it is called.
fn script(n: &mut Numbers) -> (Kind, Vec<Step>) {
    let kind = n.pick(&[Kind::Unary, Kind::ServerStreaming]);
    let mut steps = Vec::new();
    if n.one_in(3) {
        steps.push(Step::Read);
    }
    // An end before there are headers.
    if n.one_in(8) {
        steps.push(cut(n));
        return (kind, steps);
    }
    let http = match n.one_in(4) {
        true => n.pick(&[
            201, 204, 301, 304, 400, 401, 403, 404, 429, 500, 502, 503, 504, 505,
        ]),
        false => 200,
    };
    let mut headers = HeaderMap::new();
    let content_type = n.pick(&[
        "application/grpc",
        "application/grpc",
        "application/grpc",
        "application/grpc+proto",
        "Application/GRPC",
        "application/grpc; charset=utf-8",
        "text/html",
        "",
    ]);
    if !content_type.is_empty() {
        headers.extend(map(&[("content-type", content_type)]));
    }
    if n.one_in(5) {
        headers.extend(status(n));
    }
    if n.one_in(10) {
        let encoding = n.pick(&["identity", "gzip", "Identity", "zstd", "br"]);
        headers.extend(map(&[("grpc-encoding", encoding)]));
    }
    if n.one_in(6) {
        steps.push(Step::HeadersOnly(http, headers));
        return (kind, steps);
    }
    steps.push(Step::Headers(http, headers));
    for _ in 0..n.below(4) {
        steps.push(Step::Data(frame(n)));
    }
    steps.push(match n.below(10) {
        0 => cut(n),
        1 => Step::End,
        2 => Step::Trailers(map(&[("odd", "trailer")])),
        _ => Step::Trailers(status(n)),
    });
    (kind, steps)
}

/// `grpc-status` and the headers that may come with it.
fn status(n: &mut Numbers) -> HeaderMap {
    let code = match n.below(8) {
        0 => n
            .pick(&["banana", "00", "17", "", "-1", "05", "1 ", "99999999999"])
            .to_owned(),
        1..4 => "0".to_owned(),
        _ => n.below(17).to_string(),
    };
    let mut headers = map(&[("grpc-status", &code)]);
    if n.one_in(2) {
        let text = n.pick(&["plain", "%E2%98%BA", "%", "%FF", "", "a b"]);
        headers.extend(map(&[("grpc-message", text)]));
    }
    if n.one_in(8) {
        headers.extend(map(&[("grpc-status-details-bin", n.pick(&["AAAA", ""]))]));
    }
    if n.one_in(16) {
        headers.append("grpc-status", n.pick(&["0", "5"]).parse().unwrap());
    }
    headers
}

/// A DATA frame, mostly of complete messages.
fn frame(n: &mut Numbers) -> Bytes {
    let whole = framed(0, &encoded("hello"));
    match n.below(16) {
        0 => Bytes::new(),
        1 => whole.slice(..usize::try_from(n.below(whole.len() as u64)).unwrap()),
        2 => framed(1, &encoded("said to be compressed")),
        3 => framed(n.pick(&[2, 0x80, 0xff]), &encoded("odd flag")),
        4 => framed(0, b"\xff\xff\xff no protobuf"),
        5 => Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]),
        6 => [&whole[..], &whole].concat().into(),
        _ => whole,
    }
}

/// What ends a stream, or all of them.
fn cut(n: &mut Numbers) -> Step {
    match n.below(8) {
        0 => Step::HangUp,
        1 => Step::GoAway(n.pick(&[Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM])),
        _ => Step::Reset((n.below(16) as u32).into()),
    }
}

/// One case: its script, its record, and what the caller got.
struct Case {
    kind: Kind,
    script: Vec<Step>,
    rpc: RpcInfo,
    got: Got,
}

/// Why the record may differ from what the caller got: if tonic, above the layer, does not accept
/// what passed through it. `TracerLayer`'s docs and README name these.
fn is_named(case: &Case) -> Option<&'static str> {
    let ok_in_headers = |step: &Step| match step {
        Step::Headers(_, headers) => headers.get("grpc-status").is_some_and(|code| code == "0"),
        _ => false,
    };
    let text = match &case.got.end {
        // Row 50: tonic takes OK in the headers for the end, whatever the trailers say.
        End::Ok(_) => {
            let odd = case.script.iter().any(ok_in_headers);
            return odd.then_some("OK in the headers, another status in the trailers");
        }
        End::Failed(_, text, _) => text,
        End::Panicked => return Some("tonic panics"),
    };
    let refused = [
        (
            "Content is compressed with",
            "an encoding that tonic does not support",
        ),
        (
            "Error deserializing status message",
            "a grpc-message that is not UTF-8",
        ),
        (
            "failed to decode Protobuf message",
            "a message that cannot be decoded",
        ),
        (
            "protocol error: received message with",
            "an odd flag of a message",
        ),
        (
            "Error, decoded message length too large",
            "a message above the limit",
        ),
        (
            "Unexpected EOF decoding stream",
            "a message that is cut off",
        ),
        ("Missing response message", "no message in a unary response"),
    ];
    let found = refused.iter().find(|(says, _)| text.starts_with(says));
    found.map(|(_, why)| *why)
}

async fn run(seed: u64, cases: std::ops::Range<u64>) -> Vec<(u64, Case)> {
    let server = RawServer::start_with(move |head| {
        let case = head.headers["case"].to_str().unwrap().parse().unwrap();
        script(&mut Numbers::of(seed, case)).1.into()
    })
    .await;
    let endpoint = Endpoint::from_shared(server.uri.clone()).unwrap();
    let channel = endpoint.connect_lazy();
    let mut done = Vec::new();
    for case in cases {
        let recorder = RecordingTracer::new();
        let layer = TracerLayer::new(recorder.clone());
        let client = EchoClient::new(layer.layer(channel.clone()));
        let (kind, script) = script(&mut Numbers::of(seed, case));
        let mut request = tonic::Request::new(say("hello"));
        request
            .metadata_mut()
            .insert("case", case.to_string().parse().unwrap());
        let call = tokio::spawn(ask(client, kind, request));
        let Ok(got) = tokio::time::timeout(Duration::from_secs(20), call).await else {
            panic!("case {case} of seed {seed} hangs: {script:?}");
        };
        let got = got.unwrap_or_else(|_| Got {
            messages: Vec::new(),
            end: End::Panicked,
        });
        assert_eq!(recorder.started().len(), 1, "case {case}");
        let rpc = recorder.only_finished();
        done.push((
            case,
            Case {
                kind,
                script,
                rpc,
                got,
            },
        ));
    }
    done
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn the_record_says_what_the_caller_got() {
    let calls = setting("DIFFERENTIAL_CALLS", 5_000);
    let seed = setting("DIFFERENTIAL_SEED", 1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    // A server each, as it keeps the requests that it has seen.
    let each = 250;
    let (mut different, mut named) = (0, BTreeMap::<&str, u64>::new());
    let mut codes = BTreeMap::<&str, u64>::new();
    let mut from = 0;
    while from < calls {
        let runs: Vec<_> = (0..16)
            .map(|lane| from + lane * each)
            .filter(|first| *first < calls)
            .map(|first| runtime.spawn(run(seed, first..calls.min(first + each))))
            .collect();
        for cases in runs {
            for (number, case) in runtime.block_on(cases).unwrap() {
                let recorded = case.rpc.stats().code();
                let code = case.got.code().map(Code::from);
                *codes
                    .entry(code.map_or("panic", |code| code.as_str()))
                    .or_default() += 1;
                if recorded == code {
                    // Where the response says that it is gRPC.
                    let counted = case.rpc.stats().response().messages();
                    if let (Some(counted), Some(Code::Ok), Kind::ServerStreaming) =
                        (counted, code, case.kind)
                    {
                        assert_eq!(counted, case.got.messages.len() as u64, "case {number}");
                    }
                    continue;
                }
                match is_named(&case) {
                    Some(why) => *named.entry(why).or_default() += 1,
                    None => {
                        different += 1;
                        if different <= 40 {
                            let Case {
                                kind,
                                script,
                                rpc,
                                got,
                            } = &case;
                            println!("case {number}, {kind:?}: {script:?}\n  {got:?}\n  {rpc:?}\n");
                        }
                    }
                }
            }
        }
        from += 16 * each;
        if calls > 20_000 && from % 20_000 == 0 {
            println!("{from} of {calls} calls");
        }
    }
    println!("{calls} calls, by what the caller got: {codes:?}");
    println!("named differences: {named:?}");
    assert_eq!(different, 0, "differences that the docs do not name");
}
