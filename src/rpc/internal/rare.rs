use std::{
    borrow::Cow,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::Method;

use super::AtomicOffset;
use crate::rpc::{Direction, Event, RecordedEvent};

/// What most RPCs do not have: allocated when the first of it is recorded.
#[derive(Debug, Default)]
pub(crate) struct RareFields {
    /// Of the predefined events but start and finish.
    moments: [AtomicOffset; Event::SLOTS],
    messages_at: [MessagesAt; 2],
    pub(in crate::rpc) events: Mutex<Vec<RecordedEvent>>,
    pub(in crate::rpc) events_left_out: AtomicU64,
    pub(in crate::rpc) tags: Mutex<Vec<(Cow<'static, str>, Cow<'static, str>)>>,
    pub(in crate::rpc) error: OnceLock<Box<str>>,
    pub(in crate::rpc) panic: OnceLock<Box<str>>,
    pub(in crate::rpc) raw_status: OnceLock<Box<str>>,
    pub(in crate::rpc) http_method: OnceLock<Method>,
}

/// When the messages of one direction were complete.
#[derive(Debug, Default)]
pub(in crate::rpc) struct MessagesAt {
    pub(in crate::rpc) first: AtomicOffset,
    pub(in crate::rpc) last: AtomicOffset,
}

impl RareFields {
    /// How many user-defined events one RPC keeps.
    pub(in crate::rpc) const EVENTS: usize = 64;
    /// How many tags one RPC keeps.
    pub(in crate::rpc) const TAGS: usize = 64;
    /// How many bytes of an error's or a panic's text are kept.
    pub(in crate::rpc) const TEXT: usize = 1024;

    /// The time of a predefined event; `None` for a custom one.
    pub(in crate::rpc) fn moment(&self, event: Event) -> Option<&AtomicOffset> {
        self.moments.get(event.slot()?)
    }

    pub(in crate::rpc) fn messages(&self, direction: Direction) -> &MessagesAt {
        let [request, response] = &self.messages_at;
        match direction {
            Direction::Request => request,
            Direction::Response => response,
        }
    }

    pub(in crate::rpc) fn events(&self) -> MutexGuard<'_, Vec<RecordedEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::rpc) fn tags(
        &self,
    ) -> MutexGuard<'_, Vec<(Cow<'static, str>, Cow<'static, str>)>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::rpc) fn leave_out(&self) {
        self.events_left_out.fetch_add(1, Relaxed);
    }
}
