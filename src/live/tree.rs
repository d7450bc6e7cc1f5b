//! The calls below one RPC, as its page shows them.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;

use super::{
    children::Child,
    entry::Entry,
    format,
    rows::Rows,
    rpc::{method_of, status},
    shards::address_of,
    tracer::Shared,
};

/// How many RPCs in flight are looked up for the page of one.
const NODES: usize = 64;

/// A call that an RPC made, an attempt of it, or the RPC that serves it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Nested {
    pub(super) id: String,
    pub(super) role: &'static str,
    pub(super) method: String,
    #[serde(skip)]
    row: u32,
    pub(super) attempt: u32,
    /// From the start of its parent.
    pub(super) at: f64,
    pub(super) seconds: f64,
    pub(super) status: Option<String>,
    pub(super) ending: Option<&'static str>,
    pub(super) failed: bool,
    /// Below an RPC that is over: it still ran when that ended.
    pub(super) in_flight: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) children: Vec<Self>,
}

impl Nested {
    pub(super) fn size(&self) -> usize {
        let below = self.children.iter().map(Self::size).sum::<usize>();
        size_of::<Self>() + self.method.len() + below
    }

    pub(super) fn hide_private(&mut self, rows: &Rows) {
        if let Some(row) = rows.get(self.row) {
            row.public_name().clone_into(&mut self.method);
        }
        for child in &mut self.children {
            child.hide_private(rows);
        }
    }

    fn running(entry: &Entry, at: u64, rows: &Rows) -> Self {
        let rpc = &entry.rpc;
        let seconds = rpc.stats().elapsed().as_secs_f64();
        let children = entry.extra.as_ref().map(|extra| &*extra.children);
        Self {
            id: format::id(entry.id),
            role: rpc.role().as_str(),
            method: method_of(rpc),
            row: entry.row,
            attempt: rpc.attempt(),
            at: Duration::from_nanos(at).as_secs_f64(),
            seconds,
            status: None,
            ending: None,
            failed: false,
            in_flight: true,
            children: noted(children.unwrap_or_default(), seconds, rows),
        }
    }
}

/// What was noted below an RPC that runs, or ran, for so many seconds.
pub(super) fn noted(children: &[Child], whole: f64, rows: &Rows) -> Vec<Nested> {
    let nested = children.iter().map(|child| {
        let row = rows.get(child.row);
        let at = Duration::from_nanos(child.at).as_secs_f64();
        let in_flight = child.ending.is_none();
        let seconds = match in_flight {
            true => (whole - at).max(0.0),
            false => Duration::from_nanos(child.nanos).as_secs_f64(),
        };
        Nested {
            id: format::id(child.id),
            role: row.map_or("client", |row| row.role.as_str()),
            method: row.map_or_else(String::new, |row| row.name.to_string()),
            row: child.row,
            attempt: child.attempt,
            at,
            seconds,
            status: child.status.map(status),
            ending: child.ending,
            failed: child.failed,
            in_flight,
            children: noted(&child.children, seconds, rows),
        }
    });
    nested.collect()
}

/// The RPCs in flight by the id of their parent: their ids, where their records are, and when they started.
type Open = HashMap<u64, Vec<(u64, usize, u64)>>;

/// Adds the RPCs in flight below this one to those that were noted.
pub(super) fn add_running(children: &mut Vec<Nested>, parent: u64, shared: &Shared) {
    let mut open = Open::new();
    for shard in shared.shards.iter() {
        let of = |entry: &Entry| {
            let parent = entry.parent?;
            Some((parent.id.get(), entry.id, address_of(&entry.rpc), parent.at))
        };
        let found: Vec<_> = shard.open().filter_map(of).collect();
        drop(shard);
        for (parent, id, address, at) in found {
            open.entry(parent).or_default().push((id, address, at));
        }
    }
    let mut room = NODES;
    add(children, parent, &open, shared, &mut room);
}

/// No RPC is its own ancestor, and the depth is no more than the `room`.
fn add(children: &mut Vec<Nested>, parent: u64, open: &Open, shared: &Shared, room: &mut usize) {
    for (id, address, at) in open.get(&parent).into_iter().flatten() {
        let Some(left) = room.checked_sub(1) else {
            break;
        };
        *room = left;
        let Some(entry) = shared.shards.entry(*id, *address) else {
            continue;
        };
        let mut child = Nested::running(&entry, *at, &shared.rows);
        add(&mut child.children, *id, open, shared, room);
        // One that serves a call was noted at its start.
        children.retain(|noted| noted.id != child.id);
        children.push(child);
    }
    children.sort_by(|a, b| a.at.total_cmp(&b.at));
}
