//! Connections have a log of their own, of the hooks in order.

use super::RecordingTracer;
use crate::connection::{ConnectionInfo, ConnectionTracer};

pub(super) struct Line {
    connection: ConnectionInfo,
    text: String,
    /// How many entries of RPCs were there before.
    after: usize,
}

impl RecordingTracer {
    /// All it saw of connections, in order, a short line each: `opened server`, `ready server`,
    /// `closed server peer_closed`.
    #[must_use]
    pub fn connection_log(&self) -> Vec<String> {
        let seen = self.seen();
        let lines = seen.connections.iter().map(|line| line.text.clone());
        lines.collect()
    }

    /// The lines of [`log`](Self::log) and of [`connection_log`](Self::connection_log), in the order in
    /// which it saw them.
    #[must_use]
    pub fn full_log(&self) -> Vec<String> {
        let seen = self.seen();
        let mut log = Vec::with_capacity(seen.entries.len() + seen.connections.len());
        let mut connections = seen.connections.iter().peekable();
        for (index, entry) in seen.entries.iter().enumerate() {
            while let Some(line) = connections.next_if(|line| line.after <= index) {
                log.push(line.text.clone());
            }
            log.push(entry.what.to_string());
        }
        log.extend(connections.map(|line| line.text.clone()));
        log
    }

    /// The connections that were opened, in that order.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let seen = self.seen();
        let opened = seen
            .connections
            .iter()
            .filter(|line| line.text.starts_with("opened"));
        opened.map(|line| line.connection.clone()).collect()
    }

    fn push_connection(&self, connection: &ConnectionInfo, text: String) {
        let mut seen = self.seen();
        let line = Line {
            connection: connection.clone(),
            text,
            after: seen.entries.len(),
        };
        seen.connections.push(line);
    }
}

impl ConnectionTracer for RecordingTracer {
    type State = ();

    fn opened(&self, connection: &ConnectionInfo) {
        self.push_connection(connection, format!("opened {}", connection.role()));
    }

    fn ready(&self, (): &mut (), connection: &ConnectionInfo) {
        self.push_connection(connection, format!("ready {}", connection.role()));
    }

    fn closed(&self, (): (), connection: &ConnectionInfo) {
        let end = connection.end().map_or("", |end| end.as_str());
        self.push_connection(connection, format!("closed {} {end}", connection.role()));
    }
}
