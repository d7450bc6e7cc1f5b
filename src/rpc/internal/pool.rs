//! Pools records, up to 64 per thread: an allocation less for each RPC. A record that has a holder
//! is never reused.

use std::{cell::RefCell, sync::Arc};

use crate::rpc::record::Record;

/// How many records a thread keeps, of some 400 bytes each.
const MOST: usize = 64;

thread_local! {
    static KEPT: RefCell<Vec<Arc<Record>>> = const { RefCell::new(Vec::new()) };
}

/// Takes a blank record, which has no other holder.
#[inline]
pub(in crate::rpc) fn take() -> Arc<Record> {
    let kept = KEPT.try_with(|kept| kept.try_borrow_mut().ok()?.pop());
    kept.ok().flatten().unwrap_or_else(make)
}

/// Puts back a blank record, which has no other holder.
#[inline]
pub(in crate::rpc) fn put(record: Arc<Record>) {
    let _ = KEPT.try_with(|kept| {
        if let Ok(mut kept) = kept.try_borrow_mut()
            && kept.len() < MOST
        {
            kept.push(record);
        }
    });
}

#[inline(never)]
fn make() -> Arc<Record> {
    Arc::new(Record::blank())
}
