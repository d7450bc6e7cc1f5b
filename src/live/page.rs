//! What the pages show, collected.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Access,
    cell::{BUCKETS, Counts, bucket_start},
    config::Config,
    entry::Entry,
    filter::Query,
    history::{Figures, History, RowHistory, Window},
    rows::Row,
    rpc::Rpc,
    sample,
    schema::{Bucket, InFlight, Kept, MethodRow, Methods, Page, Peer, SampleCounts, WindowFigures},
    tracer::Shared,
    tree::add_running,
};
use crate::{Code, rpc::ending::LABELS};

/// How many samples a page lists.
const SAMPLES: usize = 50;

impl Page {
    pub(super) fn of(shared: &Shared, config: &Config, query: &Query, access: Access) -> Self {
        let public = access != Access::Everything;
        let mut history = shared.update();
        let rows: Vec<_> = history
            .rows()
            .filter_map(|(index, row)| Some((shared.rows.get(u32::try_from(index).ok()?)?, row)))
            .filter(|(_, row)| row.counts.started > 0)
            .collect();
        let matching: Vec<_> = rows
            .iter()
            .filter(|(row, _)| query.filter.matches_row(row, public))
            .collect();
        let figures = windows(&history, || matching.iter().map(|(_, row)| *row));
        let mut methods = Methods {
            total: rows.len(),
            matching: matching.len(),
            rows: matching
                .iter()
                .map(|(row, of)| method(&history, row, of, public))
                .collect(),
        };
        methods.rows.sort_by(|a, b| {
            let key = |row: &MethodRow| row.windows.get("1m").map_or(0, |figures| figures.finished);
            key(b)
                .cmp(&key(a))
                .then_with(|| a.method.cmp(&b.method))
                .then_with(|| a.role.cmp(b.role))
        });
        let (samples, listed) = kept(shared, &history, query, public);
        for rpc in &listed {
            history.see(rpc);
        }
        let uptime = history.uptime().as_secs_f64();
        drop(history);
        let in_flight = in_flight(shared, query, public, true);
        let peers = config
            .peers
            .iter()
            .filter(|_| !public)
            .map(|(name, url)| Peer {
                name: name.to_string(),
                url: url.to_string(),
            });
        Self {
            schema: 1,
            name: config.name.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            access: access.as_str(),
            now: now(),
            uptime,
            peers: peers.collect(),
            figures,
            in_flight,
            methods,
            samples,
        }
    }
}

pub(super) fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

/// `seen` if a reader may follow a link to those that are listed.
pub(super) fn in_flight(shared: &Shared, query: &Query, public: bool, seen: bool) -> InFlight {
    let mut found: Vec<(Instant, Entry)> = Vec::new();
    let (mut total, mut untracked) = (0, 0);
    for shard in shared.shards.iter() {
        let entries: Vec<_> = shard.open().map(Entry::without_extra).collect();
        untracked += shard.untracked;
        total += entries.len() as u64 + shard.untracked;
        drop(shard);
        let matching = entries
            .into_iter()
            .filter(|entry| query.filter.matches_record(entry, &shared.rows, public));
        found.extend(matching.map(|entry| {
            let (now, age) = (Instant::now(), entry.rpc.stats().elapsed());
            (now.checked_sub(age).unwrap_or(now), entry)
        }));
    }
    let matching = found.len();
    let start = |(start, _): &(Instant, Entry)| *start;
    if matching > query.limit {
        found.select_nth_unstable_by_key(query.limit, start);
        found.truncate(query.limit);
    }
    found.sort_by_key(start);
    let rpcs = found.iter().map(|(_, entry)| {
        if seen {
            shared.shards.set_seen(entry);
        }
        let mut rpc = Rpc::row_of(entry);
        if public {
            rpc.hide_private(&shared.rows);
        }
        rpc
    });
    let rpcs: Vec<_> = rpcs.collect();
    InFlight {
        total,
        untracked,
        matching,
        left_out: matching - rpcs.len(),
        rpcs,
    }
}

/// The samples that match, and the ones of them that are listed.
fn kept(shared: &Shared, history: &History, query: &Query, public: bool) -> (Kept, Vec<Arc<Rpc>>) {
    let mut ids = HashSet::new();
    let all = history.kept().filter(|rpc| ids.insert(&*rpc.id));
    let mut total = 0;
    let mut matching: Vec<_> = all
        .inspect(|_| total += 1)
        .filter(|rpc| query.filter.matches(rpc, &shared.rows, public))
        .map(Arc::clone)
        .collect();
    let count = matching.len();
    let end = |rpc: &Arc<Rpc>| Reverse(((rpc.started + rpc.seconds) * 1e6) as u64);
    matching.sort_by_cached_key(end);
    matching.truncate(query.limit.min(SAMPLES));
    let rpcs = matching.iter().map(|rpc| {
        let mut rpc = Rpc::clone(rpc);
        rpc.events = Vec::new();
        rpc.children = Vec::new();
        if public {
            rpc.hide_private(&shared.rows);
        }
        rpc
    });
    let kept = Kept {
        rpcs: rpcs.collect(),
        total,
        bytes: sample::BYTES.saturating_sub(history.budget),
        most_bytes: sample::BYTES,
        left_out: history.samples_left_out,
        matching: count,
    };
    (kept, matching)
}

fn method(history: &History, row: &Row, figures: &RowHistory, public: bool) -> MethodRow {
    let counts = &figures.counts;
    let name = if public { row.public_name() } else { &row.name };
    let ([sent_messages, sent_bytes], [received_messages, received_bytes]) =
        (counts.sent, counts.received);
    let endings = LABELS.into_iter().zip(counts.endings);
    let (buckets, failed) = figures.samples.counts();
    MethodRow {
        role: row.role.as_str(),
        method: name.to_owned(),
        in_flight: counts.in_flight(),
        started: counts.started,
        ok: counts.ok,
        failed: counts.failed,
        discarded: counts.discarded,
        codes: by_code(counts),
        endings: endings.filter(|(_, count)| *count > 0).collect(),
        sent_messages,
        sent_bytes,
        received_messages,
        received_bytes,
        windows: windows(history, || std::iter::once(figures)),
        trend: history.trend(figures),
        samples: SampleCounts {
            latency: (0..BUCKETS)
                .zip(buckets)
                .map(|(bucket, samples)| Bucket {
                    from: bucket_start(bucket).as_secs_f64(),
                    samples,
                })
                .collect(),
            failed,
        },
        slowest: figures.samples.slowest().map(|rpc| rpc.id.clone()),
    }
}

fn by_code(counts: &Counts) -> BTreeMap<String, u64> {
    let grpc = Code::ALL.into_iter().zip(counts.codes);
    let grpc = grpc.filter(|(_, count)| *count > 0);
    let http = counts.http.iter().map(|(status, count)| match status {
        0 => ("none".to_owned(), *count),
        status => (status.to_string(), *count),
    });
    grpc.map(|(code, count)| (code.as_str().to_owned(), count))
        .chain(http)
        .collect()
}

fn windows<'a, I: Iterator<Item = &'a RowHistory>>(
    history: &History,
    rows: impl Fn() -> I,
) -> BTreeMap<&'static str, WindowFigures> {
    let figures = |window| (Window::key(window), history.figures(rows(), window).into());
    Window::ALL.into_iter().map(figures).collect()
}

impl From<Figures> for WindowFigures {
    fn from(figures: Figures) -> Self {
        let Figures {
            length,
            counts,
            p50,
            p90,
            p99,
            max,
        } = figures;
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        Self {
            seconds: length.as_secs_f64(),
            started: counts.started,
            finished: counts.finished,
            failed: counts.failed,
            rate: counts.finished as f64 / length.as_secs_f64().max(1.0),
            p50: seconds(p50),
            p90: seconds(p90),
            p99: seconds(p99),
            max: seconds(max),
            sent_bytes: counts.sent_bytes,
            received_bytes: counts.received_bytes,
        }
    }
}

/// One RPC with its children, if it runs or was kept.
pub(super) fn one(shared: &Shared, id: u64, access: Access) -> Option<Rpc> {
    let public = access != Access::Everything;
    let mut rpc = match shared.shards.find(id) {
        Some(entry) => {
            let mut rpc = Rpc::of(&entry, &shared.rows);
            add_running(&mut rpc.children, id, shared);
            rpc
        }
        None => {
            let text = super::format::id(id);
            let history = shared.update();
            Rpc::clone(history.kept().find(|rpc| rpc.id == text)?)
        }
    };
    if public {
        rpc.hide_private(&shared.rows);
    }
    Some(rpc)
}

/// RPCs with how deep they are: each behind its parent, if that is listed too.
pub(super) fn nested_order(rpcs: &[Rpc]) -> Vec<(usize, &Rpc)> {
    let listed: HashSet<_> = rpcs.iter().map(|rpc| &*rpc.id).collect();
    let mut below: BTreeMap<&str, Vec<&Rpc>> = BTreeMap::new();
    let mut stack = Vec::new();
    for rpc in rpcs.iter().rev() {
        match rpc
            .parent
            .as_deref()
            .filter(|parent| listed.contains(parent))
        {
            Some(parent) => below.entry(parent).or_default().push(rpc),
            None => stack.push((0, rpc)),
        }
    }
    let mut ordered = Vec::with_capacity(rpcs.len());
    while let Some((depth, rpc)) = stack.pop() {
        ordered.push((depth, rpc));
        let children = below.remove(&*rpc.id).unwrap_or_default();
        stack.extend(children.into_iter().map(|child| (depth + 1, child)));
    }
    ordered
}
