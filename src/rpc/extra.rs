use std::{
    borrow::Cow,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::Method;

use super::{Direction, Event, Recorded, moment::Moment};

/// What most RPCs do not have: allocated when the first of it is there.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// Of the predefined events but start and finish.
    moments: [Moment; Event::SLOTS],
    messages_at: [MessagesAt; 2],
    pub(super) events: Mutex<Vec<Recorded>>,
    pub(super) events_left_out: AtomicU64,
    pub(super) tags: Mutex<Vec<(Cow<'static, str>, Cow<'static, str>)>>,
    pub(super) error: OnceLock<Box<str>>,
    pub(super) panic: OnceLock<Box<str>>,
    pub(super) raw_status: OnceLock<Box<str>>,
    pub(super) http_method: OnceLock<Method>,
}

/// When the messages of one direction were complete.
#[derive(Debug, Default)]
pub(super) struct MessagesAt {
    pub(super) first: Moment,
    pub(super) last: Moment,
}

impl Extra {
    /// How many user-defined events one RPC keeps.
    pub(super) const EVENTS: usize = 64;
    /// How many tags one RPC keeps.
    pub(super) const TAGS: usize = 64;
    /// How many bytes of an error's or a panic's text are kept.
    pub(super) const TEXT: usize = 1024;

    /// Where the time of an event stands; `None` for a user's own.
    pub(super) fn moment(&self, event: Event) -> Option<&Moment> {
        self.moments.get(event.slot()?)
    }

    pub(super) fn messages(&self, direction: Direction) -> &MessagesAt {
        let [request, response] = &self.messages_at;
        match direction {
            Direction::Request => request,
            Direction::Response => response,
        }
    }

    pub(super) fn events(&self) -> MutexGuard<'_, Vec<Recorded>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tags(&self) -> MutexGuard<'_, Vec<(Cow<'static, str>, Cow<'static, str>)>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn leave_out(&self) {
        self.events_left_out.fetch_add(1, Relaxed);
    }
}

/// At most `limit` bytes of `text`, cut where a character ends.
pub(super) fn bounded(text: &str, limit: usize) -> Box<str> {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}
