use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    cell::{BUCKETS, bucket_of},
    rpc::Rpc,
};

/// How many samples each bucket of latency, and each failing code, of a row keeps.
const EACH: usize = 10;
/// How many failing codes of a row have samples.
const CODES: usize = 8;
/// How long the slowest is kept.
const SLOWEST_FOR: Duration = Duration::from_secs(60);
/// How many candidates for the slowest of the last minute are kept.
const SLOWEST: usize = 8;

/// How many bytes all samples take at most.
pub(super) const BYTES: usize = 16 << 20;

/// How many RPCs are kept because a page listed them.
pub(super) const SEEN: usize = 512;

/// A finished RPC that is kept.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) rpc: Arc<Rpc>,
    pub(super) nanos: u64,
    /// A page listed it while it ran.
    pub(super) seen: bool,
}

impl Sample {
    pub(super) fn size(&self) -> usize {
        self.rpc.size()
    }
}

/// The samples of one row.
#[derive(Debug, Default)]
pub(super) struct Samples {
    buckets: [VecDeque<Sample>; BUCKETS],
    codes: Vec<(String, VecDeque<Sample>)>,
    /// Each is slower than all later ones.
    slowest: VecDeque<(Instant, Sample)>,
}

impl Samples {
    /// Keeps a sample in place of the oldest of its kind. `budget` is how many bytes are left for all.
    pub(super) fn keep(&mut self, sample: Sample, budget: &mut usize) -> bool {
        self.keep_slowest(&sample, budget);
        let ring = if sample.rpc.failed {
            let code = sample.rpc.status.as_deref().unwrap_or("none");
            match self.codes.iter().position(|(known, _)| known == code) {
                Some(index) => self.codes.get_mut(index),
                None if self.codes.len() < CODES => {
                    self.codes.push((code.to_owned(), VecDeque::new()));
                    self.codes.last_mut()
                }
                None => self.codes.last_mut(),
            }
            .map(|(_, ring)| ring)
        } else {
            self.buckets.get_mut(bucket_of(sample.nanos))
        };
        let Some(ring) = ring else { return false };
        if ring.len() >= EACH
            && let Some(oldest) = ring.pop_front()
        {
            *budget += oldest.size();
        }
        match budget.checked_sub(sample.size()) {
            Some(left) => {
                *budget = left;
                ring.push_back(sample);
                true
            }
            None => false,
        }
    }

    fn keep_slowest(&mut self, sample: &Sample, budget: &mut usize) {
        let now = Instant::now();
        self.expire(now, budget);
        while let Some((_, last)) = self.slowest.back()
            && last.nanos <= sample.nanos
        {
            *budget += last.size();
            self.slowest.pop_back();
        }
        if self.slowest.len() < SLOWEST
            && let Some(left) = budget.checked_sub(sample.size())
        {
            *budget = left;
            self.slowest.push_back((now, sample.clone()));
        }
    }

    fn expire(&mut self, now: Instant, budget: &mut usize) {
        while let Some((at, first)) = self.slowest.front()
            && now.duration_since(*at) > SLOWEST_FOR
        {
            *budget += first.size();
            self.slowest.pop_front();
        }
    }

    /// The slowest of the last minute.
    pub(super) fn slowest(&self) -> Option<&Arc<Rpc>> {
        let now = Instant::now();
        let fresh = |(at, _): &&(Instant, Sample)| now.duration_since(*at) <= SLOWEST_FOR;
        self.slowest
            .iter()
            .find(fresh)
            .map(|(_, sample)| &sample.rpc)
    }

    /// All of them. The slowest may be there twice.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Rpc>> {
        let rings = self
            .buckets
            .iter()
            .chain(self.codes.iter().map(|(_, ring)| ring));
        let slowest = self.slowest.iter().map(|(_, sample)| sample);
        rings.flatten().chain(slowest).map(|sample| &sample.rpc)
    }

    /// How many samples each bucket of latency has, and how many failed.
    pub(super) fn counts(&self) -> ([usize; BUCKETS], usize) {
        let failed = self.codes.iter().map(|(_, ring)| ring.len()).sum();
        (self.buckets.each_ref().map(VecDeque::len), failed)
    }
}
