//! The readers that watch, and what waits for each.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::Instant,
};

use bytes::Bytes;
use serde::Serialize;

use super::{entry::Entry, filter::Query, html, rows::Rows, rpc::Rpc};

/// How many readers watch at a time.
pub(super) const WATCHERS: usize = 16;
/// How many RPCs one of them gets in a second, and a page, which shows the last few.
const RATE: u32 = 100;
const RATE_OF_PAGE: u32 = 20;
/// How many events wait for a reader that is slow, and how many bytes.
const QUEUED: usize = 128;
const QUEUED_BYTES: usize = 1 << 20;

/// All readers that watch.
#[derive(Default)]
pub(super) struct Watchers {
    /// How many there are, to be read without the lock.
    count: AtomicUsize,
    /// Seldom written. RPCs that end hold it for as long as it takes to copy a pointer.
    all: RwLock<Arc<[Arc<Watcher>]>>,
}

/// A reader and what it waits for.
pub(super) struct Watcher {
    pub(super) query: Query,
    pub(super) public: bool,
    /// A page, which gets rows of its table.
    pub(super) is_page: bool,
    begun: Instant,
    /// The second since it began, and below that how many RPCs it got in it.
    sent: AtomicU64,
    dropped: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
pub(super) struct Queue {
    events: VecDeque<Bytes>,
    bytes: usize,
    pub(super) waker: Option<Waker>,
}

impl Watchers {
    /// Whether anyone watches.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Adds a reader, if there are not too many.
    pub(super) fn add(&self, watcher: &Arc<Watcher>) -> bool {
        self.change(|all| {
            let has_room = all.len() < WATCHERS;
            if has_room {
                all.push(Arc::clone(watcher));
            }
            has_room
        })
    }

    pub(super) fn remove(&self, watcher: &Arc<Watcher>) {
        self.change(|all| all.retain(|other| !Arc::ptr_eq(other, watcher)));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Arc<Watcher>>) -> T) -> T {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = all.to_vec();
        let result = change(&mut changed);
        self.count.store(changed.len(), Relaxed);
        *all = changed.into();
        result
    }

    /// Offers an RPC that is over to all that watch. `kept` if it is a sample, so that a link leads somewhere.
    #[cold]
    pub(super) fn offer(&self, entry: &Entry, rows: &Rows, kept: bool) {
        let all = Arc::clone(&self.all.read().unwrap_or_else(PoisonError::into_inner));
        for watcher in &*all {
            let filter = &watcher.query.filter;
            if filter.matches_record(entry, rows, watcher.public) && watcher.take_turn() {
                let mut rpc = Rpc::of(entry, rows);
                if watcher.public {
                    rpc.hide_private(rows);
                }
                watcher.push(match watcher.is_page {
                    true => lines("rpc", &html::ended_row(&rpc, kept).0),
                    false => event("rpc", &rpc),
                });
            }
        }
    }
}

impl Watcher {
    pub(super) fn new(query: Query, public: bool, is_page: bool) -> Self {
        Self {
            query,
            public,
            is_page,
            begun: Instant::now(),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            queue: Mutex::default(),
        }
    }

    /// How many RPCs matched and were not sent.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Whether one RPC more may be sent in this second. Under load most may not, which takes no lock.
    fn take_turn(&self) -> bool {
        let most = if self.is_page { RATE_OF_PAGE } else { RATE };
        let second = self.begun.elapsed().as_secs() << 32;
        let next = |sent: u64| match sent < second {
            true => Some(second + 1),
            false => ((sent as u32) < most).then_some(sent + 1),
        };
        let taken = self.sent.fetch_update(Relaxed, Relaxed, next).is_ok();
        if !taken {
            self.dropped.fetch_add(1, Relaxed);
        }
        taken
    }

    fn push(&self, event: Bytes) {
        let mut queue = self.lock();
        if queue.events.len() >= QUEUED || queue.bytes + event.len() > QUEUED_BYTES {
            drop(queue);
            self.dropped.fetch_add(1, Relaxed);
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

impl Queue {
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let event = self.events.pop_front()?;
        self.bytes = self.bytes.saturating_sub(event.len());
        Some(event)
    }
}

/// An event with a text, which may have several lines.
fn lines(name: &str, text: &str) -> Bytes {
    let data: String = text.lines().map(|line| format!("data: {line}\n")).collect();
    format!("event: {name}\n{data}\n").into()
}

/// JSON has no raw line ends, so it is one line.
pub(super) fn event(name: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::{QUEUED, QUEUED_BYTES, Query, RATE, Watcher, Watchers, lines};
    use std::sync::Arc;

    fn watcher() -> Watcher {
        Watcher::new(Query::parse("").unwrap(), false, false)
    }

    #[test]
    fn what_waits_for_a_reader_has_a_bound() {
        let slow = watcher();
        for _ in 0..QUEUED + 5 {
            slow.push("event".into());
        }
        assert_eq!((slow.lock().events.len(), slow.dropped()), (QUEUED, 5));
        let large = watcher();
        for _ in 0..5 {
            large.push(vec![b'x'; QUEUED_BYTES / 4].into());
        }
        assert_eq!((large.lock().events.len(), large.dropped()), (4, 1));
        // Room is free again once events are read.
        assert_eq!(
            large.lock().pop().map(|event| event.len()),
            Some(QUEUED_BYTES / 4)
        );
        large.push("event".into());
        assert_eq!((large.lock().events.len(), large.dropped()), (4, 1));
    }

    #[test]
    fn so_many_are_sent_in_a_second_and_the_others_are_counted() {
        let watcher = watcher();
        let sent = (0..1_000).filter(|_| watcher.take_turn()).count();
        // A second may begin meanwhile.
        assert!(
            (RATE as usize..=2 * RATE as usize).contains(&sent),
            "{sent}"
        );
        assert_eq!(watcher.dropped(), 1_000 - sent as u64);
        watcher.sent.store(u64::from(u32::MAX), super::Relaxed);
        assert!(!watcher.take_turn() || watcher.begun.elapsed().as_secs() > 0);
    }

    #[test]
    fn readers_that_go_leave_their_places() {
        let all = Watchers::default();
        let readers: Vec<_> = (0..17).map(|_| Arc::new(watcher())).collect();
        let added: Vec<_> = readers.iter().map(|reader| all.add(reader)).collect();
        assert_eq!(added.iter().filter(|added| **added).count(), 16);
        assert!(!added[16] && all.any());
        all.remove(&readers[3]);
        assert!(all.add(&readers[16]));
        for reader in &readers {
            all.remove(reader);
        }
        assert!(!all.any());
    }

    #[test]
    fn each_line_of_an_event_is_marked() {
        assert_eq!(
            lines("rpc", "<tr>\n<td>"),
            "event: rpc\ndata: <tr>\ndata: <td>\n\n"
        );
    }
}
