//! An RPC in flight, and what is kept of it.

use std::num::NonZeroU64;

use super::children::Child;
use crate::{RpcInfo, trace_id::TraceParent};

/// How many calls that are over an RPC in flight keeps.
const CHILDREN: usize = 32;
/// How many with all those below them.
const NODES: usize = 64;

/// An RPC in flight.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) rpc: RpcInfo,
    pub(super) id: u64,
    pub(super) row: u32,
    pub(super) parent: Option<ParentId>,
    /// A page has listed it, so its reader may ask for it when it is over.
    pub(super) seen: bool,
    pub(super) extra: Option<Box<Extra>>,
}

/// The tracked RPC that an RPC belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct ParentId {
    pub(super) id: NonZeroU64,
    pub(super) address: usize,
    /// When the child started, in nanoseconds from the parent's start.
    pub(super) at: u64,
}

/// What most RPCs do not have.
#[derive(Debug, Clone, Default)]
pub(super) struct Extra {
    /// Its calls that are over, and those that went over the wire to a server of this page.
    pub(super) children: Vec<Child>,
    pub(super) children_left_out: u64,
    /// Request headers of the allow-list.
    pub(super) headers: Vec<(Box<str>, Box<str>)>,
    pub(super) trace: Option<TraceParent>,
}

impl Entry {
    /// A copy without what is long.
    pub(super) fn without_extra(&self) -> Self {
        Self {
            rpc: self.rpc.clone(),
            extra: None,
            ..*self
        }
    }
}

impl Extra {
    /// Adds a call, or the end of one, if there is room for it; how many it has added with those below it.
    pub(super) fn add(&mut self, id: u64, child: impl FnOnce() -> Child, room: usize) -> usize {
        let room = room.min(NODES.saturating_sub(self.nodes()));
        if let Some(open) = self.children.iter_mut().find(|child| child.id == id) {
            let mut over = child();
            // It was counted when it started.
            if over.nodes() - 1 > room {
                self.children_left_out += over.nodes() as u64 - 1;
                over.children = Vec::new();
            }
            *open = over;
            return open.nodes() - 1;
        }
        if room == 0 || self.children.len() >= CHILDREN {
            self.children_left_out += 1;
            return 0;
        }
        let mut child = child();
        if child.nodes() > room {
            self.children_left_out += child.nodes() as u64 - 1;
            child.children = Vec::new();
        }
        let added = child.nodes();
        self.children.push(child);
        added
    }

    /// Takes out a call that ended without the page hearing how; how many it has taken out.
    pub(super) fn remove(&mut self, id: u64) -> usize {
        let before = self.children.len();
        self.children.retain(|child| child.id != id);
        before - self.children.len()
    }

    /// How many calls it keeps.
    pub(super) fn nodes(&self) -> usize {
        self.children.iter().map(Child::nodes).sum()
    }
}
