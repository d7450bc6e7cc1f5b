//! Calls that an RPC made.

use crate::Status;

/// A call that an RPC made, or an attempt of it, or the RPC that serves it.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) id: u64,
    pub(super) row: u32,
    pub(super) attempt: u32,
    /// Its start, in nanoseconds from the start of its parent.
    pub(super) at: u64,
    pub(super) nanos: u64,
    pub(super) status: Option<Status>,
    /// `None` of one that is not over: when its caller ends first, no more is known of it.
    pub(super) ending: Option<&'static str>,
    pub(super) failed: bool,
    pub(super) children: Vec<Self>,
}

impl Child {
    /// It and those below it.
    pub(super) fn nodes(&self) -> usize {
        1 + self.children.iter().map(Self::nodes).sum::<usize>()
    }
}
