//! Client calls in flight by the ids that they send, so that the RPC that serves one is found.

use std::{
    collections::HashMap,
    num::NonZeroU64,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::trace_id::TraceParent;

/// How many locks there are, by the id of the span.
const SHARDS: usize = 16;

/// Half of the id of a trace, and the id of a span. A peer can choose both, so they are hashed with a seed.
type Key = (u64, u64);

/// The id of a tracked call, and where its record is.
type Call = (NonZeroU64, usize);

/// As many as there are tracked calls that send a `traceparent`, and no more.
#[derive(Default)]
pub(super) struct Links([Mutex<HashMap<Key, Call>>; SHARDS]);

impl Links {
    /// Adds a call. Of several with the same ids, such as attempts, the last one is found.
    pub(super) fn add(&self, trace: &TraceParent, id: u64, address: usize) {
        if let Some(id) = NonZeroU64::new(id) {
            self.shard(trace).insert(key(trace), (id, address));
        }
    }

    /// The call that sent these ids.
    pub(super) fn find(&self, trace: &TraceParent) -> Option<Call> {
        self.shard(trace).get(&key(trace)).copied()
    }

    /// Removes a call, unless another one has taken its place.
    pub(super) fn remove(&self, trace: &TraceParent, id: u64) {
        let mut shard = self.shard(trace);
        let key = key(trace);
        if shard.get(&key).is_some_and(|(other, _)| other.get() == id) {
            shard.remove(&key);
        }
    }

    fn shard(&self, trace: &TraceParent) -> MutexGuard<'_, HashMap<Key, Call>> {
        // There are as many as `SHARDS`.
        let shard = &self.0[trace.span as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(trace: &TraceParent) -> Key {
    (trace.trace.lower_half(), trace.span)
}
