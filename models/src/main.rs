//! Models of what threads share without a lock: `cargo run --release` tries each order of steps, and each
//! value that a load may see. The files of the crate are compiled with loom's atomics.

#![allow(dead_code, reason = "a model needs only parts of a file")]

#[path = "../../src/otel/attempts.rs"]
mod attempts;
#[path = "../../src/connection/counters.rs"]
mod counters;
mod rpc;

mod sync {
    pub(crate) use loom::sync::atomic;
}

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use loom::{
    sync::{
        Arc,
        atomic::{
            AtomicU8, AtomicU32,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread,
};

use crate::{
    attempts::Attempts,
    counters::Counters,
    rpc::{
        offset::AtomicOffset,
        sample::{LazySampleKey, SampleKey},
        snapshot,
        traffic::TrafficCell,
    },
};

fn main() {
    model("the first time stays", first_time);
    model("figures only grow, and none is lost", figures);
    model(
        "who sees the ending sees status, duration and figures",
        ending,
    );
    model("all RPCs of a tree get one sample key", sample_key);
    model(
        "who sees a closed connection sees why, and all that passed",
        close,
    );
    model(
        "an attempt is a hedge, or a retry after the right delay",
        attempt,
    );
}

fn model(name: &str, steps: fn()) {
    let orders = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&orders);
    println!("{name}");
    loom::model(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        steps();
    });
    println!("  holds in {} orders", orders.load(Ordering::Relaxed));
}

const fn nanos(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

fn first_time() {
    let time = Arc::new(AtomicOffset::default());
    let other = Arc::clone(&time);
    let writer = thread::spawn(move || other.set(10));
    let other = Arc::clone(&time);
    let reader = thread::spawn(move || other.get());
    let first = time.set(20);
    assert_ne!(writer.join().unwrap(), first);
    let winner = nanos(if first { 20 } else { 10 });
    assert_eq!(time.get(), Some(winner));
    let seen = reader.join().unwrap();
    assert!(seen.is_none() || seen == Some(winner));
}

fn figures() {
    let cell = Arc::new(TrafficCell::default());
    let other = Arc::clone(&cell);
    let writer = thread::spawn(move || {
        other.observe(true);
        other.bytes(8);
        other.message(3, true);
        other.bytes(7);
        other.message(2, false);
    });
    let [earlier, later] = [(); 2].map(|()| snapshot(&cell));
    assert!(earlier.body_bytes() <= later.body_bytes());
    assert!(earlier.messages() <= later.messages());
    assert!(earlier.message_bytes() <= later.message_bytes());
    writer.join().unwrap();
    let all = snapshot(&cell);
    assert_eq!((all.body_bytes(), all.messages()), (Some(15), Some(2)));
    assert_eq!(
        (all.message_bytes(), all.last_message_bytes()),
        (Some(5), Some(2))
    );
}

/// `Stats::end_with` and its readers. `Stats` needs the rest of the crate, so this repeats its steps.
#[derive(Default)]
struct End {
    status: AtomicU32,
    wire_status: AtomicU32,
    finish: AtomicOffset,
    ending: AtomicU8,
    response: TrafficCell,
}

fn ending() {
    let end = Arc::new(End::default());
    let other = Arc::clone(&end);
    let writer = thread::spawn(move || {
        other.response.observe(false);
        other.response.bytes(8);
        other.status.store(1, Relaxed);
        other.wire_status.store(1, Relaxed);
        other.finish.move_to(10);
        other.ending.store(1, Release);
    });
    let over = end.ending.load(Acquire) == 1;
    let duration = end.finish.get();
    if over {
        assert_eq!(duration, Some(nanos(10)));
    }
    if duration.is_some() {
        assert_eq!(end.status.load(Acquire), 1);
        assert_eq!(end.wire_status.load(Acquire), 1);
        assert_eq!(snapshot(&end.response).body_bytes(), Some(8));
    }
    writer.join().unwrap();
}

fn sample_key() {
    let root = Arc::new(LazySampleKey::default());
    let child = Arc::clone(&root);
    let child = thread::spawn(move || child.get_or_init(SampleKey::new));
    let of_root = root.get_or_init(SampleKey::new);
    assert_eq!(child.join().unwrap(), of_root);
    assert_eq!(root.get_or_init(SampleKey::new), of_root);
}

/// `ConnectionInfo::close` and its readers. The reason is in a `OnceLock` there.
#[derive(Default)]
struct Connection {
    received: Counters,
    end: AtomicU8,
    closed: AtomicOffset,
}

fn close() {
    let connection = Arc::new(Connection::default());
    let other = Arc::clone(&connection);
    let reader = thread::spawn(move || {
        if other.closed.get().is_some() {
            assert_eq!(other.end.load(Acquire), 1);
            let received = other.received.get();
            assert_eq!((received.bytes(), received.calls()), (9, 2));
        }
    });
    connection.received.add(5);
    connection.received.add(4);
    connection.end.store(1, Release);
    connection.closed.set(10);
    reader.join().unwrap();
}

fn attempt() {
    let attempts = Arc::new(Attempts::default());
    attempts.started(0, true);
    let other = Arc::clone(&attempts);
    let first = thread::spawn(move || other.ended(100));
    attempts.started(150, false);
    match attempts.hedges() {
        0 => assert_eq!(attempts.delay(), nanos(50)),
        _ => assert_eq!(attempts.delay(), Duration::ZERO),
    }
    first.join().unwrap();
}

/// `attempts.rs` asks the record which attempt it is; no model does.
struct RpcInfo;

impl RpcInfo {
    const fn attempt(&self) -> u32 {
        1
    }
}
