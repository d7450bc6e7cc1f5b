//! What is counted of connections.

use std::fmt;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use super::PrometheusTracer;
use crate::{
    buckets,
    connection::{ConnectionInfo, ConnectionTracer},
};

type Labels = Vec<(&'static str, &'static str)>;

/// Makes the histograms.
#[derive(Clone)]
struct NewSeconds;

impl MetricConstructor<Histogram> for NewSeconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(buckets::SECONDS)
    }
}

/// The families of connections.
pub(super) struct Connections {
    opened: Family<Labels, Counter>,
    open: Family<Labels, Gauge>,
    closed: Family<Labels, Counter>,
    setup: Family<Labels, Histogram, NewSeconds>,
    lifetime: Family<Labels, Histogram, NewSeconds>,
    sent: Family<Labels, Counter>,
    received: Family<Labels, Counter>,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self {
            opened: Family::default(),
            open: Family::default(),
            closed: Family::default(),
            setup: Family::new_with_constructor(NewSeconds),
            lifetime: Family::new_with_constructor(NewSeconds),
            sent: Family::default(),
            received: Family::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "rpc_connections_opened",
            "Connections that were accepted, and attempts to connect",
            self.opened.clone(),
        );
        registry.register(
            "rpc_connections_open",
            "Connections that are ready and not closed",
            self.open.clone(),
        );
        registry.register(
            "rpc_connections_closed",
            "Connections and attempts that ended, by the reason",
            self.closed.clone(),
        );
        registry.register_with_unit(
            "rpc_connection_setup",
            "Time until a connection was ready: to connect, or its TLS handshake",
            Unit::Seconds,
            self.setup.clone(),
        );
        registry.register_with_unit(
            "rpc_connection_lifetime",
            "Time from the opening of connections that were ready to their close",
            Unit::Seconds,
            self.lifetime.clone(),
        );
        registry.register(
            "rpc_connection_sent_bytes",
            "Bytes that this side sent on connections that are closed",
            self.sent.clone(),
        );
        registry.register(
            "rpc_connection_received_bytes",
            "Bytes that this side received on connections that are closed",
            self.received.clone(),
        );
    }
}

/// A connection that [`PrometheusTracer`] counts as open, until it is dropped.
#[derive(Default)]
pub struct OpenConnection {
    open: Option<Gauge>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.dec();
        }
    }
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenConnection")
            .field("ready", &self.open.is_some())
            .finish()
    }
}

fn labels(connection: &ConnectionInfo) -> Labels {
    vec![("role", connection.role().as_str())]
}

impl ConnectionTracer for PrometheusTracer {
    type State = OpenConnection;

    fn opened(&self, connection: &ConnectionInfo) -> OpenConnection {
        let families = &self.shared.connections;
        families.opened.get_or_create(&labels(connection)).inc();
        OpenConnection::default()
    }

    fn ready(&self, state: &mut OpenConnection, connection: &ConnectionInfo) {
        let (families, labels) = (&self.shared.connections, labels(connection));
        let setup = connection.connect_time().or(connection.handshake_time());
        let seconds = setup.unwrap_or_default().as_secs_f64();
        families.setup.get_or_create(&labels).observe(seconds);
        let open = families.open.get_or_create_owned(&labels);
        open.inc();
        state.open = Some(open);
    }

    fn closed(&self, _: OpenConnection, connection: &ConnectionInfo) {
        let (families, mut labels) = (&self.shared.connections, labels(connection));
        let (sent, received) = (connection.sent().bytes(), connection.received().bytes());
        families.sent.get_or_create(&labels).inc_by(sent);
        families.received.get_or_create(&labels).inc_by(received);
        if connection.is_ready() {
            let seconds = connection.age().as_secs_f64();
            families.lifetime.get_or_create(&labels).observe(seconds);
        }
        if let Some(end) = connection.end() {
            labels.push(("end", end.as_str()));
            families.closed.get_or_create(&labels).inc();
        }
    }
}
