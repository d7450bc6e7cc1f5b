use super::shards::Extra;
use crate::{Ending, Status};

/// How many calls that are over an RPC in flight keeps.
const CHILDREN: usize = 32;
/// How many with all those below them.
const NODES: usize = 64;

/// A call that an RPC made, or an attempt of it, and that is over.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) id: u64,
    pub(super) row: u32,
    pub(super) attempt: u32,
    /// Its start, in nanoseconds from the start of its parent.
    pub(super) at: u64,
    pub(super) nanos: u64,
    pub(super) status: Option<Status>,
    pub(super) ending: Option<Ending>,
    pub(super) failed: bool,
    pub(super) children: Vec<Self>,
}

impl Child {
    fn nodes(&self) -> usize {
        1 + self.children.iter().map(Self::nodes).sum::<usize>()
    }
}

impl Extra {
    /// Adds a call that is over, if there is room for it; how many it has added with those below it.
    pub(super) fn add(&mut self, child: impl FnOnce() -> Child, room: usize) -> usize {
        let room = room.min(NODES.saturating_sub(self.nodes()));
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

    /// How many calls it keeps.
    pub(super) fn nodes(&self) -> usize {
        self.children.iter().map(Child::nodes).sum()
    }
}
