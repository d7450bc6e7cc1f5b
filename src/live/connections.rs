//! Connections: those that are open, and the last ones that ended.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Instant, UNIX_EPOCH},
};

use serde::Serialize;

use super::{
    Access, LiveTracer, config::Config, filter::MOST, format::visible, page::now, rpc::Rpc,
    shards::address_of, tracer::Shared,
};
use crate::{
    Role, RpcInfo,
    connection::{ConnectionInfo, ConnectionTracer},
    rpc::Address,
};

/// How many open connections are tracked. More are only counted.
const TRACKED: usize = 10_000;
/// How many that ended are kept.
const ENDED: usize = 64;
/// How many RPCs of each connection are listed.
pub(super) const RPCS: usize = 10;
/// Where an address is cut.
const NAME: usize = 256;

/// The connections of a page.
#[derive(Default)]
pub(super) struct Connections(Mutex<State>);

#[derive(Default)]
struct State {
    open: BTreeMap<u64, ConnectionInfo>,
    /// Copies: a record would hold the RPCs that were cut off.
    ended: VecDeque<Connection>,
    client: Totals,
    server: Totals,
}

/// What was counted on one side.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Totals {
    pub(super) opened: u64,
    pub(super) open: u64,
    /// By how they ended.
    pub(super) ends: BTreeMap<&'static str, u64>,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn totals(&mut self, role: Role) -> &mut Totals {
        match role {
            Role::Client => &mut self.client,
            Role::Server => &mut self.server,
        }
    }
}

impl ConnectionTracer for LiveTracer {
    type State = ();

    fn opened(&self, connection: &ConnectionInfo) {
        let mut state = self.shared().connections.lock();
        let totals = state.totals(connection.role());
        totals.opened += 1;
        totals.open += 1;
        if state.open.len() < TRACKED {
            let number = connection.number();
            state.open.insert(number, connection.clone());
        }
    }

    fn closed(&self, (): (), connection: &ConnectionInfo) {
        let copy = Connection::of(connection);
        let mut state = self.shared().connections.lock();
        state.open.remove(&connection.number());
        let totals = state.totals(connection.role());
        totals.open = totals.open.saturating_sub(1);
        if let Some(end) = connection.end() {
            *totals.ends.entry(end.as_str()).or_default() += 1;
        }
        state.ended.push_front(copy);
        let oldest = match state.ended.len() > ENDED {
            true => state.ended.pop_back(),
            false => None,
        };
        drop(state);
        drop(oldest);
    }
}

/// The page of connections. Times are seconds.
#[derive(Debug, Serialize)]
pub(super) struct ConnectionsPage {
    pub(super) schema: u32,
    pub(super) name: String,
    pub(super) access: &'static str,
    pub(super) now: f64,
    pub(super) totals: BTreeMap<&'static str, Totals>,
    /// The oldest first.
    pub(super) open: Vec<Connection>,
    /// Open ones that are not listed.
    pub(super) left_out: u64,
    /// Those of them that were too many to be tracked.
    pub(super) untracked: u64,
    /// The newest first.
    pub(super) ended: Vec<Connection>,
}

/// A copy of what is known of a connection, with its texts cut.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) role: &'static str,
    /// With full access.
    pub(super) local: Option<String>,
    pub(super) peer: Option<String>,
    pub(super) target: Option<String>,
    /// Unix time of its opening.
    pub(super) opened: f64,
    pub(super) age: f64,
    pub(super) idle: f64,
    pub(super) ready: bool,
    /// How long it took to connect, or the TLS handshake.
    pub(super) setup: Option<f64>,
    pub(super) tls: Option<bool>,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    /// `None` if it is unknown which RPCs are on it.
    pub(super) rpcs_started: Option<u64>,
    pub(super) rpcs_running: Option<usize>,
    pub(super) rpcs_cut_off: Option<u64>,
    pub(super) end: Option<String>,
    /// The oldest of those in flight that the page tracks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) rpcs: Vec<OnIt>,
}

/// An RPC in flight on a connection.
#[derive(Debug, Clone, Serialize)]
pub(super) struct OnIt {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) seconds: f64,
}

impl ConnectionsPage {
    pub(super) fn of(shared: &Shared, config: &Config, limit: usize, access: Access) -> Self {
        let state = shared.connections.lock();
        let listed: Vec<_> = state.open.values().take(limit.min(MOST)).cloned().collect();
        let mut ended: Vec<_> = state.ended.iter().cloned().collect();
        let totals = [
            ("client", state.client.clone()),
            ("server", state.server.clone()),
        ];
        let all = state.client.open + state.server.open;
        let tracked = state.open.len() as u64;
        drop(state);
        let public = access != Access::Everything;
        let mut open: Vec<_> = listed
            .iter()
            .map(|connection| {
                let mut copy = Connection::of(connection);
                copy.rpcs = OnIt::all_of(connection, shared, public);
                copy
            })
            .collect();
        if public {
            open.iter_mut()
                .chain(&mut ended)
                .for_each(Connection::hide_private);
        }
        Self {
            schema: 1,
            name: config.name.to_string(),
            access: access.as_str(),
            now: now(),
            totals: totals.into(),
            left_out: all.saturating_sub(open.len() as u64),
            untracked: all.saturating_sub(tracked),
            open,
            ended,
        }
    }
}

impl Connection {
    /// Without its RPCs.
    fn of(connection: &ConnectionInfo) -> Self {
        let text = |text: &str| visible(text, NAME).into_owned();
        let address = |address: Option<Address<'_>>| Some(text(&address?.to_string()));
        let opened = connection.opened_at().duration_since(UNIX_EPOCH);
        let setup = connection.connect_time().or(connection.handshake_time());
        let end = connection.end();
        let started = connection.rpcs_started();
        // A server finds the RPCs of a connection by its peer's address; a client may not find any.
        let by_address = connection.role() == Role::Server
            && matches!(connection.peer(), Some(Address::Socket(_)));
        let known = started > 0 || by_address;
        Self {
            number: connection.number(),
            role: connection.role().as_str(),
            local: address(connection.local()),
            peer: address(connection.peer()),
            target: connection.target().map(text),
            opened: opened.unwrap_or_default().as_secs_f64(),
            age: connection.age().as_secs_f64(),
            idle: connection.idle().as_secs_f64(),
            ready: connection.is_ready(),
            setup: setup.map(|setup| setup.as_secs_f64()),
            tls: connection.is_tls(),
            sent_bytes: connection.sent().bytes(),
            received_bytes: connection.received().bytes(),
            rpcs_started: known.then_some(started),
            rpcs_running: known.then(|| match end {
                Some(_) => 0,
                None => connection.rpcs_running(),
            }),
            rpcs_cut_off: known.then(|| connection.rpcs_cut_off()),
            end: end.map(|end| end.to_string()),
            rpcs: Vec::new(),
        }
    }

    /// Takes out what a reader who may see figures and no more must not see.
    fn hide_private(&mut self) {
        self.local = None;
        self.peer = None;
        self.target = None;
    }

    /// RPCs in flight on it that are not among its first `listed`.
    pub(super) fn more_rpcs(&self, listed: usize) -> usize {
        let listed = self.rpcs.len().min(listed);
        self.rpcs_running.unwrap_or_default().saturating_sub(listed)
    }
}

impl OnIt {
    /// The oldest that the page tracks.
    fn all_of(connection: &ConnectionInfo, shared: &Shared, public: bool) -> Vec<Self> {
        let mut running = connection.rpcs();
        running.sort_by_cached_key(|rpc| {
            let (now, age) = (Instant::now(), rpc.stats().elapsed());
            now.checked_sub(age).unwrap_or(now)
        });
        let tracked = running
            .iter()
            .filter_map(|rpc| Self::of(rpc, shared, public));
        tracked.take(RPCS).collect()
    }

    /// `None` if the page does not track it.
    fn of(rpc: &RpcInfo, shared: &Shared, public: bool) -> Option<Self> {
        let entry = shared.shards.tracked(address_of(rpc))?;
        shared.shards.set_seen(&entry);
        let mut row = Rpc::row_of(&entry);
        if public {
            row.hide_private(&shared.rows);
        }
        Some(Self {
            id: row.id,
            method: row.method,
            seconds: row.seconds,
        })
    }
}
