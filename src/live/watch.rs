//! The readers that watch, and what waits for each.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Serialize;

use super::{entry::Entry, filter::Query, rows::Rows, rpc::Rpc};

/// How many readers watch at a time.
pub(super) const WATCHERS: usize = 16;
/// How many RPCs one of them gets in a second.
const RATE: u32 = 100;
/// How many events wait for a reader that is slow, and how many bytes.
const QUEUED: usize = 128;
const QUEUED_BYTES: usize = 1 << 20;

/// All readers that watch.
#[derive(Default)]
pub(super) struct Watchers {
    /// How many there are, to be read without the lock.
    pub(super) count: AtomicUsize,
    all: Mutex<Vec<Arc<Watcher>>>,
}

/// A reader and what it waits for.
pub(super) struct Watcher {
    pub(super) query: Query,
    pub(super) public: bool,
    pub(super) queue: Mutex<Queue>,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) events: VecDeque<Bytes>,
    pub(super) bytes: usize,
    pub(super) dropped: u64,
    second: Option<Instant>,
    in_second: u32,
    pub(super) waker: Option<Waker>,
}

impl Watchers {
    /// Whether anyone watches.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Offers an RPC that is over to all that watch.
    #[cold]
    pub(super) fn offer(&self, entry: &Entry, rows: &Rows) {
        let watchers = self.lock().clone();
        let matching = watchers.iter().filter(|watcher| {
            let filter = &watcher.query.filter;
            filter.matches_record(entry, rows, watcher.public)
        });
        for watcher in matching {
            watcher.offer(|| {
                let mut rpc = Rpc::of(entry, rows);
                if watcher.public {
                    rpc.hide_private(rows);
                }
                event("rpc", &rpc)
            });
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watcher>>> {
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

    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// JSON has no raw line ends, so it is one line.
pub(super) fn event(name: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}
