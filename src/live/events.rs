//! RPCs that end and that run, as server-sent events.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::time::{Sleep, sleep};

use super::{
    Access,
    filter::Query,
    page::in_flight,
    rpc::Rpc,
    tracer::Shared,
    watch::{WATCHERS, Watcher, event},
};

/// How often a reader hears of RPCs in flight, and of how many of them.
const PROGRESS: Duration = Duration::from_secs(1);
const LISTED: usize = 20;

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
