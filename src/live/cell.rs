use std::{collections::BTreeMap, time::Duration};

use histogram::Histogram32;

use crate::{Code, Ending, RpcInfo, Status, rpc::ending::LABELS};

/// Sixteen buckets for each power of two: a percentile is off by 3 % at most.
pub(super) const GROUPING_POWER: u8 = 4;
/// The largest time, as a power of two: 19 hours in microseconds. Longer ones count as that.
pub(super) const MAX_POWER: u8 = 36;

/// How many buckets of latency have samples of their own.
pub(super) const BUCKETS: usize = 9;
/// Their lower bounds in nanoseconds: 0, 10 µs, 100 µs, 1 ms, 10 ms, 100 ms, 1 s, 10 s, 100 s.
const BOUNDS: [u64; BUCKETS - 1] = [
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
    100_000_000_000,
];

/// Which bucket a duration is in.
#[inline]
pub(super) fn bucket_of(nanos: u64) -> usize {
    BOUNDS.iter().take_while(|bound| nanos >= **bound).count()
}

/// The lower bound of a bucket.
pub(super) fn bucket_start(bucket: usize) -> Duration {
    let bound = bucket.checked_sub(1).and_then(|index| BOUNDS.get(index));
    Duration::from_nanos(bound.copied().unwrap_or(0))
}

/// A duration in the unit of the histograms.
#[inline]
pub(super) fn micros(nanos: u64) -> u64 {
    (nanos / 1_000).min((1 << MAX_POWER) - 1)
}

/// What one RPC adds to the figures, read from its record when it ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) nanos: u64,
    pub(super) status: Option<Status>,
    /// Its place among all labels, and its name.
    pub(super) ending: Option<(usize, &'static str)>,
    pub(super) failed: bool,
    pub(super) sent: [u64; 2],
    pub(super) received: [u64; 2],
}

impl Done {
    #[inline]
    pub(super) fn of(rpc: &RpcInfo) -> Self {
        let stats = rpc.stats();
        let (sent, received) = (stats.sent(), stats.received());
        Self {
            nanos: u64::try_from(stats.elapsed().as_nanos()).unwrap_or(u64::MAX),
            status: stats.status(),
            ending: stats.ending_label(),
            failed: stats.failed(),
            sent: [sent.messages(), sent.body_bytes()].map(Option::unwrap_or_default),
            received: [received.messages(), received.body_bytes()].map(Option::unwrap_or_default),
        }
    }
}

impl Done {
    /// Whether it ended as its caller hoped. Without a status that is so unless it failed or was cancelled.
    #[inline]
    fn is_ok(&self) -> bool {
        match self.status {
            Some(Status::Grpc(code)) => code == Code::Ok,
            Some(Status::Http(status)) => status < 400,
            None => {
                let ending = self.ending.map_or("", |(_, ending)| ending);
                !self.failed && !ending.starts_with(Ending::Cancelled.as_str())
            }
        }
    }
}

/// Figures of one row that no histogram holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) started: u64,
    pub(super) ok: u64,
    /// As the layer decides: a server does not fail with each code that is not OK.
    pub(super) failed: u64,
    /// RPCs that are not OK, by gRPC's code.
    pub(super) codes: [u64; Code::ALL.len()],
    /// By HTTP status; 0 is no status at all.
    pub(super) http: BTreeMap<u16, u64>,
    pub(super) endings: [u64; LABELS.len()],
    /// Ended without this tracer, by a filter around it.
    pub(super) discarded: u64,
    /// Messages and bytes of bodies.
    pub(super) sent: [u64; 2],
    pub(super) received: [u64; 2],
    /// The longest, in nanoseconds.
    pub(super) max: u64,
}

impl Counts {
    #[inline]
    fn finish(&mut self, done: &Done) {
        self.failed += u64::from(done.failed);
        if done.is_ok() {
            self.ok += 1;
        } else if let Some(Status::Grpc(code)) = done.status {
            self.codes[code as usize] += 1;
        } else {
            let status = match done.status {
                // A status is three digits; what is not must not make an entry of its own.
                Some(Status::Http(status @ 100..=999)) => status,
                _ => 0,
            };
            *self.http.entry(status).or_default() += 1;
        }
        if let Some(count) = done
            .ending
            .and_then(|(place, _)| self.endings.get_mut(place))
        {
            *count += 1;
        }
        for (total, more) in self.sent.iter_mut().zip(done.sent) {
            *total = total.saturating_add(more);
        }
        for (total, more) in self.received.iter_mut().zip(done.received) {
            *total = total.saturating_add(more);
        }
        self.max = self.max.max(done.nanos);
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.started += more.started;
        self.ok += more.ok;
        self.failed += more.failed;
        for (status, count) in &more.http {
            *self.http.entry(*status).or_default() += count;
        }
        self.discarded += more.discarded;
        self.max = self.max.max(more.max);
        let sums = [
            (&mut self.codes[..], &more.codes[..]),
            (&mut self.endings[..], &more.endings[..]),
            (&mut self.sent[..], &more.sent[..]),
            (&mut self.received[..], &more.received[..]),
        ];
        for (totals, more) in sums {
            for (total, more) in totals.iter_mut().zip(more) {
                *total = total.saturating_add(*more);
            }
        }
    }

    /// How many are over.
    pub(super) fn finished(&self) -> u64 {
        self.ok + self.codes.iter().sum::<u64>() + self.http.values().sum::<u64>()
    }

    /// How many run.
    pub(super) fn in_flight(&self) -> u64 {
        let over = self.finished() + self.discarded;
        self.started.saturating_sub(over)
    }
}

/// What a shard has counted of a row since the last reading.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) counts: Counts,
    pub(super) latencies: Histogram32,
    /// Buckets and codes of which a sample was taken since.
    sampled: u64,
    /// The slowest sample since, in nanoseconds.
    slowest: u64,
    touched: bool,
}

impl Default for Cell {
    fn default() -> Self {
        let config = config();
        Self {
            counts: Counts::default(),
            latencies: Histogram32::with_config(&config),
            sampled: 0,
            slowest: 0,
            touched: false,
        }
    }
}

/// The layout of all histograms.
pub(super) fn config() -> histogram::Config {
    const CONFIG: histogram::Config = match histogram::Config::new(GROUPING_POWER, MAX_POWER) {
        Ok(config) => config,
        Err(_) => panic!("the powers fit"),
    };
    CONFIG
}

impl Cell {
    #[inline]
    pub(super) fn start(&mut self) {
        self.touched = true;
        self.counts.started += 1;
    }

    pub(super) fn discard(&mut self) {
        self.touched = true;
        self.counts.discarded += 1;
    }

    /// Counts an RPC that is over; whether it is to be kept as a sample.
    #[inline]
    pub(super) fn finish(&mut self, done: &Done) -> bool {
        self.touched = true;
        self.counts.finish(done);
        // It is in range.
        let _ = self.latencies.increment(micros(done.nanos));
        let kind = match done.status {
            Some(Status::Grpc(code)) if done.failed => BUCKETS + code as usize,
            _ if done.failed => BUCKETS + Code::ALL.len(),
            _ => bucket_of(done.nanos),
        };
        let bit = 1 << kind;
        let first = self.sampled & bit == 0;
        self.sampled |= bit;
        let slowest = done.nanos > self.slowest;
        if slowest {
            self.slowest = done.nanos;
        }
        first || slowest
    }

    /// Whether it counted something since the last [`reset`](Self::reset).
    pub(super) fn is_touched(&self) -> bool {
        self.touched
    }

    /// Forgets what was read, if there was something.
    pub(super) fn reset(&mut self) {
        self.counts = Counts::default();
        self.latencies.reset();
        self.touched = false;
    }

    /// From now on samples are wanted again.
    pub(super) fn want_samples(&mut self) {
        self.sampled = 0;
        self.slowest = 0;
    }
}
