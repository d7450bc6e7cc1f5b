use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use super::Scopes;
use crate::rpc::{RpcInfo, Slot};

/// What is current while code of an RPC runs: its record, and the scopes of its tracers.
// In this order, so that moving it does not read the slot, which was just written, as half of a wider
// load: a processor stalls on that.
#[repr(C)]
pub(crate) struct Context {
    scopes: Scopes,
    slot: Slot,
}

impl Context {
    #[inline]
    pub(crate) fn new(rpc: RpcInfo, scopes: Scopes) -> Self {
        Self {
            scopes,
            slot: Slot::new(rpc),
        }
    }

    /// The record; `None` only while its code runs, which borrows this context.
    #[inline]
    pub(crate) fn rpc(&self) -> Option<&RpcInfo> {
        self.slot.rpc()
    }

    #[inline]
    pub(crate) fn has_scopes(&self) -> bool {
        !self.scopes.is_empty()
    }

    /// Takes out what is left when the RPC is over.
    #[inline]
    pub(crate) fn take_rpc(&mut self) -> Option<RpcInfo> {
        self.slot.take()
    }

    pub(crate) fn take_scopes(&mut self) -> Scopes {
        mem::take(&mut self.scopes)
    }

    /// Runs code of the RPC, and catches its panic.
    #[inline]
    pub(crate) fn run_catching(&mut self, f: impl FnOnce()) -> thread::Result<()> {
        match self.scopes.is_empty() {
            true => self.run_catching_without_scopes(f),
            false => self.run_in_scopes(f),
        }
    }

    /// The same, with the record current and no scope: for code that is not a user's.
    #[inline]
    pub(crate) fn run_catching_without_scopes(&mut self, f: impl FnOnce()) -> thread::Result<()> {
        self.slot.swap();
        let caught = catch_unwind(AssertUnwindSafe(f));
        self.slot.swap();
        caught
    }

    /// Apart from `run_catching`: few RPCs have a scope.
    #[inline(never)]
    fn run_in_scopes(&mut self, f: impl FnOnce()) -> thread::Result<()> {
        self.slot.swap();
        let caught = self.scopes.run_catching(f);
        self.slot.swap();
        caught
    }

    /// Runs code of the RPC. Its panic is not caught.
    pub(crate) fn run(&mut self, f: impl FnOnce()) {
        let scopes = &self.scopes;
        self.slot.enter(|| scopes.run(f));
    }

    /// Runs code of the RPC, even inside other code of it, such as a handler that reads its
    /// request.
    #[inline]
    pub(crate) fn run_nested<R>(&mut self, f: impl FnOnce() -> R) -> R {
        if self.slot.is_current() {
            return f();
        }
        let scopes = &self.scopes;
        self.slot.enter(|| match scopes.are_current() {
            // The RPC is over, and this is the rest of its code.
            true => f(),
            false => scopes.run(f),
        })
    }

    /// The same, with the record current and no scope: for code that is not a user's.
    #[inline]
    pub(crate) fn run_nested_without_scopes<R>(&mut self, f: impl FnOnce() -> R) -> R {
        match self.slot.is_current() {
            true => f(),
            false => self.slot.enter(f),
        }
    }

    /// Runs `f` with the record and the scopes, unless it runs there already, as in a drop.
    #[inline(always)]
    pub(crate) fn run_with_rpc(&self, f: impl FnOnce(&RpcInfo)) {
        let Some(rpc) = self.rpc() else { return };
        if self.scopes.is_empty() || self.scopes.are_current() {
            f(rpc);
        } else {
            self.scopes.run_after_finish(|| f(rpc));
        }
    }
}
