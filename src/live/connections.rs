//! Connections: those that are open, and the last ones that ended.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

use serde::Serialize;

use super::{
    Access, LiveTracer, config::Config, filter::MOST, format::visible, page::now, rpc::Rpc,
    shards::address_of, tracer::Shared,
};
use crate::{
    Role, RpcInfo,
    connection::{ConnectionInfo, ConnectionTracer},
};

/// How many open connections are tracked. More are only counted.
const TRACKED: usize = 10_000;
/// How many that ended are kept.
const ENDED: usize = 64;
/// How many RPCs of each connection are listed.
const RPCS: usize = 10;
/// Where an address is cut.
const NAME: usize = 256;

/// The connections of a page.
#[derive(Default)]
pub(super) struct Connections(Mutex<State>);

#[derive(Default)]
struct State {
    open: BTreeMap<u64, ConnectionInfo>,
    ended: VecDeque<ConnectionInfo>,
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
        let mut state = self.shared().connections.lock();
        state.open.remove(&connection.number());
        let totals = state.totals(connection.role());
        totals.open = totals.open.saturating_sub(1);
        if let Some(end) = connection.end() {
            *totals.ends.entry(end.as_str()).or_default() += 1;
        }
        state.ended.push_front(connection.clone());
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
    /// The newest first.
    pub(super) ended: Vec<Connection>,
}

#[derive(Debug, Serialize)]
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
    pub(super) rpcs_started: u64,
    pub(super) rpcs_running: usize,
    pub(super) rpcs_cut_off: u64,
    pub(super) end: Option<String>,
    /// The first of those in flight that the page tracks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) rpcs: Vec<OnIt>,
}

/// An RPC in flight on a connection.
#[derive(Debug, Serialize)]
pub(super) struct OnIt {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) seconds: f64,
}

impl ConnectionsPage {
    pub(super) fn of(shared: &Shared, config: &Config, limit: usize, access: Access) -> Self {
        let state = shared.connections.lock();
        let open: Vec<_> = state.open.values().take(limit.min(MOST)).cloned().collect();
        let ended: Vec<_> = state.ended.iter().cloned().collect();
        let totals = [
            ("client", state.client.clone()),
            ("server", state.server.clone()),
        ];
        let all = state.client.open + state.server.open;
        drop(state);
        let public = access != Access::Everything;
        let copy = |connection: &ConnectionInfo| Connection::of(connection, shared, public);
        Self {
            schema: 1,
            name: config.name.to_string(),
            access: access.as_str(),
            now: now(),
            totals: totals.into(),
            left_out: all.saturating_sub(open.len() as u64),
            open: open.iter().map(copy).collect(),
            ended: ended.iter().map(copy).collect(),
        }
    }
}

impl Connection {
    fn of(connection: &ConnectionInfo, shared: &Shared, public: bool) -> Self {
        let text = |text: String| visible(&text, NAME).into_owned();
        let private = |value: Option<String>| value.filter(|_| !public).map(text);
        let opened = connection.opened_at().duration_since(UNIX_EPOCH);
        let setup = connection.connect_time().or(connection.handshake_time());
        let running = connection.rpcs();
        Self {
            number: connection.number(),
            role: connection.role().as_str(),
            local: private(connection.local().map(|address| address.to_string())),
            peer: private(connection.peer().map(|address| address.to_string())),
            target: private(connection.target().map(str::to_owned)),
            opened: opened.unwrap_or_default().as_secs_f64(),
            age: connection.age().as_secs_f64(),
            idle: connection.idle().as_secs_f64(),
            ready: connection.is_ready(),
            setup: setup.map(|setup| setup.as_secs_f64()),
            tls: connection.is_tls(),
            sent_bytes: connection.sent().bytes(),
            received_bytes: connection.received().bytes(),
            rpcs_started: connection.rpcs_started(),
            rpcs_running: running.len(),
            rpcs_cut_off: connection.rpcs_cut_off(),
            end: connection.end().map(|end| end.to_string()),
            rpcs: running
                .iter()
                .filter_map(|rpc| OnIt::of(rpc, shared, public))
                .take(RPCS)
                .collect(),
        }
    }
}

impl OnIt {
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
