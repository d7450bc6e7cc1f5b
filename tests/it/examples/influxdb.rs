//! The InfluxDB example's tracer against a store that misbehaves.

#[path = "../../../examples/influxdb/tracer.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod tracer;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::tcp::soon;
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use influxdb_line_protocol::parse_lines;
use tokio::sync::Semaphore;
use tower::{Layer as _, service_fn};
use tower_tracer::{
    Status, Tracer, TracerLayer,
    methods::KnownMethods,
    service::{RpcGuard, TracedRequest, TracedResponse},
};
use tracer::{InfluxTracer, InfluxWriter, Settings};

/// A store that gives scripted answers, then 204, and keeps what it accepted.
#[derive(Clone)]
struct Store {
    answers: Arc<Mutex<VecDeque<u16>>>,
    accepted: Arc<Mutex<Vec<String>>>,
    /// Requests that came.
    came: Arc<Semaphore>,
    /// Permits to answer.
    go: Arc<Semaphore>,
}

impl Store {
    async fn start(answers: &[u16]) -> (Self, Settings) {
        let store = Self {
            answers: Arc::new(Mutex::new(answers.iter().copied().collect())),
            accepted: Arc::default(),
            came: Arc::new(Semaphore::new(0)),
            go: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        };
        let router = Router::new()
            .route("/write", post(Self::write))
            .with_state(store.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, router).await });
        let uri = format!("http://{address}/write?db=rpc&precision=ns");
        (store, settings(&uri))
    }

    async fn write(State(store): State<Self>, lines: Bytes) -> (StatusCode, &'static str) {
        store.came.add_permits(1);
        store.go.acquire().await.unwrap().forget();
        let answer = store.answers.lock().unwrap().pop_front().unwrap_or(204);
        if answer == 204 {
            let lines = String::from_utf8(lines.to_vec()).unwrap();
            store.accepted.lock().unwrap().push(lines);
        }
        (StatusCode::from_u16(answer).unwrap(), "as scripted")
    }

    fn accepted(&self) -> Vec<String> {
        self.accepted.lock().unwrap().clone()
    }
}

fn settings(uri: &str) -> Settings {
    Settings {
        methods: KnownMethods::new(["a.B/C"]),
        // Only a full batch or the shutdown makes it write.
        delay: Duration::from_secs(3600),
        pause: Duration::from_millis(1),
        tries: 3,
        ..Settings::new(uri.parse().unwrap())
    }
}

struct Call(String);
struct Done;

impl TracedRequest for Call {
    fn path(&self) -> &str {
        &self.0
    }
}

impl TracedResponse for Done {
    type Traced<T: Tracer> = Self;

    fn attach<T: Tracer>(self, open: RpcGuard<T>) -> Self {
        open.finish(Status::OK);
        self
    }
}

async fn call(tracer: &InfluxTracer, path: &str, fail: &'static str) {
    let service =
        TracerLayer::new(tracer.clone())
            .server()
            .layer(service_fn(move |_: Call| async move {
                match fail {
                    "" => Ok(Done),
                    fail => Err(fail),
                }
            }));
    let _ = service.oneshot(Call(path.to_owned())).await;
}

#[tokio::test]
async fn the_last_batch_is_written_at_shutdown() {
    let (store, settings) = Store::start(&[]).await;
    let (tracer, writer) = InfluxWriter::start(settings);
    for _ in 0..3 {
        call(&tracer, "/a.B/C", "").await;
    }
    let counts = soon(writer.shutdown()).await;
    assert_eq!(counts.all(), [3, 0, 0, 0]);
    let accepted = store.accepted();
    assert_eq!(accepted.len(), 1, "one batch: {accepted:?}");
    assert_eq!(accepted[0].lines().count(), 3);

    call(&tracer, "/a.B/C", "").await;
    assert_eq!(
        counts.all(),
        [3, 1, 0, 0],
        "after the shutdown it is dropped and counted"
    );
}

#[tokio::test]
async fn a_full_batch_is_written_without_waiting() {
    let (store, mut settings) = Store::start(&[]).await;
    settings.batch = 2;
    let (tracer, writer) = InfluxWriter::start(settings);
    for _ in 0..4 {
        call(&tracer, "/a.B/C", "").await;
    }
    soon(store.came.acquire_many(2)).await.unwrap().forget();
    assert_eq!(soon(writer.shutdown()).await.all(), [4, 0, 0, 0]);
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_and_blocks_no_call() {
    let (store, mut settings) = Store::start(&[]).await;
    store.go.forget_permits(Semaphore::MAX_PERMITS);
    settings.batch = 1;
    settings.queue = 4;
    let (tracer, writer) = InfluxWriter::start(settings);
    call(&tracer, "/a.B/C", "").await;
    // The writer now waits for the store with the first one.
    soon(store.came.acquire()).await.unwrap().forget();
    for _ in 0..10 {
        soon(call(&tracer, "/a.B/C", "")).await;
    }
    assert_eq!(writer.counts().all(), [0, 6, 0, 0]);
    store.go.add_permits(100);
    assert_eq!(soon(writer.shutdown()).await.all(), [5, 6, 0, 0]);
    assert_eq!(store.accepted().len(), 5);
}

#[tokio::test]
async fn a_rejected_batch_is_counted_and_the_next_one_is_written() {
    let (store, mut settings) = Store::start(&[400]).await;
    settings.batch = 2;
    let (tracer, writer) = InfluxWriter::start(settings);
    for _ in 0..3 {
        call(&tracer, "/a.B/C", "").await;
    }
    assert_eq!(soon(writer.shutdown()).await.all(), [1, 0, 2, 0]);
    assert_eq!(store.accepted().len(), 1);
}

#[tokio::test]
async fn a_store_that_comes_back_in_time_gets_everything_once() {
    let (store, settings) = Store::start(&[503, 500]).await;
    let (tracer, writer) = InfluxWriter::start(settings);
    for _ in 0..3 {
        call(&tracer, "/a.B/C", "").await;
    }
    assert_eq!(soon(writer.shutdown()).await.all(), [3, 0, 0, 0]);
    assert_eq!(store.accepted().len(), 1);
    assert_eq!(store.accepted()[0].lines().count(), 3);
}

#[tokio::test]
async fn records_that_a_store_does_not_get_are_counted() {
    // A port that was just free and is closed again.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (tracer, writer) = InfluxWriter::start(settings(&format!("http://{address}/write")));
    for _ in 0..3 {
        call(&tracer, "/a.B/C", "").await;
    }
    assert_eq!(soon(writer.shutdown()).await.all(), [0, 0, 0, 3]);
}

#[tokio::test]
async fn whatever_a_peer_sends_makes_one_well_formed_line_and_no_new_series() {
    let (store, settings) = Store::start(&[]).await;
    let (tracer, writer) = InfluxWriter::start(settings);
    let long = format!("/a.B/{}", "x".repeat(60_000));
    let paths = [
        "/a.B/C",
        "",
        "/a.B/C,x=y",
        "/a.B/C D",
        "/a.B/C\nrpc,x=y z=1",
        "/a\"b/c\\",
        "/é/🦀",
        "/x/y",
        "/x/z",
        &long,
    ];
    for path in paths {
        call(&tracer, path, "a \"quoted\" error,\nrpc,x=y z=1 \\").await;
    }
    let counts = soon(writer.shutdown()).await;
    assert_eq!(counts.all(), [paths.len() as u64, 0, 0, 0]);

    let accepted = store.accepted().concat();
    let mut series = BTreeSet::new();
    let mut times = BTreeSet::new();
    for line in parse_lines(&accepted) {
        let line = line.unwrap();
        series.insert(line.series.to_string());
        times.insert(line.timestamp.unwrap());
        assert_eq!(line.field_set.len(), 2, "cost_ns and error: {line}");
    }
    assert_eq!(
        times.len(),
        paths.len(),
        "one line each, no two of one time"
    );
    assert_eq!(
        series.into_iter().collect::<Vec<_>>(),
        [
            "rpc,role=server,service=_OTHER,method=_OTHER,code=UNKNOWN,ending=service_error",
            "rpc,role=server,service=a.B,method=C,code=UNKNOWN,ending=service_error",
        ]
    );
}
