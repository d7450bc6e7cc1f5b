use maud::{Markup, html};

use super::{frame, link, picture, tag_of};
use crate::live::{
    config::Config,
    format::{bytes, count, seconds, time, visible},
    rpc::{Moved, Rpc},
    text::{last_message, moved},
    tree::Nested,
};

pub(in crate::live) fn rpc(rpc: &Rpc, config: &Config) -> String {
    let head = html! {
        header {
            h1 { a href="?" { (config.name) } }
            nav {
                a href="?" { "all RPCs" }
                a href=(link(&[("method", &rpc.method), ("role", rpc.role)])) { "this method" }
                a href=(link(&[("rpc", &rpc.id), ("format", "json")])) { "json" }
                @if rpc.in_flight { button id="live" type="button" hidden aria-pressed="true" { "● live" } }
            }
        }
    };
    let body = html! {
        h2.title {
            (visible(&rpc.method, 120)) (tag_of(rpc.attempt)) " "
            small { (rpc.role) " · " (rpc.id) " · " (time(rpc.started)) }
        }
        p.facts { (outcome(rpc)) (links(rpc, config)) }
        (waterfall(rpc))
        (facts(rpc))
        (events(rpc))
    };
    let foot = html! { "Times are from the start of the RPC. Level Detailed of its layer records more events. Read-only." };
    frame(&rpc.method, &head, &body, &foot)
}

fn outcome(rpc: &Rpc) -> Markup {
    html! {
        @if rpc.in_flight {
            span.tag.run { "in flight" } " for " b { (seconds(rpc.seconds)) }
            @if let Some(waiting) = rpc.waiting_for { ", waiting for " b { (waiting) } }
            @if let Some(left) = rpc.deadline_in { ", deadline in " b class=[(left < 2.0).then_some("bad")] { (seconds(left)) } }
            @if let Some(ago) = last_message(rpc) { ", last message " b { (seconds(ago)) } " ago" }
        } @else {
            span class=(if rpc.failed { "tag bad" } else { "tag ok" }) { (rpc.status.as_deref().unwrap_or("no status")) }
            " after " b { (seconds(rpc.seconds)) } ", ended by " b { (rpc.ending.unwrap_or("–")) }
        }
        " "
    }
}

fn links(rpc: &Rpc, config: &Config) -> Markup {
    let trace = rpc
        .private
        .trace_id
        .as_ref()
        .zip(config.trace_link.as_ref());
    html! {
        @if let Some(parent) = &rpc.parent { a href=(link(&[("rpc", parent)])) { "parent" } " " }
        @if let Some((id, template)) = trace {
            a href=(template.replace("{trace_id}", id)) rel="noreferrer" { "trace " (id.get(..8).unwrap_or_default()) "…" }
        }
    }
}

/// The RPC, its stages, and the calls that it made, each on the same line of time.
fn waterfall(rpc: &Rpc) -> Markup {
    let whole = rpc.seconds.max(1e-9);
    let marks: Vec<_> = rpc
        .events
        .iter()
        .filter(|event| event.name != "rpc_start" && event.name != "rpc_finish")
        .map(|event| {
            (
                event.at / whole,
                format!("{} {}", event.name, seconds(event.at)),
            )
        })
        .collect();
    let at = |name: &str| {
        rpc.events
            .iter()
            .find(|event| event.name == name)
            .map(|event| event.at)
    };
    let end = rpc.seconds;
    let stages = [
        ("request", Some(0.0), at("half_close")),
        (
            "handler",
            at("server_handle_start"),
            at("server_handle_finish").or(Some(end)),
        ),
        (
            "until headers",
            at("server_handle_start").is_none().then_some(0.0),
            at("response_headers"),
        ),
        ("response", at("response_headers"), Some(end)),
    ];
    html! {
        div.fall {
            div.row {
                div.label {}
                div.axis aria-hidden="true" { @for part in [0.0, 0.25, 0.5, 0.75, 1.0] { span { (seconds(part * whole)) } } }
                span {}
            }
            (bar(&html! { span.m { (visible(&rpc.method, 80)) } (tag_of(rpc.attempt)) }, 0.0, end, whole, class_of(rpc.failed, rpc.in_flight), &marks))
            @for (name, from, to) in stages {
                @if let (Some(from), Some(to)) = (from, to) {
                    (bar(&html! { span.dim { "\u{2003}" (name) } }, from, to, whole, "stage", &[]))
                }
            }
            (nested(&rpc.children, 0.0, 1, whole))
            @if rpc.children_left_out > 0 { p.dim { (count(rpc.children_left_out)) " more calls were not kept." } }
        }
    }
}

fn nested(children: &[Nested], offset: f64, depth: usize, whole: f64) -> Markup {
    html! {
        @for child in children {
            @let from = offset + child.at;
            (bar(
                &html! {
                    @for _ in 0..depth { "\u{2003}" } span.dim { "└ " }
                    a.m href=(link(&[("rpc", &child.id)])) { (visible(&child.method, 80)) } (tag_of(child.attempt))
                    span.dim { " " (child.role) @if let Some(status) = child.status.as_deref().filter(|_| child.failed) { " " (status) } }
                },
                from, from + child.seconds, whole, class_of(child.failed, child.in_flight), &[],
            ))
            (nested(&child.children, from, depth + 1, whole))
        }
    }
}

fn class_of(failed: bool, in_flight: bool) -> &'static str {
    match (failed, in_flight) {
        (_, true) => "r",
        (true, _) => "f",
        (false, _) => "o",
    }
}

fn bar(
    label: &Markup,
    from: f64,
    to: f64,
    whole: f64,
    class: &str,
    marks: &[(f64, String)],
) -> Markup {
    html! {
        div.row {
            div.label { (label) }
            (picture::track(from / whole, to / whole, class, marks))
            span.took { (seconds((to - from).max(0.0))) }
        }
    }
}

fn facts(rpc: &Rpc) -> Markup {
    let private = &rpc.private;
    html! {
        div.wrap { table.facts {
            thead { tr { th { "direction" } th { "messages" } th { "message bytes" } th { "body bytes" } th { "compressed" } th { "first at" } th { "last at" } th { "end" } } }
            tbody { (direction("sent", &rpc.sent)) (direction("received", &rpc.received)) }
        } }
        dl {
            (fact("protocol", Some(rpc.protocol)))
            (fact("peer", private.peer.as_deref()))
            @if let Some(number) = rpc.connection { dt { "connection" } dd { a href=(to_connection(number)) { (number) } } }
            (fact("error", private.error.as_deref()))
            (fact("panic", private.panic.as_deref()))
            (fact("status on the wire", rpc.wire_status.as_deref()))
            (fact("unreadable status", private.raw_status.as_deref()))
            (fact("HTTP status", rpc.http_status.map(|status| status.to_string()).as_deref()))
            (fact("timeout", rpc.timeout.map(seconds).as_deref()))
            (fact("attempts made", (rpc.attempts_made > 0).then(|| rpc.attempts_made.to_string()).as_deref()))
            @for (key, value) in &private.tags { (fact(&format!("tag {key}"), Some(value))) }
            @for (name, value) in &private.headers { (fact(&format!("header {name}"), Some(value))) }
        }
    }
}

/// Its row on the page of connections, if it is listed there.
fn to_connection(number: u64) -> String {
    format!("{}#c{number}", link(&[("view", "connections")]))
}

fn fact(name: &str, value: Option<&str>) -> Markup {
    html! { @if let Some(value) = value { dt { (name) } dd { (value) } } }
}

fn direction(name: &str, figures: &Moved) -> Markup {
    let number = |number: Option<u64>| number.map_or_else(|| "–".to_owned(), count);
    let size = |size: Option<u64>| size.map_or_else(|| "–".to_owned(), bytes);
    let at = |at: Option<f64>| at.map_or_else(|| "–".to_owned(), seconds);
    html! {
        tr title=(moved(figures)) {
            td { (name) }
            td { (number(figures.messages)) }
            td { (size(figures.message_bytes)) }
            td { (size(figures.body_bytes)) }
            td { (number(figures.compressed_messages)) }
            td { (at(figures.first_message_at)) }
            td { (at(figures.last_message_at)) }
            td { @if figures.truncated { span.bad { "inside a message" } } @else if figures.complete { "seen" } @else { "–" } }
        }
    }
}

fn events(rpc: &Rpc) -> Markup {
    html! {
        h2 { "Events " @if rpc.events_left_out > 0 { small { (count(rpc.events_left_out)) " left out" } } }
        div.wrap { table.events {
            thead { tr { th { "event" } th { "at" } th { "since the one before" } th { "says" } } }
            tbody {
                @for (index, event) in rpc.events.iter().enumerate() {
                    @let before = index.checked_sub(1).and_then(|index| rpc.events.get(index)).map_or(0.0, |event| event.at);
                    tr {
                        td class=[(event.severity == "error").then_some("bad")] { (event.name) }
                        td { (seconds(event.at)) }
                        td { (seconds(event.at - before)) }
                        td { (event.info.as_deref().unwrap_or_default()) }
                    }
                }
            }
        } }
    }
}
