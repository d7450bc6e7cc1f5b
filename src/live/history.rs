use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use histogram::{Histogram, Histogram32};

use super::{
    cell::{Counts, config},
    rpc::Rpc,
    sample::{self, Samples},
    shards::Shards,
};

/// How long a slice of the recent past is, and how many are kept: a good minute.
const FINE: Duration = Duration::from_secs(2);
const FINE_SLICES: usize = 31;
/// The same for the last hour.
const COARSE: Duration = Duration::from_secs(120);
const COARSE_SLICES: usize = 30;

/// How often each bucket of latency and each code of a row may get a new sample, from each shard.
const SAMPLES_EVERY: Duration = Duration::from_millis(900);

/// A span of time that figures are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    TenSeconds,
    Minute,
    Hour,
    Total,
}

impl Window {
    pub(super) const ALL: [Self; 4] = [Self::TenSeconds, Self::Minute, Self::Hour, Self::Total];

    /// Its name in URLs.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::TenSeconds => "10s",
            Self::Minute => "1m",
            Self::Hour => "1h",
            Self::Total => "total",
        }
    }

    /// Its name on a page.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::TenSeconds => "10 s",
            Self::Minute => "1 min",
            Self::Hour => "1 h",
            Self::Total => "total",
        }
    }

    fn length(self) -> Duration {
        match self {
            Self::TenSeconds => Duration::from_secs(10),
            Self::Minute => Duration::from_secs(60),
            Self::Hour => Duration::from_secs(3_600),
            Self::Total => Duration::MAX,
        }
    }
}

/// What all shards have counted, and how it was over time. RPCs never wait for its lock.
pub(super) struct History {
    rows: Vec<RowHistory>,
    begun: Instant,
    fine_begun: Instant,
    /// When samples were last asked for.
    sampled: Instant,
    coarse_begun: Instant,
    /// How long the kept slices were, the newest last.
    fine_lengths: VecDeque<Duration>,
    coarse_lengths: VecDeque<Duration>,
    /// RPCs that a page has listed, the newest last.
    seen: VecDeque<Arc<Rpc>>,
    /// How many bytes are left for samples.
    pub(super) budget: usize,
    pub(super) samples_left_out: u64,
}

/// The figures of one row.
pub(super) struct RowHistory {
    pub(super) counts: Counts,
    total: Series,
    fine: Series,
    coarse: Series,
    fine_slices: VecDeque<Slice>,
    coarse_slices: VecDeque<Slice>,
    pub(super) samples: Samples,
}

/// Figures that are being added up.
struct Series {
    counts: Small,
    latencies: Histogram,
}

/// The counts that windows have.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Small {
    pub(super) started: u64,
    pub(super) finished: u64,
    pub(super) failed: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) max: u64,
}

/// Figures of a slice of time that is over: of the histogram only what is not zero.
#[derive(Default)]
struct Slice {
    counts: Small,
    buckets: Box<[u16]>,
    numbers: Box<[u32]>,
}

/// Figures of one row over a window.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    pub(super) length: Duration,
    pub(super) counts: Small,
    pub(super) p50: Option<Duration>,
    pub(super) p90: Option<Duration>,
    pub(super) p99: Option<Duration>,
    pub(super) max: Option<Duration>,
}

impl History {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            rows: Vec::new(),
            begun: now,
            fine_begun: now,
            sampled: now,
            coarse_begun: now,
            fine_lengths: VecDeque::new(),
            coarse_lengths: VecDeque::new(),
            seen: VecDeque::new(),
            budget: sample::BYTES,
            samples_left_out: 0,
        }
    }

    pub(super) fn uptime(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Takes what the shards have counted since the last time, and closes slices whose time is up.
    pub(super) fn update(&mut self, shards: &Shards) {
        // However often pages are asked for, RPCs are copied at this rate.
        let want_samples = self.sampled.elapsed() >= SAMPLES_EVERY;
        if want_samples {
            self.sampled = Instant::now();
        }
        for mut shard in shards.iter() {
            for (row, cell) in shard.cells() {
                if want_samples {
                    cell.want_samples();
                }
                if cell.is_touched() {
                    self.row(row).add(&cell.counts, &cell.latencies);
                    cell.reset();
                }
            }
            let samples = shard.take_samples();
            self.samples_left_out += std::mem::take(&mut shard.samples_left_out);
            drop(shard);
            for sample in samples {
                if sample.seen {
                    self.see(&sample.rpc);
                }
                let mut budget = self.budget;
                let row = sample.rpc.row as usize;
                let kept = self.row(row).samples.keep(sample, &mut budget);
                self.budget = budget;
                self.samples_left_out += u64::from(!kept);
            }
        }
        let now = Instant::now();
        if now.duration_since(self.fine_begun) >= FINE {
            push(
                &mut self.fine_lengths,
                now.duration_since(self.fine_begun),
                FINE_SLICES,
            );
            self.fine_begun = now;
            for row in &mut self.rows {
                push(&mut row.fine_slices, row.fine.close(), FINE_SLICES);
            }
        }
        if now.duration_since(self.coarse_begun) >= COARSE {
            push(
                &mut self.coarse_lengths,
                now.duration_since(self.coarse_begun),
                COARSE_SLICES,
            );
            self.coarse_begun = now;
            for row in &mut self.rows {
                push(&mut row.coarse_slices, row.coarse.close(), COARSE_SLICES);
            }
        }
    }

    /// Keeps an RPC that a page lists, so that its link leads somewhere.
    pub(super) fn see(&mut self, rpc: &Arc<Rpc>) {
        if !self.seen.iter().any(|seen| Arc::ptr_eq(seen, rpc)) {
            push(&mut self.seen, Arc::clone(rpc), sample::SEEN);
        }
    }

    /// All kept RPCs. One may be there several times.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Arc<Rpc>> {
        let samples = self.rows.iter().flat_map(|row| row.samples.iter());
        samples.chain(&self.seen)
    }

    fn row(&mut self, index: usize) -> &mut RowHistory {
        while self.rows.len() <= index {
            let mut row = RowHistory::new();
            // A slice for each that the others have.
            row.fine_slices
                .resize_with(self.fine_lengths.len(), Slice::default);
            row.coarse_slices
                .resize_with(self.coarse_lengths.len(), Slice::default);
            self.rows.push(row);
        }
        &mut self.rows[index]
    }

    /// All rows, by their index.
    pub(super) fn rows(&self) -> impl Iterator<Item = (usize, &RowHistory)> {
        self.rows.iter().enumerate()
    }

    /// The figures of these rows together.
    pub(super) fn figures<'a>(
        &self,
        rows: impl Iterator<Item = &'a RowHistory>,
        window: Window,
    ) -> Figures {
        let now = Instant::now();
        let mut sum = Series::new();
        let mut length = Duration::ZERO;
        let (slices, lengths) = match window {
            Window::Total => (0, self.begun.elapsed()),
            Window::Hour => {
                let part = now.duration_since(self.coarse_begun);
                within(&self.coarse_lengths, part, window.length())
            }
            _ => {
                let part = now.duration_since(self.fine_begun);
                within(&self.fine_lengths, part, window.length())
            }
        };
        length += lengths;
        for row in rows {
            let (current, kept) = match window {
                Window::Total => (&row.total, None),
                Window::Hour => (&row.coarse, Some(&row.coarse_slices)),
                _ => (&row.fine, Some(&row.fine_slices)),
            };
            sum.add(&current.counts, current.latencies.as_slice());
            for slice in kept
                .into_iter()
                .flat_map(|kept| kept.iter().rev().take(slices))
            {
                sum.add_slice(slice);
            }
        }
        sum.figures(length)
    }

    /// RPCs in a second in each slice of the last minute, the oldest first.
    pub(super) fn trend(&self, row: &RowHistory) -> Vec<f64> {
        let slices = row.fine_slices.iter().zip(&self.fine_lengths);
        slices
            .map(|(slice, length)| slice.counts.finished as f64 / length.as_secs_f64().max(0.001))
            .collect()
    }
}

/// How many of the newest slices make up a window, and its length with that of the current one.
fn within(lengths: &VecDeque<Duration>, current: Duration, window: Duration) -> (usize, Duration) {
    let (mut slices, mut sum) = (0, current);
    for length in lengths.iter().rev() {
        if sum >= window {
            break;
        }
        sum += *length;
        slices += 1;
    }
    (slices, sum)
}

fn push<T>(ring: &mut VecDeque<T>, item: T, most: usize) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(item);
}

impl RowHistory {
    fn new() -> Self {
        Self {
            counts: Counts::default(),
            total: Series::new(),
            fine: Series::new(),
            coarse: Series::new(),
            fine_slices: VecDeque::new(),
            coarse_slices: VecDeque::new(),
            samples: Samples::default(),
        }
    }

    fn add(&mut self, counts: &Counts, latencies: &Histogram32) {
        self.counts.add(counts);
        let small = Small::from(counts);
        for series in [&mut self.total, &mut self.fine, &mut self.coarse] {
            series.add_small(&small);
            let totals = series.latencies.as_mut_slice().iter_mut();
            for (total, more) in totals.zip(latencies.as_slice()) {
                *total += u64::from(*more);
            }
        }
    }
}

impl Series {
    fn new() -> Self {
        Self {
            counts: Small::default(),
            latencies: Histogram::with_config(&config()),
        }
    }

    fn add_small(&mut self, more: &Small) {
        let counts = &mut self.counts;
        counts.started += more.started;
        counts.finished += more.finished;
        counts.failed += more.failed;
        counts.sent_bytes = counts.sent_bytes.saturating_add(more.sent_bytes);
        counts.received_bytes = counts.received_bytes.saturating_add(more.received_bytes);
        counts.max = counts.max.max(more.max);
    }

    fn add(&mut self, counts: &Small, latencies: &[u64]) {
        self.add_small(counts);
        for (total, more) in self.latencies.as_mut_slice().iter_mut().zip(latencies) {
            *total += more;
        }
    }

    fn add_slice(&mut self, slice: &Slice) {
        self.add_small(&slice.counts);
        let totals = self.latencies.as_mut_slice();
        for (bucket, number) in slice.buckets.iter().zip(&slice.numbers) {
            if let Some(total) = totals.get_mut(usize::from(*bucket)) {
                *total += u64::from(*number);
            }
        }
    }

    /// What it has, and begins at zero.
    fn close(&mut self) -> Slice {
        let counts = std::mem::take(&mut self.counts);
        if counts.finished == 0 {
            return Slice {
                counts,
                ..Slice::default()
            };
        }
        let buckets = self.latencies.as_slice().iter().enumerate();
        let filled = buckets.filter(|(_, number)| **number > 0);
        let (buckets, numbers): (Vec<_>, Vec<_>) = filled
            .map(|(bucket, number)| (bucket as u16, u32::try_from(*number).unwrap_or(u32::MAX)))
            .unzip();
        self.latencies.reset();
        Slice {
            counts,
            buckets: buckets.into(),
            numbers: numbers.into(),
        }
    }

    fn figures(&self, length: Duration) -> Figures {
        let max = Duration::from_nanos(self.counts.max);
        // The middle of the bucket, and no more than the longest.
        let at = |quantile: f64| {
            let bucket = self.latencies.quantile_bucket(quantile).ok()??;
            let middle = bucket.start() + (bucket.end() - bucket.start()) / 2;
            Some(Duration::from_micros(middle).min(max))
        };
        Figures {
            length,
            counts: self.counts,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: (self.counts.finished > 0).then_some(max),
        }
    }
}

impl From<&Counts> for Small {
    fn from(counts: &Counts) -> Self {
        let ([_, sent_bytes], [_, received_bytes]) = (counts.sent, counts.received);
        Self {
            started: counts.started,
            finished: counts.finished(),
            failed: counts.failed,
            sent_bytes,
            received_bytes,
            max: counts.max,
        }
    }
}
