use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use super::{
    cell::Done,
    children::Child,
    config::Config,
    desk::Desk,
    entry::{Entry, Extra, ParentId},
    history::History,
    links::Links,
    rows::Rows,
    rpc::Rpc,
    sample::Sample,
    shards::{Shards, Tracked, address_of},
    watch::Watchers,
};
use crate::{
    RequestParts, Role, RpcInfo, Tracer, method_names::is_answered, trace_id::TraceParent,
};

/// How often the figures are read, so that they have a history.
const TICK: Duration = Duration::from_secs(1);

/// What the layers of one [`Live`](super::Live) share with its pages.
pub(super) struct Shared {
    pub(super) rows: Rows,
    pub(super) shards: Shards,
    pub(super) history: Mutex<History>,
    pub(super) watchers: Watchers,
    pub(super) links: Links,
    pub(super) desk: Desk,
    #[cfg(feature = "connection")]
    pub(super) connections: super::connections::Connections,
}

impl Shared {
    pub(super) fn new() -> Arc<Self> {
        let shared = Arc::new(Self {
            rows: Rows::new(),
            shards: Shards::new(),
            history: Mutex::new(History::new()),
            watchers: Watchers::default(),
            links: Links::default(),
            desk: Desk::new(),
            #[cfg(feature = "connection")]
            connections: Default::default(),
        });
        let weak = Arc::downgrade(&shared);
        // Without the thread the figures are read when a page is asked for, and have no history.
        let _ = thread::Builder::new()
            .name("tower-tracer-live".to_owned())
            .spawn(move || keep_history(&weak));
        shared
    }

    /// Reads what was counted up to now.
    pub(super) fn update(&self) -> MutexGuard<'_, History> {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.update(&self.shards);
        history
    }
}

fn keep_history(shared: &Weak<Shared>) {
    loop {
        thread::sleep(TICK);
        match shared.upgrade() {
            Some(shared) => drop(shared.update()),
            None => return,
        }
    }
}

/// Counts RPCs and tracks those in flight; made by [`Live::tracer`](super::Live::tracer).
#[derive(Clone)]
pub struct LiveTracer {
    shared: Arc<Shared>,
    config: Arc<Config>,
}

/// What a [`LiveTracer`] has to know of an RPC in flight.
#[derive(Debug)]
pub struct InFlight {
    address: usize,
    row: u32,
    tracked: Tracked,
}

impl LiveTracer {
    pub(super) fn new(shared: Arc<Shared>, config: Arc<Config>) -> Self {
        Self { shared, config }
    }

    #[cfg(feature = "connection")]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Keeps a copy of an RPC that is over.
    #[cold]
    fn sample(&self, entry: &Entry, done: &Done, address: usize) {
        let rpc = Arc::new(Rpc::of(entry, &self.shared.rows));
        let nanos = done.nanos;
        self.shared.shards.of(address).keep(Sample {
            rpc,
            nanos,
            seen: entry.seen,
        });
    }

    #[cold]
    fn note_on_parent(&self, entry: &mut Entry, done: &Done) {
        let Some(parent) = entry.parent else { return };
        let children = entry.extra.as_mut().map(|extra| extra.children.clone());
        let shards = &self.shared.shards;
        shards.add_child(parent, entry.id, || Child {
            id: entry.id,
            row: entry.row,
            attempt: entry.rpc.attempt(),
            at: parent.at,
            nanos: done.nanos,
            status: done.status,
            ending: done.ending.map(|(_, ending)| ending),
            failed: done.failed,
            children: children.unwrap_or_default(),
        });
    }

    /// An RPC that is over is found no more.
    #[inline]
    fn unlink(&self, entry: &Entry) {
        if let (Some(trace), Role::Client) = (trace_of(&entry.extra), entry.rpc.role()) {
            self.shared.links.remove(&trace, entry.id);
        }
    }

    /// The client call that a server's RPC answers, if that is in flight on this page.
    #[cold]
    fn caller(&self, trace: &TraceParent) -> Option<ParentId> {
        let (id, address) = self.shared.links.find(trace)?;
        self.shared.shards.parent_at(id, address)
    }

    /// Makes the way across the wire known, from both of its ends. The call may end before the RPC that
    /// serves it, so that is noted at once.
    #[cold]
    fn link(
        &self,
        trace: &TraceParent,
        rpc: &RpcInfo,
        id: u64,
        caller: Option<ParentId>,
        row: u32,
    ) {
        match (rpc.role(), caller) {
            (Role::Client, _) => self.shared.links.add(trace, id, address_of(rpc)),
            (Role::Server, Some(caller)) => self.shared.shards.add_child(caller, id, || Child {
                id,
                row,
                attempt: rpc.attempt(),
                at: caller.at,
                nanos: 0,
                status: None,
                ending: None,
                failed: false,
                children: Vec::new(),
            }),
            _ => {}
        }
    }
}

/// The ids of a trace that an RPC has, if the page links to traces.
#[inline]
fn trace_of(extra: &Option<Box<Extra>>) -> Option<TraceParent> {
    extra.as_ref().and_then(|extra| extra.trace)
}

impl Tracer for LiveTracer {
    type State = InFlight;

    #[inline]
    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> InFlight {
        let Self { shared, config } = self;
        let row = shared.rows.of(rpc);
        let address = address_of(rpc);
        let mut parent = shared.shards.parent_of(rpc);
        let extra = config.extra_of(request);
        let trace = trace_of(&extra);
        let mut caller = None;
        if let (Role::Server, Some(trace), None) = (rpc.role(), &trace, parent) {
            caller = self.caller(trace);
            parent = caller;
        }
        let mut own_id = 0;
        let tracked = shared.shards.of(address).start(address, row, |id| {
            own_id = id;
            Entry {
                rpc: rpc.clone(),
                id,
                row,
                parent,
                seen: false,
                extra,
            }
        });
        if let (Some(trace), Tracked::Yes) = (&trace, tracked) {
            self.link(trace, rpc, own_id, caller, row);
        }
        InFlight {
            address,
            row,
            tracked,
        }
    }

    #[inline]
    fn finish(&self, state: InFlight, rpc: &RpcInfo) {
        let InFlight {
            address,
            row,
            tracked,
        } = state;
        let done = Done::of(rpc);
        let mut shard = self.shared.shards.of(address);
        let entry = shard.remove(address, tracked);
        let wanted = shard.cell(row).finish(&done);
        drop(shard);
        // A failure is another matter: a server does not fail at a method that it does not have.
        if is_answered(rpc) {
            self.shared.rows.answered(row, rpc);
        }
        let Some(mut entry) = entry else { return };
        self.unlink(&entry);
        let kept = wanted || entry.seen;
        if kept {
            self.sample(&entry, &done, address);
        }
        if self.shared.watchers.any() {
            self.shared.watchers.offer(&entry, &self.shared.rows, kept);
        }
        if entry.parent.is_some() {
            self.note_on_parent(&mut entry, &done);
        }
    }

    fn discard(&self, state: InFlight) {
        let InFlight {
            address,
            row,
            tracked,
        } = state;
        let mut shard = self.shared.shards.of(address);
        let entry = shard.remove(address, tracked);
        shard.cell(row).discard();
        drop(shard);
        if let Some(entry) = entry {
            self.unlink(&entry);
            if let (Some(parent), true) = (entry.parent, entry.extra.is_some()) {
                self.shared.shards.remove_child(parent, entry.id);
            }
        }
    }
}

impl std::fmt::Debug for LiveTracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveTracer").finish_non_exhaustive()
    }
}
