//! Which RPCs are on which connection.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::ConnectionInfo;
use crate::RpcInfo;

/// For how many RPCs there is memory while none runs.
const FEW: usize = 4;

/// The RPCs of one connection.
#[derive(Default)]
pub(super) struct Rpcs {
    slots: Vec<Option<RpcInfo>>,
    free: Vec<u32>,
    pub(super) started: u64,
    pub(super) cut_off: u64,
}

impl Rpcs {
    pub(super) fn running(&self) -> impl Iterator<Item = &RpcInfo> {
        self.slots.iter().flatten()
    }

    pub(super) fn close(&mut self) {
        self.cut_off = self.running().count() as u64;
    }

    /// The RPC's place. `None` if there are more than can be numbered.
    fn enter(&mut self, rpc: RpcInfo) -> Option<u32> {
        self.started += 1;
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            *slot = Some(rpc);
            return Some(index);
        }
        let index = u32::try_from(self.slots.len()).ok()?;
        self.slots.push(Some(rpc));
        Some(index)
    }

    fn leave(&mut self, index: u32) -> Option<RpcInfo> {
        let rpc = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        // An idle connection keeps no memory of the many RPCs that it had once.
        if self.free.len() == self.slots.len() && self.slots.len() > FEW {
            self.slots.clear();
            self.free.clear();
            self.slots.shrink_to(FEW);
            self.free.shrink_to(FEW);
        }
        Some(rpc)
    }
}

/// The connection of a record, and the record's place in it.
#[derive(Debug)]
pub(crate) struct OnConnection {
    pub(crate) connection: ConnectionInfo,
    /// `None` of the record of a further layer: an RPC is listed once.
    index: Option<u32>,
}

impl OnConnection {
    pub(crate) fn enter(connection: ConnectionInfo, rpc: &RpcInfo) -> Self {
        let is_listed = rpc.same_request_parent().is_some();
        let index = match is_listed {
            true => None,
            false => connection.lock_rpcs().enter(rpc.clone()),
        };
        Self { connection, index }
    }

    /// The RPC is over.
    pub(crate) fn leave(&self) {
        if let Some(index) = self.index {
            let rpc = self.connection.lock_rpcs().leave(index);
            drop(rpc);
        }
    }
}

const SHARDS: usize = 16;

type ByPeer = HashMap<SocketAddr, Vec<ConnectionInfo>>;

/// The open connections of servers, by the peer's address. A peer may have several under one address, to
/// several ports of this process.
static OPEN: [Mutex<Option<ByPeer>>; SHARDS] = [const { Mutex::new(None) }; SHARDS];

/// How many there are: without any, an RPC looks for none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn shard(peer: SocketAddr) -> MutexGuard<'static, Option<ByPeer>> {
    let [first, ..] = &OPEN;
    let shard = OPEN.get(usize::from(peer.port()) % SHARDS).unwrap_or(first);
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn peer_of(connection: &ConnectionInfo) -> Option<SocketAddr> {
    connection.addresses()?.peer.as_ref()?.ip()
}

/// From here on, RPCs find the connection.
pub(super) fn register(connection: &ConnectionInfo) {
    if let Some(peer) = peer_of(connection) {
        let mut shard = shard(peer);
        let open = shard.get_or_insert_default();
        // Nearly always the only one.
        let of_peer = open.entry(peer).or_insert_with(|| Vec::with_capacity(1));
        of_peer.push(connection.clone());
        COUNT.fetch_add(1, Relaxed);
    }
}

pub(super) fn unregister(connection: &ConnectionInfo) {
    let Some(peer) = peer_of(connection) else {
        return;
    };
    let mut shard = shard(peer);
    if let Some(open) = &mut *shard
        && let Some(of_peer) = open.get_mut(&peer)
    {
        let before = of_peer.len();
        of_peer.retain(|other| !other.is(connection));
        COUNT.fetch_sub(before - of_peer.len(), Relaxed);
        if of_peer.is_empty() {
            open.remove(&peer);
        }
    }
}

/// The connection between these addresses; `None` if it is unknown, or if there are several.
pub(crate) fn find(peer: SocketAddr, local: Option<SocketAddr>) -> Option<ConnectionInfo> {
    if COUNT.load(Relaxed) == 0 {
        return None;
    }
    let shard = shard(peer);
    let mut found = shard.as_ref()?.get(&peer)?.iter().filter(|connection| {
        let known = connection
            .addresses()
            .and_then(|both| both.local.as_ref()?.ip());
        local.is_none() || known.is_none() || known == local
    });
    let first = found.next()?;
    found.next().is_none().then(|| first.clone())
}
