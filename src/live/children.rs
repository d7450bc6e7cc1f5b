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
    /// Adds a call that is over, if there is room.
    pub(super) fn add(&mut self, child: impl FnOnce() -> Child) {
        if self.children.len() >= CHILDREN {
            self.children_left_out += 1;
            return;
        }
        let mut child = child();
        let nodes: usize = self.children.iter().map(Child::nodes).sum();
        if nodes + child.nodes() > NODES {
            self.children_left_out += child.children.len() as u64;
            child.children = Vec::new();
        }
        self.children.push(child);
    }
}
