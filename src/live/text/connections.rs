use std::fmt::Write as _;

use super::{or, table, texts};
use crate::live::{
    connections::{Connection, ConnectionsPage, RPCS},
    format::{bytes, seconds},
};

pub(in crate::live) fn connections(page: &ConnectionsPage) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}  connections", page.name);
    for (role, totals) in &page.totals {
        let (open, opened) = (totals.open, totals.opened);
        let _ = write!(out, "{role}  open {open}  opened {opened}");
        for (end, ended) in &totals.ends {
            let _ = write!(out, "  {end} {ended}");
        }
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "\nOPEN  oldest first, {} left out{}",
        page.left_out,
        match page.untracked {
            0 => String::new(),
            more => format!(", {more} of them too many to track"),
        }
    );
    table(&rows(&page.open, "idle", |of| seconds(of.idle)), &mut out);
    rpcs(&page.open, &mut out);
    let _ = writeln!(out, "\nENDED  newest first");
    let end = |of: &Connection| {
        let end = of.end.clone().unwrap_or_default();
        match of.rpcs_cut_off {
            None | Some(0) => or(end, "–"),
            Some(cut_off) => format!("{end}, {cut_off} RPCs cut off"),
        }
    };
    table(&rows(&page.ended, "ended", end), &mut out);
    out
}

/// `last` has the last column, whose texts can be long.
fn rows(
    connections: &[Connection],
    last: &str,
    value: impl Fn(&Connection) -> String,
) -> Vec<Vec<String>> {
    let mut rows = vec![texts([
        "no.", "side", "peer", "age", "setup", "TLS", "RPCs", "sent", "received", last,
    ])];
    rows.extend(connections.iter().map(|of| {
        let peer = of.target.clone().or_else(|| of.peer.clone());
        let tls = match of.tls {
            Some(true) => "yes",
            Some(false) => "no",
            None => "–",
        };
        let rpcs = match (of.rpcs_running, of.rpcs_started) {
            (Some(running), Some(started)) => format!("{running} of {started}"),
            _ => "–".to_owned(),
        };
        vec![
            of.number.to_string(),
            of.role.to_owned(),
            or(peer.unwrap_or_default(), "–"),
            seconds(of.age),
            of.setup.map_or_else(|| "–".to_owned(), seconds),
            tls.to_owned(),
            rpcs,
            bytes(of.sent_bytes),
            bytes(of.received_bytes),
            value(of),
        ]
    }));
    rows
}

/// The RPCs in flight on each.
fn rpcs(connections: &[Connection], out: &mut String) {
    let mut rows = vec![texts(["no.", "id", "method", "age"])];
    for of in connections {
        let number = of.number.to_string();
        rows.extend(of.rpcs.iter().map(|rpc| {
            let (id, method) = (rpc.id.clone(), rpc.method.clone());
            vec![number.clone(), id, method, seconds(rpc.seconds)]
        }));
        if let more @ 1.. = of.more_rpcs(RPCS) {
            rows.push(vec![number, String::new(), format!("{more} more")]);
        }
    }
    if rows.len() > 1 {
        let _ = writeln!(out, "\nRPCS ON THEM  oldest first, {RPCS} of each");
        table(&rows, out);
    }
}
