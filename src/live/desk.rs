//! Pages are made one after the other, so that however many are asked for, RPCs lose one processor at most.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::{runtime::Handle, sync::Semaphore, task::spawn_blocking};

use super::tracer::Shared;

/// How many readers wait at a time.
const WAITING: usize = 1_024;

/// Where readers wait.
pub(super) struct Desk {
    turn: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
        }
    }
}

/// A reader that waits; its place is free again when this is dropped.
pub(super) struct Waiting(Arc<Shared>);

impl Waiting {
    /// `None` if too many wait.
    pub(super) fn begin(shared: &Arc<Shared>) -> Option<Self> {
        let before = shared.desk.waiting.fetch_add(1, Relaxed);
        let place = Self(Arc::clone(shared));
        (before < WAITING).then_some(place)
    }

    /// Makes something when it is its turn, on a thread that runs no RPCs if there is such a one. `None` if that
    /// panics.
    pub(super) async fn turn<T: Send + 'static>(
        self,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let turn = Arc::clone(&self.0.desk.turn).acquire_owned().await;
        // A reader may go away meanwhile: the turn ends when the page is made.
        let make = move || {
            let _turn = turn;
            make()
        };
        match Handle::try_current() {
            Ok(_) => spawn_blocking(make).await.ok(),
            Err(_) => Some(make()),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.desk.waiting.fetch_sub(1, Relaxed);
    }
}
