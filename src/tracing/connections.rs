//! A line per connection that was opened or closed.

use ::tracing::{Level, event};

use super::TracingTracer;
use crate::{
    connection::{ConnectionInfo, ConnectionTracer},
    text::escape,
};

const TARGET: &str = "tower_tracer::connection";

/// How much of a name is written.
const NAME: usize = 256;

/// A line when a connection is ready and one when it is closed, at DEBUG; a failure is WARN.
impl ConnectionTracer for TracingTracer {
    type State = ();

    fn opened(&self, _: &ConnectionInfo) {}

    fn ready(&self, (): &mut (), connection: &ConnectionInfo) {
        let setup = connection.connect_time().or(connection.handshake_time());
        event!(
            target: TARGET,
            Level::DEBUG,
            number = connection.number(),
            role = connection.role().as_str(),
            peer = peer(connection),
            target = target(connection),
            setup_ms = setup.map(|setup| setup.as_micros() as f64 / 1000.0),
            "connection ready"
        );
    }

    fn closed(&self, (): (), connection: &ConnectionInfo) {
        macro_rules! log {
            ($level:expr, $message:literal) => {
                event!(
                    target: TARGET,
                    $level,
                    number = connection.number(),
                    role = connection.role().as_str(),
                    peer = peer(connection),
                    target = target(connection),
                    attempt = connection.attempt().filter(|attempt| *attempt > 1),
                    end = connection.end().map(|end| end.to_string()),
                    age_ms = connection.age().as_micros() as f64 / 1000.0,
                    sent_bytes = connection.sent().bytes(),
                    received_bytes = connection.received().bytes(),
                    rpcs_started = connection.rpcs_started(),
                    rpcs_cut_off = connection.rpcs_cut_off(),
                    $message
                )
            };
        }
        match connection.end().is_some_and(|end| end.is_failure()) {
            true => log!(Level::WARN, "connection failed"),
            false => log!(Level::DEBUG, "connection closed"),
        }
    }
}

fn peer(connection: &ConnectionInfo) -> Option<String> {
    let peer = connection.peer()?.to_string();
    Some(escape(&peer, NAME).into_owned())
}

fn target(connection: &ConnectionInfo) -> Option<String> {
    Some(escape(connection.target()?, NAME).into_owned())
}
