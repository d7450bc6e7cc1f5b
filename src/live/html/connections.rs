use maud::{Markup, html};

use super::{frame, link};
use crate::live::{
    connections::{Connection, ConnectionsPage, Totals},
    format::{bytes, count, seconds, time, visible},
};

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
    let body = html! {
        div.strip {
            @for (role, totals) in &page.totals { (totals_of(role, totals)) }
        }
        section aria-labelledby="h-open" {
            h2 id="h-open" { "Open connections " small { "oldest first · " (count(page.left_out)) " left out" } }
            (table(&page.open, true))
        }
        section aria-labelledby="h-ended" {
            h2 id="h-ended" { "Ended " small { "the last ones, newest first" } }
            (table(&page.ended, false))
        }
    };
    let foot = html! { "Bytes are those on the wire: with TLS encrypted. Which RPCs are on a client's connection is unknown. Read-only." };
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

fn table(connections: &[Connection], open: bool) -> Markup {
    html! {
        @if connections.is_empty() { p.empty { "None." } } @else {
            div.wrap { table.conns {
                thead { tr {
                    th { "no." } th { "side" } th { "peer" } th { "age" }
                    @if open { th { "idle" } } @else { th { "ended" } }
                    th { "setup" } th { "TLS" } th { "RPCs" } th { "sent" } th { "received" }
                } }
                tbody { @for connection in connections { (row(connection, open)) } }
            } }
        }
    }
}

fn row(of: &Connection, open: bool) -> Markup {
    let peer = of.target.as_deref().or(of.peer.as_deref());
    html! {
        tr {
            td title=(time(of.opened)) { (of.number) }
            td { (of.role) }
            td.m title=[of.local.as_deref()] { (visible(peer.unwrap_or("–"), 60)) }
            td { (seconds(of.age)) }
            @if open { td { (seconds(of.idle)) } } @else {
                td { (of.end.as_deref().unwrap_or("–")) @if of.rpcs_cut_off > 0 { " " span.tag.bad { (count(of.rpcs_cut_off)) " cut off" } } }
            }
            td { @if let Some(setup) = of.setup { (seconds(setup)) } @else { "–" } }
            td { (match of.tls { Some(true) => "yes", Some(false) => "no", None => "–" }) }
            td { @if of.role == "client" { "–" } @else { @if open { (of.rpcs_running) " of " } (count(of.rpcs_started)) } }
            td { (bytes(of.sent_bytes)) }
            td { (bytes(of.received_bytes)) }
        }
        @if !of.rpcs.is_empty() {
            tr.on { td {} td colspan="9" {
                @for rpc in &of.rpcs {
                    a href=(link(&[("rpc", &rpc.id)])) { (visible(&rpc.method, 60)) } " " small.dim { (seconds(rpc.seconds)) } " "
                }
            } }
        }
    }
}
