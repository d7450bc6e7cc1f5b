//! RPCs that end, as server-sent events.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::time::{Sleep, sleep};

use super::{Access, filter::Query, page::in_flight, rpc::Rpc, shards::Entry, tracer::Shared};

/// How many readers watch at a time.
pub(super) const WATCHERS: usize = 16;
/// How many RPCs one of them gets in a second.
const RATE: u32 = 100;
/// How many events wait for a reader that is slow, and how many bytes.
const QUEUED: usize = 128;
const QUEUED_BYTES: usize = 1 << 20;
/// How often a reader hears of RPCs in flight, and of how many of them.
const PROGRESS: Duration = Duration::from_secs(1);
const LISTED: usize = 20;

/// All readers that watch.
#[derive(Default)]
pub(super) struct Watchers {
    /// How many there are, to be read without the lock.
    count: AtomicUsize,
    all: Mutex<Vec<Arc<Watcher>>>,
}

/// A reader and what it waits for.
struct Watcher {
    query: Query,
    public: bool,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Bytes>,
    bytes: usize,
    dropped: u64,
    second: Option<Instant>,
    in_second: u32,
    waker: Option<Waker>,
}

/// The events of one reader, without end.
pub(super) struct Events {
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
    next: Pin<Box<Sleep>>,
}

/// What is sent once a second.
#[derive(Serialize)]
struct Progress {
    in_flight: u64,
    matching: usize,
    /// RPCs that matched and were not sent: too many, or the reader was too slow.
    dropped: u64,
    /// The oldest that match.
    rpcs: Vec<Rpc>,
}

impl Watchers {
    /// Whether anyone watches.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Offers an RPC that is over to all that watch.
    #[cold]
    pub(super) fn offer(&self, entry: &Entry, shared: &Shared) {
        let watchers = self.lock().clone();
        let matching = watchers.iter().filter(|watcher| {
            let filter = &watcher.query.filter;
            filter.matches_record(entry, &shared.rows, watcher.public)
        });
        for watcher in matching {
            watcher.offer(|| {
                let mut rpc = Rpc::of(entry, &shared.rows);
                if watcher.public {
                    rpc.hide_private(&shared.rows);
                }
                event("rpc", &rpc)
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watcher>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    fn offer(&self, event: impl FnOnce() -> Bytes) {
        let mut queue = self.lock();
        let now = Instant::now();
        let same = |second: &Instant| now.duration_since(*second) < Duration::from_secs(1);
        if !queue.second.as_ref().is_some_and(same) {
            queue.second = Some(now);
            queue.in_second = 0;
        }
        if queue.in_second >= RATE || queue.events.len() >= QUEUED {
            queue.dropped += 1;
            return;
        }
        queue.in_second += 1;
        drop(queue);
        let event = event();
        let mut queue = self.lock();
        if queue.bytes + event.len() > QUEUED_BYTES {
            queue.dropped += 1;
            return;
        }
        queue.bytes += event.len();
        queue.events.push_back(event);
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// Begins to watch; `None` if there are too many who do. Needs a runtime of tokio.
    pub(super) fn new(shared: Arc<Shared>, query: Query, access: Access) -> Option<Self> {
        let watcher = Arc::new(Watcher {
            query: Query {
                limit: query.limit.min(LISTED),
                ..query
            },
            public: access != Access::Everything,
            queue: Mutex::default(),
        });
        let mut all = shared.watchers.lock();
        if all.len() >= WATCHERS {
            return None;
        }
        all.push(Arc::clone(&watcher));
        shared.watchers.count.store(all.len(), Relaxed);
        drop(all);
        Some(Self {
            shared,
            watcher,
            next: Box::pin(sleep(Duration::ZERO)),
        })
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let mut queue = self.watcher.lock();
        if let Some(event) = queue.events.pop_front() {
            queue.bytes = queue.bytes.saturating_sub(event.len());
            return Poll::Ready(event);
        }
        match &mut queue.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        drop(queue);
        match self.next.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(self.progress()),
            Poll::Pending => Poll::Pending,
        }
    }

    fn progress(&mut self) -> Bytes {
        let begin = Instant::now();
        let Watcher { query, public, .. } = &*self.watcher;
        let open = in_flight(&self.shared, query, *public, false);
        let event = event(
            "progress",
            &Progress {
                in_flight: open.total,
                matching: open.matching,
                dropped: self.watcher.lock().dropped,
                rpcs: open.rpcs,
            },
        );
        // With very many in flight a look at them takes a while: it takes a twentieth of the time at most.
        let pause = PROGRESS.max(begin.elapsed() * 20);
        self.next = Box::pin(sleep(pause));
        event
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut all = self.shared.watchers.lock();
        all.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        self.shared.watchers.count.store(all.len(), Relaxed);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// JSON has no raw line ends, so it is one line.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}
