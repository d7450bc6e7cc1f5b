use std::{cell::Cell, mem::ManuallyDrop};

use crate::rpc::RpcInfo;

thread_local! {
    // Without a destructor an access is a plain load. Whoever puts a record here takes it out
    // again, so there is nothing to drop.
    static CURRENT: Cell<ManuallyDrop<Option<RpcInfo>>> =
        const { Cell::new(ManuallyDrop::new(None)) };
}

/// The record that is current on this thread.
#[inline]
pub(in crate::rpc) fn current() -> Option<RpcInfo> {
    let current = replace(None);
    let found = current.clone();
    replace(current);
    found
}

/// Holds a record and makes it current for the time of a call.
///
/// The handle moves into the thread's slot and back, so that entering costs no reference count.
#[derive(Debug)]
pub(crate) struct Slot(Option<RpcInfo>);

impl Slot {
    pub(crate) const fn new(rpc: RpcInfo) -> Self {
        Self(Some(rpc))
    }

    /// The record; `None` only within [`enter`](Self::enter), which borrows this slot.
    #[inline]
    pub(crate) fn rpc(&self) -> Option<&RpcInfo> {
        self.0.as_ref()
    }

    /// Takes the record out, when its RPC is over.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<RpcInfo> {
        self.0.take()
    }

    /// Whether the record is the current one.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        let current = replace(None);
        let is_current = match (&self.0, &current) {
            (Some(own), Some(current)) => own.ptr_eq(current),
            _ => false,
        };
        replace(current);
        is_current
    }

    /// Runs `f` with the record as the current one, and puts back what was current before, also
    /// when `f` panics.
    #[inline]
    pub(crate) fn enter<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.swap();
        let _entered = Entered(self);
        f()
    }

    /// Exchanges what is held here and what is current. A second call undoes it.
    #[inline]
    pub(crate) fn swap(&mut self) {
        self.0 = replace(self.0.take());
    }
}

struct Entered<'a>(&'a mut Slot);

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.swap();
    }
}

#[inline]
fn replace(rpc: Option<RpcInfo>) -> Option<RpcInfo> {
    CURRENT.with(|current| ManuallyDrop::into_inner(current.replace(ManuallyDrop::new(rpc))))
}
