//! RPCs that end and that run, as server-sent events.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    Access,
    answer::Kind,
    desk::Waiting,
    filter::Query,
    page::in_flight,
    rpc::Rpc,
    tracer::Shared,
    watch::{Watcher, event},
};

/// How often a reader hears of RPCs in flight, and of how many of them.
const PROGRESS: Duration = Duration::from_secs(1);
const LISTED: usize = 20;

/// An event, and how long it took to make it.
type Next = dyn Future<Output = (Bytes, Duration)> + Send;

/// The events of one reader, without end.
pub(super) struct Events {
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
    /// The lock is never taken: it makes the body `Sync`.
    progress: Mutex<Pin<Box<Next>>>,
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

/// What a page gets, which reads RPCs in flight by itself, and others when too many readers wait.
#[derive(Serialize)]
struct Dropped {
    dropped: u64,
}

impl Events {
    /// Begins to watch; `None` if there are too many who do. Needs a runtime of tokio.
    pub(super) fn new(
        shared: Arc<Shared>,
        query: Query,
        kind: Kind,
        access: Access,
    ) -> Option<Self> {
        let query = Query {
            limit: query.limit.min(LISTED),
            ..query
        };
        let public = access != Access::Everything;
        let watcher = Arc::new(Watcher::new(query, public, kind == Kind::Html));
        if !shared.watchers.add(&watcher) {
            return None;
        }
        let first = progress(Arc::clone(&shared), Arc::clone(&watcher), Duration::ZERO);
        Some(Self {
            shared,
            watcher,
            progress: Mutex::new(Box::pin(first)),
        })
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let mut queue = self.watcher.lock();
        if let Some(event) = queue.pop() {
            return Poll::Ready(event);
        }
        match &mut queue.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        drop(queue);
        let next = self.progress.get_mut();
        let next = next.unwrap_or_else(PoisonError::into_inner);
        let (event, took) = ready!(next.as_mut().poll(cx));
        let (shared, watcher) = (Arc::clone(&self.shared), Arc::clone(&self.watcher));
        // With very many in flight a look at them takes a while: it takes a twentieth of the time at most.
        *next = Box::pin(progress(shared, watcher, PROGRESS.max(took * 20)));
        Poll::Ready(event)
    }
}

/// What is sent after that time, and how long it took to find out. All RPCs in flight are looked at when it is
/// its turn, as for a page.
async fn progress(
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
    after: Duration,
) -> (Bytes, Duration) {
    sleep(after).await;
    let dropped = watcher.dropped();
    let waiting = match watcher.is_page {
        true => None,
        false => Waiting::begin(&shared),
    };
    let look = move || {
        let begin = Instant::now();
        let open = in_flight(&shared, &watcher.query, watcher.public, false);
        let progress = Progress {
            in_flight: open.total,
            matching: open.matching,
            dropped,
            rpcs: open.rpcs,
        };
        (event("progress", &progress), begin.elapsed())
    };
    let looked = match waiting {
        Some(waiting) => waiting.turn(look).await,
        None => None,
    };
    looked.unwrap_or_else(|| (event("progress", &Dropped { dropped }), Duration::ZERO))
}

impl Drop for Events {
    fn drop(&mut self) {
        self.shared.watchers.remove(&self.watcher);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
