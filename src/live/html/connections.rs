use maud::{Markup, html};

use super::{frame, link};
use crate::live::{
    connections::{Connection, ConnectionsPage, RPCS, Totals},
    filter::MOST,
    format::{bytes, count, seconds, visible},
};

/// How many that ended are listed.
const ENDED: usize = 20;
/// How many RPCs of all connections are listed; at least one of each connection that has any.
const ALL_RPCS: usize = 100;

pub(in crate::live) fn connections(page: &ConnectionsPage) -> String {
    let head = html! {
        header {
            h1 { a href="?" { (page.name) } }
            nav {
                a href="?" { "all RPCs" }
                a href=(link(&[("view", "connections"), ("format", "json")])) { "json" }
                button id="live" type="button" hidden aria-pressed="true" { "● live" }
            }
        }
    };
    let busy = page.open.iter().filter(|of| !of.rpcs.is_empty()).count();
    let rpcs = (ALL_RPCS / busy.max(1)).clamp(1, RPCS);
    let ended = page.ended.get(..ENDED).unwrap_or(&page.ended);
    let body = html! {
        div.strip {
            @for (role, totals) in &page.totals { (totals_of(role, totals)) }
        }
        section aria-labelledby="h-open" {
            h2 id="h-open" {
                "Open connections "
                small {
                    "oldest first · " (count(page.left_out)) " left out"
                    @if page.left_out > page.untracked && page.open.len() < MOST { " · " a href=(link(&[("view", "connections"), ("limit", "200")])) { "list " (MOST) } }
                    @if page.untracked > 0 { " · " (count(page.untracked)) " of them too many to track" }
                }
            }
            (table(&page.open, Some(rpcs)))
        }
        section aria-labelledby="h-ended" {
            h2 id="h-ended" {
                "Ended "
                small { "the last " (ended.len()) ", newest first" @for (role, totals) in &page.totals { (ends(role, totals)) } }
            }
            (table(ended, None))
        }
    };
    let foot = html! { "Bytes are those on the wire: with TLS encrypted. Where it is unknown which RPCs are on a connection, there is a dash. Read-only." };
    frame("connections", &head, &body, &foot)
}

fn totals_of(role: &str, totals: &Totals) -> Markup {
    let failed: u64 = ["error", "handshake_failed", "connect_failed"]
        .iter()
        .filter_map(|end| totals.ends.get(end))
        .sum();
    html! {
        div { b.run { (count(totals.open)) } span { "open, " (role) } }
        div { b { (count(totals.opened)) } span { "opened, " (role) } }
        div { b class=(if failed > 0 { "bad" } else { "ok" }) { (count(failed)) } span { "failed, " (role) } }
    }
}

/// How many ended for each reason.
fn ends(role: &str, totals: &Totals) -> Markup {
    html! {
        @if !totals.ends.is_empty() {
            " · " (role) ": "
            @for (index, (end, ended)) in totals.ends.iter().enumerate() { @if index > 0 { ", " } (end) " " (count(*ended)) }
        }
    }
}

/// Open ones, with this many RPCs of each, or ones that ended.
fn table(connections: &[Connection], rpcs: Option<usize>) -> Markup {
    html! {
        @if connections.is_empty() { p.empty { "None." } } @else {
            div.wrap { table.conns.over[rpcs.is_none()] {
                thead { tr {
                    th { "no." } th { "side" } th { "peer" } th { "age" }
                    @if rpcs.is_some() { th { "idle" } } @else { th { "ended" } }
                    th { "setup" } th { "TLS" } th { "RPCs" } th { "sent" } th { "received" }
                } }
                tbody { @for connection in connections { (row(connection, rpcs)) } }
            } }
        }
    }
}

/// Without the tags that HTML lets one leave out: there are up to 200 of these.
fn row(of: &Connection, rpcs: Option<usize>) -> Markup {
    let peer = of.target.as_deref().or(of.peer.as_deref());
    let local = of.local.as_deref().map(|local| visible(local, 60));
    html! {
        tr id={ "c" (of.number) };
        td; (of.number)
        td; (of.role)
        td.m title=[local]; (visible(peer.unwrap_or("–"), 60))
        td; (seconds(of.age))
        @if rpcs.is_some() { td; (seconds(of.idle)) } @else {
            td; (of.end.as_deref().unwrap_or("–"))
            @if let Some(cut_off @ 1..) = of.rpcs_cut_off { " " span.tag.bad { (count(cut_off)) " cut off" } }
        }
        td; @if let Some(setup) = of.setup { (seconds(setup)) } @else { "–" }
        td; (match of.tls { Some(true) => "yes", Some(false) => "no", None => "–" })
        td; @match (of.rpcs_running, of.rpcs_started) {
            (Some(running), Some(started)) => { @if rpcs.is_some() { (count(running as u64)) " of " } (count(started)) }
            _ => { "–" }
        }
        td; (bytes(of.sent_bytes))
        td; (bytes(of.received_bytes))
        @if let Some(listed) = rpcs.filter(|_| !of.rpcs.is_empty()) {
            tr.on; td; td colspan="9";
            @for rpc in of.rpcs.iter().take(listed) {
                a href=(link(&[("rpc", &rpc.id)])) { (visible(&rpc.method, 60)) } " " small { (seconds(rpc.seconds)) } " "
            }
            @if let more @ 1.. = of.more_rpcs(listed) { small { (count(more as u64)) " more" } }
        }
    }
}
