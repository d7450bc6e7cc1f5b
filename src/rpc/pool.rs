//! Memory of records that nobody holds any more, kept for the next ones.

use std::{cell::Cell, sync::Arc};

use super::info::Record;

/// How many records a thread keeps.
const MOST: usize = 64;

thread_local! {
    static BLANK: Cell<Vec<Arc<Record>>> = const { Cell::new(Vec::new()) };
}

/// A blank record that nobody else holds.
#[inline]
pub(super) fn take() -> Arc<Record> {
    let kept = BLANK.try_with(|blank| {
        let mut kept = blank.take();
        let record = kept.pop();
        blank.set(kept);
        record
    });
    kept.ok().flatten().unwrap_or_else(make)
}

#[inline(never)]
fn make() -> Arc<Record> {
    Arc::new(Record::blank())
}

/// Keeps a blank record that nobody else holds.
#[inline]
pub(super) fn put(record: Arc<Record>) {
    let _ = BLANK.try_with(|blank| {
        let mut kept = blank.take();
        if kept.len() < MOST {
            kept.push(record);
        }
        blank.set(kept);
    });
}
