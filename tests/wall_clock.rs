//! The wall clock is set while RPCs run.
//!
//! `tests/foreign/clock.sh` runs this under libfaketime, which reads the wall clock's offset from a
//! file and leaves the monotonic clock alone.

#[path = "it/support/tcp.rs"]
mod tcp;
#[path = "it/support/telemetry.rs"]
mod telemetry;

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use tcp::{connect, echo::say, serve, soon};
use telemetry::Telemetry;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tower_tracer::{Code, Ending, Event, RpcInfo, Status, TracerLayer, testing::RecordingTracer};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Sets the wall clock, to an offset from the real one.
fn set_clock(offset: &str) {
    let file = env::var_os("FAKETIME_TIMESTAMP_FILE").expect("run by tests/foreign/clock.sh");
    let file = PathBuf::from(file);
    let new = file.with_extension("new");
    fs::write(&new, offset).unwrap();
    fs::rename(new, file).unwrap();
}

/// A time by the wall clock as it is now is so late as one by the monotonic clock.
#[track_caller]
fn is_at(wall: SystemTime, begun: Instant) {
    let ago = SystemTime::now().duration_since(wall).unwrap();
    assert!(ago <= begun.elapsed(), "{ago:?}");
}

// Ending 29.
#[tokio::test]
#[ignore = "needs libfaketime: run by tests/foreign/clock.sh"]
async fn a_wall_clock_that_is_set_during_an_rpc_moves_no_duration() {
    for (offset, hours) in [("-1d", -24), ("+1d", 24)] {
        for dropped in [false, true] {
            set_and_check(offset, hours, dropped).await;
        }
    }
}

async fn set_and_check(offset: &str, hours: i64, dropped: bool) {
    set_clock("+0");
    let telemetry = Telemetry::new();
    let (client_side, server_side) = (RecordingTracer::new(), RecordingTracer::new());
    let uri = serve(TracerLayer::new(server_side.clone())).await;
    let layer = TracerLayer::new((client_side.clone(), telemetry.tracer()));
    let mut client = connect(&uri, layer).await;

    let begun = Instant::now();
    let (requests, stream) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(stream));
    request.set_timeout(HOUR);
    requests.send(say("before")).await.unwrap();
    let response = soon(client.bidirectional_streaming_echo(request)).await;
    let mut answers = response.unwrap().into_inner();
    soon(answers.message()).await.unwrap().unwrap();
    let asked_before = client_side.started().remove(0);
    is_at(asked_before.stats().start_time(), begun);

    let before = SystemTime::now();
    set_clock(offset);
    let moved = match SystemTime::now().duration_since(before) {
        Ok(forward) => forward.as_secs().cast_signed(),
        Err(back) => -back.duration().as_secs().cast_signed(),
    };
    assert_eq!((moved + 1800).div_euclid(3600), hours, "the clock is set");

    requests.send(say("after")).await.unwrap();
    soon(answers.message()).await.unwrap().unwrap();
    drop(requests);
    if !dropped {
        assert_eq!(soon(answers.message()).await.unwrap(), None);
    }
    drop(answers);
    let server = soon(server_side.wait_finished(1)).await.remove(0);
    let client = client_side.only_finished();
    let took = begun.elapsed();

    for rpc in [&client, &server] {
        check(rpc, took);
    }
    let (ending, code) = match dropped {
        false => (Ending::Trailers, Code::Ok),
        // The time of an hour is not up, whatever the wall clock says.
        true => (Ending::Cancelled, Code::Cancelled),
    };
    assert_eq!(client.stats().ending(), Some(ending));
    assert_eq!(client.stats().status(), Some(Status::Grpc(code)));
    // The start is first read after the clock was set, so it is a time of the new clock.
    is_at(server.stats().start_time(), begun);
    // And before it, by the old one, for good.
    let span = telemetry.spans().remove(0);
    for start in [client.stats().start_time(), span.start_time] {
        assert!(start <= before && start >= before - took, "{start:?}");
    }
    assert_eq!(Some(telemetry::duration(&span)), client.stats().duration());
    let point = telemetry.histogram("rpc.client.call.duration").remove(0);
    assert!(point.sum > 0.0 && point.sum <= took.as_secs_f64());
}

/// All times of an RPC lie in the time that it took, one after the other.
#[track_caller]
fn check(rpc: &RpcInfo, took: Duration) {
    let stats = rpc.stats();
    let cost = stats.duration().unwrap();
    assert!(
        cost > Duration::ZERO && cost <= took,
        "{cost:?} of {took:?}"
    );
    assert_eq!(rpc.timeout(), Some(HOUR));
    assert_ne!(stats.ending(), Some(Ending::Deadline));
    let events = stats.events();
    assert!(events.is_sorted_by_key(|event| event.at), "{events:?}");
    let wall = |event| stats.time(event).unwrap();
    let between = wall(Event::RPC_FINISH).duration_since(wall(Event::RPC_START));
    assert_eq!(between.unwrap(), cost);
}
