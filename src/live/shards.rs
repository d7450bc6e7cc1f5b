use std::{
    collections::{HashMap, hash_map},
    hash::{BuildHasherDefault, Hasher},
    mem,
    num::NonZeroU64,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    cell::Cell,
    children::Child,
    entry::{Entry, ParentId},
    rows::ROWS,
    sample::Sample,
};
use crate::RpcInfo;

/// Each RPC belongs to one shard by the address of its record. A thread uses the memory of its records
/// again, so threads seldom meet in a shard.
pub(super) const SHARDS: usize = 16;
const SHARD_BITS: u32 = SHARDS.trailing_zeros();

/// How many RPCs in flight a shard tracks: a sixteenth of 100,000, and room for shards to be uneven.
const TRACKED: usize = 6_600;

/// How many bytes the samples take that wait for the next reading.
const PENDING: usize = 1 << 20;

/// How many calls that are over are kept by the RPCs in flight of a shard.
const CHILDREN: usize = 8_192;

/// Whether an RPC in flight is tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracked {
    Yes,
    /// Another tracer of this page is in the same layer.
    ByAnother,
    TooMany,
}

/// A part of what is counted and tracked, behind one lock.
#[derive(Default)]
pub(super) struct Shard {
    open: HashMap<usize, Entry, BuildHasherDefault<AddressHasher>>,
    started: u64,
    /// In flight and not tracked.
    pub(super) untracked: u64,
    cells: Vec<Option<Box<Cell>>>,
    samples: Vec<Sample>,
    samples_size: usize,
    pub(super) samples_left_out: u64,
    /// How many calls that are over its RPCs keep.
    children: usize,
}

/// Keeps neighbours off its cache lines.
#[repr(align(128))]
#[derive(Default)]
struct Padded(Mutex<Shard>);

/// All shards. No thread holds two of their locks.
pub(super) struct Shards(Box<[Padded]>);

/// What tells the records of RPCs in flight apart.
pub(super) fn address_of(rpc: &RpcInfo) -> usize {
    std::ptr::from_ref(rpc.stats()).addr()
}

impl Shards {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Padded::default()).collect())
    }

    /// Locks the shard of a record.
    #[inline]
    pub(super) fn of(&self, address: usize) -> MutexGuard<'_, Shard> {
        self.at(shard_of(address))
    }

    /// Each shard in turn.
    pub(super) fn iter(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        (0..SHARDS).map(|index| self.at(index))
    }

    /// The RPC in flight with this id.
    pub(super) fn find(&self, id: u64) -> Option<Entry> {
        let shard = self.at(id as usize % SHARDS);
        shard.open.values().find(|entry| entry.id == id).cloned()
    }

    /// The RPC in flight whose record is here.
    #[cfg(feature = "connection")]
    pub(super) fn tracked(&self, address: usize) -> Option<Entry> {
        let shard = self.of(address);
        shard.open.get(&address).map(Entry::without_extra)
    }

    /// Notes that a page lists an RPC in flight.
    pub(super) fn set_seen(&self, entry: &Entry) {
        let address = address_of(&entry.rpc);
        let mut shard = self.of(address);
        if let Some(open) = shard.open.get_mut(&address)
            && open.id == entry.id
        {
            open.seen = true;
        }
    }

    /// The tracked RPC closest above this one.
    #[inline]
    pub(super) fn parent_of(&self, rpc: &RpcInfo) -> Option<ParentId> {
        let mut above = rpc.parent()?;
        // A layer in between may have another tracer.
        for _ in 0..4 {
            let address = address_of(above);
            let id = self.of(address).open.get(&address).map(|entry| entry.id);
            if let Some(id) = id.and_then(NonZeroU64::new) {
                let at = u64::try_from(above.stats().elapsed().as_nanos()).unwrap_or(u64::MAX);
                return Some(ParentId { id, address, at });
            }
            above = above.parent()?;
        }
        None
    }

    /// The RPC in flight with this id, whose record is here, as the parent of one that starts.
    pub(super) fn parent_at(&self, id: NonZeroU64, address: usize) -> Option<ParentId> {
        let shard = self.of(address);
        let entry = shard.open.get(&address)?;
        let at = entry.rpc.stats().elapsed().as_nanos();
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        (entry.id == id.get()).then_some(ParentId { id, address, at })
    }

    /// The RPC in flight with this id, whose record is here.
    pub(super) fn entry(&self, id: u64, address: usize) -> Option<Entry> {
        let shard = self.of(address);
        let entry = shard.open.get(&address)?;
        (entry.id == id).then(|| entry.clone())
    }

    /// Notes a call on the RPC that made it, if that still runs.
    pub(super) fn add_child(&self, parent: ParentId, id: u64, child: impl FnOnce() -> Child) {
        let mut shard = self.of(parent.address);
        let shard = &mut *shard;
        if let Some(entry) = shard.open.get_mut(&parent.address)
            && entry.id == parent.id.get()
        {
            let room = CHILDREN.saturating_sub(shard.children);
            shard.children += entry.extra.get_or_insert_default().add(id, child, room);
        }
    }

    /// Takes out a call that was noted at its start.
    pub(super) fn remove_child(&self, parent: ParentId, id: u64) {
        let mut shard = self.of(parent.address);
        let shard = &mut *shard;
        if let Some(entry) = shard.open.get_mut(&parent.address)
            && entry.id == parent.id.get()
            && let Some(extra) = &mut entry.extra
        {
            shard.children = shard.children.saturating_sub(extra.remove(id));
        }
    }

    #[inline]
    fn at(&self, index: usize) -> MutexGuard<'_, Shard> {
        // There are as many as `SHARDS`.
        let Padded(shard) = &self.0[index % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    /// Counts an RPC that starts, and tracks it if there is room.
    #[inline]
    pub(super) fn start(
        &mut self,
        address: usize,
        row: u32,
        entry: impl FnOnce(u64) -> Entry,
    ) -> Tracked {
        self.cell(row).start();
        self.started += 1;
        if self.open.len() >= TRACKED {
            self.untracked += 1;
            return Tracked::TooMany;
        }
        let id = (self.started << SHARD_BITS) | shard_of(address) as u64;
        match self.open.entry(address) {
            hash_map::Entry::Vacant(place) => {
                place.insert(entry(id));
                Tracked::Yes
            }
            hash_map::Entry::Occupied(_) => Tracked::ByAnother,
        }
    }

    /// Stops to track it.
    #[inline]
    pub(super) fn remove(&mut self, address: usize, tracked: Tracked) -> Option<Entry> {
        match tracked {
            Tracked::Yes => {
                let entry = self.open.remove(&address)?;
                if let Some(extra) = &entry.extra {
                    self.children = self.children.saturating_sub(extra.nodes());
                }
                Some(entry)
            }
            Tracked::ByAnother => None,
            Tracked::TooMany => {
                self.untracked = self.untracked.saturating_sub(1);
                None
            }
        }
    }

    /// Where the RPCs of a row are counted.
    #[inline]
    pub(super) fn cell(&mut self, row: u32) -> &mut Cell {
        let row = row as usize % ROWS;
        if row >= self.cells.len() {
            self.cells.resize_with(row + 1, || None);
        }
        self.cells[row].get_or_insert_default()
    }

    /// The cells that counted something since they were last taken.
    pub(super) fn cells(&mut self) -> impl Iterator<Item = (usize, &mut Cell)> {
        let cells = self.cells.iter_mut().enumerate();
        cells.filter_map(|(row, cell)| Some((row, cell.as_deref_mut()?)))
    }

    pub(super) fn open(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.open.values()
    }

    pub(super) fn keep(&mut self, sample: Sample) {
        let size = self.samples_size + sample.size();
        if size <= PENDING {
            self.samples_size = size;
            self.samples.push(sample);
        } else {
            self.samples_left_out += 1;
        }
    }

    pub(super) fn take_samples(&mut self) -> Vec<Sample> {
        self.samples_size = 0;
        mem::take(&mut self.samples)
    }
}

/// Records have some 400 bytes: the lowest bits of their addresses say little.
#[inline]
fn shard_of(address: usize) -> usize {
    (mix(address) >> 32) as usize % SHARDS
}

#[inline]
fn mix(address: usize) -> u64 {
    (address as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Hashes an address, which no peer chooses.
#[derive(Default)]
pub(super) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[inline]
    fn write_usize(&mut self, address: usize) {
        let mixed = mix(address);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
