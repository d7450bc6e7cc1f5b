//! What is counted of connections.

use ::metrics::{Gauge, Label};

use super::{
    MetricsTracer,
    names::{ConnectionFamily, Family},
};
use crate::connection::{ConnectionInfo, ConnectionTracer};

/// A connection that [`MetricsTracer`] counts as open, until it is dropped.
#[derive(Default)]
pub struct OpenConnection {
    /// Whether there was a recorder when it was opened.
    counted: bool,
    open: Option<Gauge>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.decrement(1.0);
        }
    }
}

impl std::fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenConnection")
            .field("counted", &self.counted)
            .field("ready", &self.open.is_some())
            .finish()
    }
}

impl MetricsTracer {
    fn count(
        &self,
        family: ConnectionFamily,
        connection: &ConnectionInfo,
        labels: &[Label],
        by: u64,
    ) {
        let family = Family::Connection(family);
        self.registry
            .counter(family, connection.role(), labels)
            .increment(by);
    }

    fn measure(&self, family: ConnectionFamily, connection: &ConnectionInfo, seconds: f64) {
        let (family, labels) = (Family::Connection(family), labels(connection));
        self.registry
            .histogram(family, connection.role(), &labels)
            .record(seconds);
    }
}

fn labels(connection: &ConnectionInfo) -> [Label; 1] {
    [Label::from_static_parts("role", connection.role().as_str())]
}

impl ConnectionTracer for MetricsTracer {
    type State = OpenConnection;

    fn opened(&self, connection: &ConnectionInfo) -> OpenConnection {
        let counted = self.registry.is_ready();
        if counted {
            self.count(ConnectionFamily::Opened, connection, &labels(connection), 1);
        }
        OpenConnection {
            counted,
            open: None,
        }
    }

    fn ready(&self, state: &mut OpenConnection, connection: &ConnectionInfo) {
        if !state.counted {
            return;
        }
        let setup = connection.connect_time().or(connection.handshake_time());
        let seconds = setup.unwrap_or_default().as_secs_f64();
        self.measure(ConnectionFamily::Setup, connection, seconds);
        let family = Family::Connection(ConnectionFamily::Open);
        let role = connection.role();
        let open = self.registry.gauge(family, role, &labels(connection));
        open.increment(1.0);
        state.open = Some(open);
    }

    fn closed(&self, state: OpenConnection, connection: &ConnectionInfo) {
        if !state.counted {
            return;
        }
        let [role] = labels(connection);
        if let Some(end) = connection.end() {
            let end = Label::from_static_parts("end", end.as_str());
            self.count(
                ConnectionFamily::Closed,
                connection,
                &[role.clone(), end],
                1,
            );
        }
        if connection.is_ready() {
            let seconds = connection.age().as_secs_f64();
            self.measure(ConnectionFamily::Lifetime, connection, seconds);
        }
        let (sent, received) = (connection.sent().bytes(), connection.received().bytes());
        let role = &[role];
        self.count(ConnectionFamily::Sent, connection, role, sent);
        self.count(ConnectionFamily::Received, connection, role, received);
    }
}
