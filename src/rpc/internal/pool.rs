//! Keeps the memory of records that nobody holds any more, for the next ones: an allocation less for
//! each RPC.

use std::{cell::RefCell, sync::Arc};

use crate::rpc::record::Record;

/// How many records a thread keeps, of some 400 bytes each.
const MOST: usize = 64;

thread_local! {
    static KEPT: RefCell<Vec<Arc<Record>>> = const { RefCell::new(Vec::new()) };
}

/// A record of no RPC, which nobody else holds.
#[inline]
pub(in crate::rpc) fn take() -> Arc<Record> {
    let kept = KEPT.try_with(|kept| kept.try_borrow_mut().ok()?.pop());
    kept.ok().flatten().unwrap_or_else(make)
}

/// Keeps a record of no RPC, which nobody else holds.
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
