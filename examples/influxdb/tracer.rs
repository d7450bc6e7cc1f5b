//! A tracer that writes a point per RPC to InfluxDB, in batches and in the background.
//!
//! In the RPC's path it clones a handle and puts it into a queue; everything else happens in a task
//! of its own. Nothing is lost silently: see [`Counts`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use influxdb_line_protocol::LineProtocolBuilder;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tower_tracer::{Event, RequestParts, RpcInfo, Tracer, methods::KnownMethods};

/// How the points come to the store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to write, such as `http://127.0.0.1:8086/write?db=rpc&precision=ns`.
    pub store: Uri,
    /// The methods to name; all others are `_OTHER`, so that no caller makes series.
    pub methods: KnownMethods,
    /// How many RPCs wait at most; those beyond are dropped and counted.
    pub queue: usize,
    /// How many points are written at once at most.
    pub batch: usize,
    /// How long a point waits for others at most.
    pub delay: Duration,
    /// How often a batch is tried while the store is down, first after `pause`, then after twice
    /// that, and so on.
    pub tries: u32,
    pub pause: Duration,
}

impl Settings {
    pub fn new(store: Uri) -> Self {
        Self {
            store,
            methods: KnownMethods::default(),
            queue: 10_000,
            batch: 1_000,
            delay: Duration::from_secs(1),
            tries: 5,
            pause: Duration::from_millis(100),
        }
    }
}

/// What became of the points; together they are all RPCs that ended.
#[derive(Debug, Default)]
pub struct Counts {
    /// The store has them.
    pub written: AtomicU64,
    /// The queue was full, or the writer had been shut down.
    pub dropped: AtomicU64,
    /// The store refused their batch: what is wrong with it would be wrong again.
    pub rejected: AtomicU64,
    /// The store was down for as many tries as it was given.
    pub lost: AtomicU64,
}

impl Counts {
    /// Written, dropped, rejected and lost.
    pub fn all(&self) -> [u64; 4] {
        [&self.written, &self.dropped, &self.rejected, &self.lost].map(|count| count.load(Relaxed))
    }
}

/// Puts each RPC that is over into the queue.
#[derive(Clone, Debug)]
pub struct InfluxTracer {
    queue: mpsc::Sender<RpcInfo>,
    counts: Arc<Counts>,
}

impl Tracer for InfluxTracer {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        // The record stays readable: a handle is all that has to be kept.
        if self.queue.try_send(rpc.clone()).is_err() {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// The task that writes.
#[derive(Debug)]
pub struct InfluxWriter {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    counts: Arc<Counts>,
}

impl InfluxWriter {
    /// Starts the task; to be called inside a tokio runtime.
    pub fn start(settings: Settings) -> (InfluxTracer, Self) {
        let (queue, waiting) = mpsc::channel(settings.queue);
        let (stop, stopped) = oneshot::channel();
        let counts = Arc::new(Counts::default());
        let writing = Writing {
            client: Client::builder(TokioExecutor::new()).build_http(),
            settings,
            counts: Arc::clone(&counts),
            last: 0,
        };
        let tracer = InfluxTracer {
            queue,
            counts: Arc::clone(&counts),
        };
        let task = tokio::spawn(writing.run(waiting, stopped));
        (tracer, Self { task, stop, counts })
    }

    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Writes what waits, and ends. RPCs that end later are counted as dropped.
    pub async fn shutdown(self) -> Arc<Counts> {
        // The task is gone only if it panicked; the next line reports that.
        let _ = self.stop.send(());
        if let Err(error) = self.task.await {
            eprintln!("influxdb: the writer failed: {error}");
        }
        self.counts
    }
}

struct Writing {
    settings: Settings,
    client: Client<HttpConnector, Full<Bytes>>,
    counts: Arc<Counts>,
    /// The last time stamp, in nanoseconds.
    last: i64,
}

impl Writing {
    async fn run(
        mut self,
        mut waiting: mpsc::Receiver<RpcInfo>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let size = self.settings.batch;
        let mut batch = Vec::with_capacity(size);
        loop {
            tokio::select! {
                received = waiting.recv_many(&mut batch, size) => {
                    if received == 0 {
                        return;
                    }
                    let until = Instant::now() + self.settings.delay;
                    while batch.len() < size {
                        let room = size - batch.len();
                        tokio::select! {
                            more = timeout_at(until, waiting.recv_many(&mut batch, room)) => {
                                if matches!(more, Err(_) | Ok(0)) {
                                    break;
                                }
                            }
                            // Nothing more comes after this; the loop ends with the queue.
                            _ = &mut stopped, if !waiting.is_closed() => waiting.close(),
                        }
                    }
                    self.write(&batch).await;
                    batch.clear();
                }
                _ = &mut stopped, if !waiting.is_closed() => waiting.close(),
            }
        }
    }

    /// Writes a batch, or counts it and reports why not.
    async fn write(&mut self, batch: &[RpcInfo]) {
        let points = batch.len() as u64;
        let lines = Bytes::from(self.lines(batch));
        let mut pause = self.settings.pause;
        for left in (0..self.settings.tries).rev() {
            match self.post(lines.clone()).await {
                Ok((status, _)) if status.is_success() => {
                    self.counts.written.fetch_add(points, Relaxed);
                    return;
                }
                Ok((status, answer)) if status.is_client_error() => {
                    self.counts.rejected.fetch_add(points, Relaxed);
                    eprintln!("influxdb: {points} points rejected: {status} {answer:?}");
                    return;
                }
                Ok((status, _)) => eprintln!("influxdb: {status}, {left} tries left"),
                Err(error) => eprintln!("influxdb: {error}, {left} tries left"),
            }
            if left > 0 {
                sleep(pause).await;
                pause *= 2;
            }
        }
        self.counts.lost.fetch_add(points, Relaxed);
        eprintln!("influxdb: {points} points lost");
    }

    /// Posts lines; the status, and the beginning of the answer.
    async fn post(
        &self,
        lines: Bytes,
    ) -> Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
        let request = Request::post(self.settings.store.clone()).body(Full::new(lines))?;
        let exchange = async {
            let response = self.client.request(request).await?;
            let status = response.status();
            let answer = Limited::new(response.into_body(), 4096).collect().await;
            let answer = answer.map(|body| body.to_bytes()).unwrap_or_default();
            Ok((status, String::from_utf8_lossy(&answer).into_owned()))
        };
        timeout(Duration::from_secs(10), exchange).await?
    }

    /// A line per RPC. The library escapes; that no value has a line break is seen to here.
    fn lines(&mut self, batch: &[RpcInfo]) -> Vec<u8> {
        let mut lines = LineProtocolBuilder::new();
        for rpc in batch {
            let stats = rpc.stats();
            let known = rpc
                .full_method()
                .filter(|name| self.settings.methods.contains(name));
            let (service, method) = known
                .and_then(|name| name.split_once('/'))
                .unwrap_or(("_OTHER", "_OTHER"));
            let code = stats
                .status()
                .map_or("none".to_owned(), |status| status.to_string());
            let mut line = lines
                .measurement("rpc")
                .tag("role", rpc.role().as_str())
                .tag("service", service)
                .tag("method", method)
                .tag("code", &code)
                .tag(
                    "ending",
                    stats.ending().map_or("none", |ending| ending.as_str()),
                )
                .field("cost_ns", integer(stats.elapsed().as_nanos()));
            for (name, value) in [
                ("request_messages", stats.request().messages()),
                ("request_bytes", stats.request().message_bytes()),
                ("response_messages", stats.response().messages()),
                ("response_bytes", stats.response().message_bytes()),
            ] {
                if let Some(value) = value {
                    line = line.field(name, integer(value.into()));
                }
            }
            if let Some(error) = stats.error() {
                // Text from a peer is not a tag, and cannot start a second line.
                line = line.field("error", &*error.escape_debug().to_string());
            }
            lines = line.timestamp(self.time_stamp(rpc)).close_line();
        }
        lines.build()
    }

    /// When the RPC ended, and never the same twice: a point replaces another of the same time and
    /// tags.
    fn time_stamp(&mut self, rpc: &RpcInfo) -> i64 {
        let time = rpc.stats().time(Event::RPC_FINISH);
        let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let nanos = integer(since.unwrap_or_default().as_nanos());
        self.last = nanos.max(self.last.saturating_add(1));
        self.last
    }
}

fn integer(value: u128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
