//! Metrics of connections: gRFC A94 on clients, A118 for TLS, and own names shaped like Kestrel's on servers.

use std::io::ErrorKind;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, UpDownCounter},
};

use super::{OtelTracer, address::server, meters::Meters};
use crate::{
    Role,
    address::Target,
    connection::{ConnectionEnd, ConnectionInfo, ConnectionTracer},
    time::system_time,
};

/// Of Kestrel's connection durations, in seconds.
const LIFETIMES: [f64; 12] = [
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
];

/// Of Kestrel's TLS handshakes, in seconds.
const HANDSHAKES: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

#[derive(Debug)]
pub(super) struct Instruments {
    succeeded: Counter<u64>,
    failed: Counter<u64>,
    disconnections: Counter<u64>,
    open_client: UpDownCounter<i64>,
    open_http: UpDownCounter<i64>,
    duration_client: Histogram<f64>,
    handshakes: Counter<u64>,
    open_server: UpDownCounter<i64>,
    duration_server: Histogram<f64>,
    handshake: Histogram<f64>,
}

impl Instruments {
    pub(super) fn new(meters: &Meters<'_>) -> Self {
        let count = |name: &'static str, unit: &'static str, description: &'static str| {
            let counter = meters.of(name).u64_counter(name);
            counter
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        let open = |name: &'static str, description: &'static str| {
            let counter = meters.of(name).i64_up_down_counter(name);
            let counter = counter.with_unit("{connection}");
            counter.with_description(description).build()
        };
        let seconds = |name: &'static str, bounds: &[f64], description: &'static str| {
            let histogram = meters.of(name).f64_histogram(name).with_unit("s");
            let histogram = histogram.with_boundaries(bounds.to_vec());
            histogram.with_description(description).build()
        };
        Self {
            succeeded: count(
                "grpc.subchannel.connection_attempts_succeeded",
                "{attempt}",
                "Attempts to connect that succeeded.",
            ),
            failed: count(
                "grpc.subchannel.connection_attempts_failed",
                "{attempt}",
                "Attempts to connect that failed.",
            ),
            disconnections: count(
                "grpc.subchannel.disconnections",
                "{disconnection}",
                "Connections that were lost or closed.",
            ),
            open_client: open(
                "grpc.subchannel.open_connections",
                "Connections that are open.",
            ),
            open_http: open(
                "http.client.open_connections",
                "Number of outbound HTTP connections that are currently active or idle on the client.",
            ),
            duration_client: seconds(
                "http.client.connection.duration",
                &LIFETIMES,
                "Duration of outgoing connections.",
            ),
            handshakes: count(
                "grpc.server.tls.handshakes",
                "{handshake}",
                "TLS handshakes of a server, by their result.",
            ),
            open_server: open(
                "tower_tracer.server.active_connections",
                "Incoming connections that are open.",
            ),
            duration_server: seconds(
                "tower_tracer.server.connection.duration",
                &LIFETIMES,
                "Duration of incoming connections.",
            ),
            handshake: seconds(
                "tower_tracer.server.tls_handshake.duration",
                &HANDSHAKES,
                "Duration of TLS handshakes of incoming connections.",
            ),
        }
    }
}

/// A connection that [`OtelTracer`] counts as open, until it is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    target: Vec<KeyValue>,
    open: Vec<Open>,
}

/// One count that the connection is part of.
#[derive(Debug)]
struct Open {
    counter: UpDownCounter<i64>,
    attributes: Vec<KeyValue>,
}

impl Open {
    fn begin(counter: &UpDownCounter<i64>, attributes: Vec<KeyValue>) -> Self {
        counter.add(1, &attributes);
        Self {
            counter: counter.clone(),
            attributes,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counter.add(-1, &self.attributes);
    }
}

impl ConnectionTracer for OtelTracer {
    type State = OpenConnection;

    fn opened(&self, connection: &ConnectionInfo) -> OpenConnection {
        self.live()
            .instruments_at_start(system_time(), self.make_instruments());
        let target = connection.target().map(|target| {
            let target = self.wording.target(target);
            KeyValue::new("grpc.target", target.into_owned())
        });
        OpenConnection {
            target: target.into_iter().collect(),
            open: Vec::new(),
        }
    }

    fn ready(&self, state: &mut OpenConnection, connection: &ConnectionInfo) {
        let instruments = &self.live().instruments().connections;
        match connection.role() {
            Role::Client => {
                instruments.succeeded.add(1, &state.target);
                // A required attribute. Which connections are idle would take a hook for each RPC.
                let unknown = KeyValue::new("http.connection.state", "unknown");
                let mut attributes = server_of(connection);
                attributes.push(unknown);
                state.open = vec![
                    Open::begin(&instruments.open_client, state.target.clone()),
                    Open::begin(&instruments.open_http, attributes),
                ];
            }
            Role::Server => {
                if connection.is_tls() == Some(true) {
                    let seconds = connection.handshake_time().unwrap_or_default();
                    instruments.handshake.record(seconds.as_secs_f64(), &[]);
                    instruments.handshakes.add(1, &[result("SUCCESS")]);
                }
                state.open = vec![Open::begin(&instruments.open_server, Vec::new())];
            }
        }
    }

    fn closed(&self, state: OpenConnection, connection: &ConnectionInfo) {
        let Some(end) = connection.end() else { return };
        let instruments = &self.live().instruments().connections;
        let seconds = connection.age().as_secs_f64();
        let error = end.is_failure().then(|| error_type(end));
        match (connection.role(), connection.is_ready()) {
            (Role::Client, true) => {
                let why = KeyValue::new("grpc.disconnect_error", disconnect_error(connection, end));
                let attributes = [&state.target[..], &[why]].concat();
                instruments.disconnections.add(1, &attributes);
                let server = server_of(connection);
                instruments.duration_client.record(seconds, &server);
            }
            (Role::Client, false) if end.is_failure() => instruments.failed.add(1, &state.target),
            // An abandoned attempt counts as neither.
            (Role::Client, false) => {}
            (Role::Server, ready) => {
                if !ready && connection.is_tls() == Some(true) {
                    let failure = match connection.first_end() {
                        Some(ConnectionEnd::PeerClosed) => "PEER_CONNECTION_CLOSED",
                        _ => "UNKNOWN_FAILURE",
                    };
                    let error = KeyValue::new("error.type", failure);
                    instruments.handshake.record(seconds, &[error]);
                    instruments.handshakes.add(1, &[result(failure)]);
                }
                let attributes: Vec<_> = error.into_iter().collect();
                instruments.duration_server.record(seconds, &attributes);
            }
        }
    }
}

/// `server.address` and `server.port` of the target.
fn server_of(connection: &ConnectionInfo) -> Vec<KeyValue> {
    let target = connection.target();
    target
        .map(|target| server(Target::Configured(target)))
        .unwrap_or_default()
}

fn result(result: &'static str) -> KeyValue {
    KeyValue::new("grpc.tls.handshake.result", result)
}

fn error_type(end: ConnectionEnd) -> KeyValue {
    let kind = end.error_kind().map(|kind| kind.to_string());
    KeyValue::new(
        "error.type",
        kind.unwrap_or_else(|| end.as_str().to_owned()),
    )
}

/// In the words of A94.
fn disconnect_error(connection: &ConnectionInfo, end: ConnectionEnd) -> String {
    #[cfg(feature = "h2-frames")]
    if let Some(goaway) = connection.h2().and_then(|h2| h2.goaway_received()) {
        return format!("GOAWAY {}", goaway.code_name());
    }
    let _ = connection;
    let word = match end {
        ConnectionEnd::Closed => "subchannel shutdown",
        ConnectionEnd::Error(ErrorKind::ConnectionReset) => "connection reset",
        ConnectionEnd::Error(ErrorKind::TimedOut) => "connection timed out",
        ConnectionEnd::Error(ErrorKind::ConnectionAborted) => "connection aborted",
        ConnectionEnd::Error(_) => "socket error",
        _ => "unknown",
    };
    word.to_owned()
}
