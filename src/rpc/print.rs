//! How a record is printed: `{}` is one line, `{:?}` has all that a person wants to see. Unknown
//! figures are left out.

use std::fmt;

use super::{Protocol, RpcInfo, Stats, Traffic};

/// How many bytes of a path are printed.
const PATH: usize = 256;

/// One line: method, role, status, ending, milliseconds, and what was sent and received as
/// messages/bytes of messages. `-` is unknown. The fields of several lines align in columns.
///
/// The path is printed if it does not name a method; for plain HTTP the HTTP method comes before
/// it. Control characters are escaped. A running RPC has the ending `running` and its time so far.
impl fmt::Display for RpcInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        let method = match (self.full_method(), self.http_method(), self.protocol()) {
            (Some(method), ..) => method.to_owned(),
            (None, Some(method), Protocol::Http) => {
                format!("{method:.16} {}", printable(self.path()))
            }
            _ => printable(self.path()),
        };
        let role = self.role();
        let status = stats.status();
        let status = status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        let ending = stats.ending().map_or("running", |ending| ending.as_str());
        let millis = stats.elapsed().as_secs_f64() * 1e3;
        let (sent, received) = (figures(stats.sent()), figures(stats.received()));
        write!(
            f,
            "{method:<36} {role:<6} {status:<17} {ending:<12} {millis:>8.3} ms  \
             sent {sent:<6} received {received}"
        )
    }
}

/// Messages and their bytes. What is not known is not zero.
fn figures(traffic: Traffic) -> String {
    match (
        traffic.messages(),
        traffic.message_bytes(),
        traffic.body_bytes(),
    ) {
        (Some(messages), Some(bytes), _) => format!("{messages}/{bytes}"),
        (_, _, Some(bytes)) => format!("-/{bytes}"),
        _ => "-".to_owned(),
    }
}

fn printable(path: &str) -> String {
    crate::text::bounded(path, PATH).escape_debug().to_string()
}

impl fmt::Debug for RpcInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Fields(f.debug_struct("RpcInfo"));
        all.some("role", Some(self.role()));
        all.some("protocol", Some(self.protocol()));
        match self.full_method() {
            Some(method) => all.0.field("method", &method),
            None => all
                .0
                .field("path", &crate::text::bounded(self.path(), PATH)),
        };
        all.some("http_method", self.http_method());
        all.some("peer", self.peer().address());
        all.some(
            "attempt",
            Some(self.attempt()).filter(|attempt| *attempt > 1),
        );
        all.0.field("stats", self.stats());
        all.0.finish()
    }
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Fields(f.debug_struct("Stats"));
        all.some("status", self.status());
        all.some("ending", self.ending());
        let unlike = self
            .wire_status()
            .filter(|wire| self.status() != Some(*wire));
        all.some("wire_status", unlike);
        all.some("http_status", self.http_status());
        match self.duration() {
            Some(cost) => all.0.field("cost", &cost),
            None => all.0.field("age", &self.elapsed()),
        };
        all.0.field("request", &self.request());
        all.0.field("response", &self.response());
        all.some("attempts", Some(self.attempts()).filter(|made| *made > 0));
        if let Some(error) = self.error() {
            all.0.field("error", &error);
        }
        if let Some(panic) = self.panic() {
            all.0.field("panic", &panic);
        }
        if let Some(extra) = self.extra_if_any() {
            let tags = extra.tags().clone();
            if !tags.is_empty() {
                let tags: std::collections::BTreeMap<_, _> = tags.into_iter().collect();
                all.0.field("tags", &tags);
            }
            let names: Vec<_> = self.user_events().iter().map(|r| r.event.name()).collect();
            if !names.is_empty() {
                all.0.field("events", &names);
            }
        }
        all.0.finish()
    }
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Fields(f.debug_struct("Traffic"));
        all.some("messages", self.messages());
        let compressed = self.compressed_messages().filter(|messages| *messages > 0);
        all.some("compressed_messages", compressed);
        all.some("message_bytes", self.message_bytes());
        all.some("body_bytes", self.body_bytes());
        all.some("is_complete", Some(self.is_complete()));
        all.some("truncated", self.truncated().then_some(true));
        all.0.finish()
    }
}

/// Prints fields by `Display`, and leaves out those that are `None`.
struct Fields<'a, 'b>(fmt::DebugStruct<'a, 'b>);

impl Fields<'_, '_> {
    fn some(&mut self, name: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.0.field(name, &format_args!("{value}"));
        }
    }
}
