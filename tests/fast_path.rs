//! The shortcuts for the common case change no record, and nothing that a caller or a tracer sees.

#[path = "it/support/scripted.rs"]
mod scripted;

use std::sync::{Arc, Mutex};

use http::Response;
use scripted::{Course, Handler, Scripted, Step, drive, grpc_status, message, quiet, response};
use tower::{BoxError, Layer, service_fn};
use tower_tracer::{
    Level, RequestParts, RpcInfo, Tracer, TracerLayer, testing::set_fast_path, tracer::StreamEvent,
};

/// Keeps finished records without their times, and events if it wants them.
#[derive(Clone)]
struct Keep {
    wants_events: bool,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Tracer for Keep {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        self.seen.lock().unwrap().push(untimed(rpc));
    }

    fn wants_events(&self) -> bool {
        self.wants_events
    }

    fn on_event(&self, (): &mut (), _: &RpcInfo, event: &StreamEvent<'_>) {
        self.seen.lock().unwrap().push(format!("{:?}", event.kind));
    }
}

fn untimed(rpc: &RpcInfo) -> String {
    let stats = rpc.stats();
    let events: Vec<_> = stats.events().iter().map(|e| e.event.name()).collect();
    let texts = (stats.error(), stats.panic(), stats.raw_status());
    let status = (stats.status(), stats.wire_status(), stats.http_status());
    let moved = [stats.request(), stats.response()].map(|traffic| {
        let counted = (traffic.messages(), traffic.compressed_messages());
        let bytes = (traffic.message_bytes(), traffic.body_bytes());
        let ended = (traffic.is_complete(), traffic.truncated());
        (counted, bytes, traffic.last_message_bytes(), ended)
    });
    format!(
        "{:?} {status:?} {texts:?} {events:?} {moved:?}",
        stats.ending()
    )
}

/// Runs an exchange under every kind of layer: all that its caller and its tracer see.
fn see(exchange: impl Fn(&TracerLayer<Keep>) -> Vec<String>) -> Vec<String> {
    let mut all = Vec::new();
    for wants_events in [false, true] {
        for level in [Level::Base, Level::Detailed] {
            for is_client in [false, true] {
                let keep = Keep {
                    wants_events,
                    seen: Arc::default(),
                };
                let layer = TracerLayer::new(keep.clone()).level(level);
                let layer = match is_client {
                    true => layer.client(),
                    false => layer.server(),
                };
                all.extend(exchange(&layer));
                all.append(&mut keep.seen.lock().unwrap());
            }
        }
    }
    all
}

/// Compares an exchange with the shortcuts and without them.
fn compare(what: &str, exchange: impl Fn(&TracerLayer<Keep>) -> Vec<String>) {
    set_fast_path(true);
    let short = see(&exchange);
    set_fast_path(false);
    let long = see(&exchange);
    assert_eq!(short, long, "{what}");
}

/// Half of the scripts are calls as most are: that is where the shortcuts are taken.
fn script(random: &mut impl FnMut(u64) -> u64) -> Response<Scripted> {
    let mut steps = Vec::new();
    let is_odd = random(2) == 0;
    for _ in 0..random(4) {
        let whole = message(u8::try_from(random(20)).unwrap());
        steps.push(match random(if is_odd { 8 } else { 1 }) {
            1 => Step::Data(whole.slice(..usize::try_from(random(whole.len() as u64)).unwrap())),
            2 => Step::Data([&whole[..], &whole].concat().into()),
            3 => Step::Data(Vec::from([1, 0, 0, 0, 2, 7, 7]).into()),
            4 => Step::Data(Vec::new().into()),
            5 => Step::Pending,
            _ => Step::Data(whole),
        });
    }
    let status = ["0", "0", "0", "5", "banana", "1"][usize::try_from(random(6)).unwrap()];
    match random(if is_odd { 8 } else { 1 }) {
        1 => {}
        2 => steps.push(Step::Error(Some(tonic::Code::DataLoss))),
        3 => steps.push(Step::Panic),
        4 => steps.push(Step::Trailers(http::HeaderMap::new())),
        _ => steps.push(Step::Trailers(grpc_status(status))),
    }
    let mut response = response(steps);
    if is_odd {
        *response.status_mut() = [200, 200, 503][usize::try_from(random(3)).unwrap()]
            .try_into()
            .unwrap();
        if random(4) == 0 {
            response.headers_mut().extend(grpc_status("0"));
        }
        if random(4) == 0 {
            response.headers_mut().remove("content-type");
        }
    }
    response
}

/// One test, since the switch is the process's.
#[test]
fn records_are_the_same_without_the_shortcuts() {
    quiet();
    for course in Course::ALL {
        compare(&format!("{course:?}"), |layer| {
            drive(&mut layer.layer(Handler::of(course)), course)
        });
    }
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % limit
    };
    for number in 0..5_000 {
        let answer = script(&mut random);
        let (head, body) = answer.into_parts();
        let course = match random(8) {
            0 => Course::DropBody,
            _ => Course::OK,
        };
        compare(&format!("{number}: {head:?} {body:?}"), |layer| {
            let (head, body) = (head.clone(), body.clone());
            let service = service_fn(move |_| {
                let response = Response::from_parts(head.clone(), body.clone());
                std::future::ready(Ok::<_, BoxError>(response))
            });
            drive(&mut layer.layer(service), course)
        });
    }
}
