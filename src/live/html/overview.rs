use maud::{Markup, html};

use super::{PAGE, fitting, frame, link, picture, tag_of};
use crate::live::{
    filter::Query,
    format::{bytes, count, percent, rate, seconds, time, visible},
    history::Window,
    page::nested_order,
    rpc::Rpc,
    schema::{InFlight, Kept, MethodRow, Page, WindowFigures},
    text::{last_message, moved},
};

/// How many methods are listed: the busiest.
const METHODS: usize = 30;
/// How many samples: the newest.
const SAMPLES: usize = 30;
/// How many codes one can choose, or a method shows.
const CODES: usize = 40;
/// Where a name is cut in a table.
const NAME: usize = 80;

/// What methods and samples have of the page's bytes, and samples alone, however many RPCs are in flight.
const OTHERS: usize = 12_000;
const OF_SAMPLES: usize = 2_500;
/// What sections have around their rows.
const AROUND: usize = 3_000;

pub(in crate::live) fn page(page: &Page, query: &Query) -> String {
    let (head, strip, foot) = (head(page, query), strip(page), foot(page));
    let used = head.0.len() + strip.0.len() + foot.0.len() + AROUND;
    // With a very long query at least these have room.
    let mut room = PAGE.saturating_sub(used).max(OTHERS + OTHERS / 2);
    let mut taken = |less: usize, section: &dyn Fn(&mut usize) -> Markup| {
        room -= less.min(room);
        let markup = section(&mut room);
        room += less;
        markup
    };
    let in_flight = taken(OTHERS, &|room| in_flight(&page.in_flight, query, room));
    let methods = taken(OF_SAMPLES, &|room| methods(page, query, room));
    let samples = taken(0, &|room| samples(&page.samples, query, room));
    let body = html! { (strip) (in_flight) (methods) (ended()) (samples) };
    frame(&page.name, &head, &body, &foot)
}

fn head(page: &Page, query: &Query) -> Markup {
    let filter = &query.filter;
    html! {
        header {
            h1 { a href="?" { (page.name) } }
            span.dim { "up " (seconds(page.uptime.floor())) " · tower-tracer " (page.version) " · access: " (page.access) }
            nav {
                a href="#in-flight" { "in flight" }
                a href="#methods" { "methods" }
                a href="#samples" { "samples" }
                @if cfg!(feature = "connection") { a href=(link(&[("view", "connections")])) { "connections" } }
                @for peer in &page.peers {
                    a.peer href=(peer.url) rel="noreferrer" { (peer.name) }
                }
                a href=(url_with(query, ("format", "json"))) { "json" }
                button id="live" type="button" hidden aria-pressed="true" { "● live" }
            }
        }
        form method="get" action="?" role="search" {
            input name="q" value=(query.search) type="search" aria-label="filter" autocomplete="off" spellcheck="false"
                placeholder="method:shop.* age:>1s peer:10.1 tag:tenant=blue";
            select name="role" aria-label="side" {
                option value="" { "both sides" }
                @for role in ["server", "client"] {
                    option value=(role) selected[filter.role.is_some_and(|is| is.as_str() == role)] { (role) }
                }
            }
            select name="code" aria-label="code" {
                option value="" { "every code" }
                @for code in codes(page, filter.code.as_deref()) {
                    option value=(code) selected[filter.code.as_deref() == Some(&*code)] { (code) }
                }
            }
            select name="ending" aria-label="ending" {
                option value="" { "every ending" }
                @for ending in crate::rpc::ending::LABELS {
                    option value=(ending) selected[filter.ending.as_deref() == Some(ending)] { (ending) }
                }
            }
            @for (key, value) in &query.pairs {
                @match &**key {
                    "q" | "role" | "code" | "ending" | "rpc" | "format" => {}
                    "window" | "limit" => { input type="hidden" name=(key) value=(value); }
                    _ => { input name=(key) value=(value) aria-label=(key) title=(key); }
                }
            }
            button { "filter" }
        }
    }
}

/// The codes that were seen, and the one that is asked for.
fn codes(page: &Page, asked: Option<&str>) -> Vec<String> {
    let rows = page.methods.rows.iter();
    let mut codes: Vec<_> = rows.flat_map(|row| row.codes.keys().cloned()).collect();
    codes.push("OK".to_owned());
    codes.extend(asked.map(|code| visible(code, 32).into_owned()));
    codes.sort();
    codes.dedup();
    codes.truncate(CODES);
    codes
}

/// This page with one parameter that is another.
fn url_with(query: &Query, other: (&str, &str)) -> String {
    let pairs = query.pairs.iter().map(|(key, value)| (&**key, &**value));
    let pairs = pairs.filter(|(key, _)| *key != other.0);
    link(&pairs.chain([other]).collect::<Vec<_>>())
}

fn strip(page: &Page) -> Markup {
    let (ten, minute) = (page.figures.get("10s"), page.figures.get("1m"));
    let time = |pick: fn(&WindowFigures) -> Option<f64>| {
        minute
            .and_then(pick)
            .map_or_else(|| "–".to_owned(), seconds)
    };
    let (failed, finished) = minute.map_or((0, 0), |figures| (figures.failed, figures.finished));
    let per_second = |bytes_of: fn(&WindowFigures) -> u64| {
        let figures = minute.map_or((0, 1.0), |f| (bytes_of(f), f.seconds.max(1.0)));
        bytes((figures.0 as f64 / figures.1) as u64)
    };
    let slow = minute
        .and_then(|figures| figures.p99)
        .is_some_and(|p99| p99 >= 1.0);
    html! {
        div.strip {
            (tile(&count(page.in_flight.total), "in flight", "run"))
            (tile(&ten.map_or_else(String::new, |f| rate(f.rate)), "ended, over 10 s", ""))
            @let share = percent(failed, finished);
            @if share.is_empty() { (tile("0", "failed, 1 min", "ok")) } @else { (tile(&share, "failed, 1 min", "bad")) }
            (tile(&time(|f| f.p50), "p50, 1 min", ""))
            (tile(&time(|f| f.p99), "p99, 1 min", if slow { "slow" } else { "" }))
            (tile(&per_second(|f| f.sent_bytes), "sent per second", ""))
            (tile(&per_second(|f| f.received_bytes), "received per second", ""))
        }
    }
}

fn tile(figure: &str, label: &str, class: &str) -> Markup {
    html! { div { b class=[(!class.is_empty()).then_some(class)] { (figure) } span { (label) } } }
}

fn in_flight(open: &InFlight, query: &Query, room: &mut usize) -> Markup {
    let rows = nested_order(&open.rpcs);
    let rows = fitting(rows.iter().map(|(depth, rpc)| open_row(*depth, rpc)), room);
    html! {
        section id="in-flight" aria-labelledby="h-in-flight" {
            h2 id="h-in-flight" {
                "In flight "
                small {
                    "oldest first · " (count(open.matching as u64)) " of " (count(open.total)) " match · "
                    (count((open.matching - rows.len()) as u64)) " left out"
                    @if open.untracked > 0 { " · " (count(open.untracked)) " too many to track" }
                }
            }
            @if rows.is_empty() {
                p.empty { @if query.filter.is_empty() { "No RPC runs." } @else { "No RPC in flight matches." } }
            } @else {
                div.wrap { table.open {
                    thead { tr { th { "method" } th { "side" } th { "peer" } th { "age" } th { "deadline" } th { "sent" } th { "received" } th { "last message" } th { "waiting for" } } }
                    tbody { @for row in &rows { (row) } }
                } }
            }
        }
    }
}

/// Without the tags that HTML lets one leave out: there are up to 200 of these. The style puts a dash where
/// there is nothing.
fn open_row(depth: usize, rpc: &Rpc) -> Markup {
    let age = (rpc.seconds >= 1.0).then_some("slow");
    let left = rpc.deadline_in;
    html! {
        tr;
        td; @for _ in 1..depth { "\u{2003}" } @if depth > 0 { span.dim { "└ " } }
            a href=(link(&[("rpc", &rpc.id)])) { (visible(&rpc.method, NAME)) } (tag_of(rpc.attempt))
        td; (rpc.role)
        td; (rpc.private.peer.as_deref().unwrap_or_default())
        td class=[age]; (seconds(rpc.seconds))
        td class=[left.filter(|left| *left < 2.0).map(|_| "bad")]; @if let Some(left) = left { (seconds(left)) }
        td; (moved(&rpc.sent))
        td; (moved(&rpc.received))
        td; @if let Some(ago) = last_message(rpc) { (seconds(ago)) " ago" }
        td; (rpc.waiting_for.unwrap_or_default())
    }
}

fn methods(page: &Page, query: &Query, room: &mut usize) -> Markup {
    let methods = &page.methods;
    let details = match &methods.rows[..] {
        [row] => details(row),
        _ => Markup::default(),
    };
    *room = room.saturating_sub(details.0.len());
    let rows = methods.rows.iter().take(METHODS);
    let rows = fitting(rows.map(|row| method_row(row, query.window)), room);
    html! {
        section id="methods" aria-labelledby="h-methods" {
            h2 id="h-methods" {
                "Methods "
                small { "busiest first · " (methods.matching) " of " (methods.total) " match · " (methods.rows.len() - rows.len()) " left out" }
                span.windows { @for window in Window::ALL { (window_link(window, query)) } }
            }
            @if rows.is_empty() { p.empty { "No method matches." } } @else {
                div.wrap { table.methods {
                    thead { tr { th { "method" } th { "side" } th { "in flight" } th { "rate" } th { "last minute" } th { "failed" } th { "p50" } th { "p90" } th { "p99" } th { "max" } th { "out, in" } th { "samples" } } }
                    tbody { @for row in &rows { (row) } }
                } }
            }
            (details)
        }
    }
}

fn window_link(window: Window, query: &Query) -> Markup {
    let current = (window == query.window).then_some("true");
    html! { a href=(url_with(query, ("window", window.key()))) aria-current=[current] { (window.label()) } }
}

fn method_row(row: &MethodRow, window: Window) -> Markup {
    let Some(figures) = row.windows.get(window.key()) else {
        return Markup::default();
    };
    let time = |time: Option<f64>| time.map_or_else(|| "–".to_owned(), seconds);
    let slow = |time: Option<f64>| time.filter(|time| *time >= 1.0).map(|_| "slow");
    let share = percent(figures.failed, figures.finished);
    html! {
        tr {
            td { a href=(link(&[("method", &row.method), ("role", row.role)])) { (visible(&row.method, NAME)) } }
            td { (row.role) }
            td { (count(row.in_flight)) }
            td { (rate(figures.rate)) }
            td { (picture::sparkline(&row.trend)) }
            td class=(if figures.failed > 0 { "bad" } else { "ok" }) {
                @if share.is_empty() { "0" } @else { (share) }
                @if !row.codes.is_empty() { br; small.codes { (codes_of(row)) } }
            }
            td { (time(figures.p50)) }
            td { (time(figures.p90)) }
            td class=[slow(figures.p99)] { (time(figures.p99)) }
            td class=[slow(figures.max)] {
                @match &row.slowest {
                    Some(id) if window != Window::Hour && window != Window::Total => a href=(link(&[("rpc", id)])) { (time(figures.max)) }
                    _ => { (time(figures.max)) }
                }
            }
            td { (bytes(figures.sent_bytes)) br; (bytes(figures.received_bytes)) }
            td { (picture::buckets(&row.samples)) }
        }
    }
}

/// The most frequent codes, in total.
fn codes_of(row: &MethodRow) -> String {
    let mut codes: Vec<_> = row.codes.iter().collect();
    codes.sort_by(|a, b| b.1.cmp(a.1));
    let (shown, more) = codes.split_at(codes.len().min(2));
    let mut texts: Vec<_> = shown
        .iter()
        .map(|(code, n)| format!("{code} {}", count(**n)))
        .collect();
    if !more.is_empty() {
        texts.push(format!("{} more", more.len()));
    }
    texts.join(" · ")
}

/// All figures of one method.
fn details(row: &MethodRow) -> Markup {
    let time = |time: Option<f64>| time.map_or_else(|| "–".to_owned(), seconds);
    html! {
        div.cards {
            div.wrap { table {
                thead { tr { th { "window" } th { "started" } th { "ended" } th { "failed" } th { "rate" } th { "p50" } th { "p90" } th { "p99" } th { "max" } th { "out" } th { "in" } } }
                tbody { @for window in Window::ALL { @if let Some(figures) = row.windows.get(window.key()) {
                    tr {
                        td { (window.label()) }
                        td { (count(figures.started)) }
                        td { (count(figures.finished)) }
                        td { (count(figures.failed)) }
                        td { (rate(figures.rate)) }
                        td { (time(figures.p50)) } td { (time(figures.p90)) } td { (time(figures.p99)) } td { (time(figures.max)) }
                        td { (bytes(figures.sent_bytes)) } td { (bytes(figures.received_bytes)) }
                    }
                } } }
            } }
            p.facts {
                "In total: " (count(row.started)) " started, " b.ok { (count(row.ok)) } " ok, " b.bad { (count(row.failed)) } " failed. "
                @for (code, number) in row.codes.iter().take(CODES) {
                    a.tag href=(link(&[("method", &row.method), ("role", row.role), ("code", code)])) { (code) " " (count(*number)) } " "
                }
                @if row.codes.len() > CODES { (row.codes.len() - CODES) " codes more. " }
                @for (ending, number) in &row.endings {
                    a.tag href=(link(&[("method", &row.method), ("role", row.role), ("ending", ending)])) { (ending) " " (count(*number)) } " "
                }
            }
        }
    }
}

/// Filled and shown by the script.
fn ended() -> Markup {
    html! {
        section id="ended" aria-labelledby="h-ended" hidden {
            h2 id="h-ended" { "Just ended " small { "as they end, newest first · " span { "0" } " not shown" } }
            div.wrap { table.done { (done_head()) tbody {} } }
        }
    }
}

fn done_head() -> Markup {
    html! {
        thead { tr { th { "method" } th { "side" } th { "status" } th { "ended by" } th { "took" } th { "started" } th { "sent" } th { "received" } th { "error" } } }
    }
}

fn samples(kept: &Kept, query: &Query, room: &mut usize) -> Markup {
    let rows = kept.rpcs.iter().take(SAMPLES);
    let rows = fitting(rows.map(|rpc| ended_row(rpc, true)), room);
    html! {
        section id="samples" aria-labelledby="h-samples" {
            h2 id="h-samples" {
                "Samples "
                small { "newest first · " (count(kept.matching as u64)) " of " (count(kept.total as u64)) " kept match · " (kept.matching - rows.len()) " left out · these are no totals" }
                span.windows {
                    a href="?#samples" { "all" }
                    a href="?failed=1#samples" { "failed" }
                    a href="?min=1s#samples" { "slower than 1 s" }
                }
            }
            @if rows.is_empty() {
                p.empty { @if query.filter.is_empty() { "No RPC is over yet." } @else { "No kept RPC matches." } }
            } @else {
                div.wrap { table.done { (done_head()) tbody { @for row in &rows { (row) } } } }
            }
        }
    }
}

/// An RPC that is over, with a link to its page if it is kept.
pub(in crate::live) fn ended_row(rpc: &Rpc, kept: bool) -> Markup {
    let slow = (rpc.seconds >= 1.0).then_some("slow");
    html! {
        tr;
        td; @if kept { a href=(link(&[("rpc", &rpc.id)])) { (visible(&rpc.method, NAME)) } } @else { (visible(&rpc.method, NAME)) }
            (tag_of(rpc.attempt))
        td; (rpc.role)
        td class=(if rpc.failed { "bad" } else { "ok" }); (rpc.status.as_deref().unwrap_or("none"))
        td; (rpc.ending.unwrap_or("–"))
        td class=[slow]; (seconds(rpc.seconds))
        td; (time(rpc.started).get(11..23).unwrap_or_default())
        td; (moved(&rpc.sent))
        td; (moved(&rpc.received))
        td; @if let Some(error) = &rpc.private.error { (visible(error, 60)) }
    }
}

fn foot(page: &Page) -> Markup {
    let kept = &page.samples;
    html! {
        "Samples: up to 10 for each bucket of latency and failing code of a method, and the slowest of the last minute. "
        (count(kept.total as u64)) " kept, " (bytes(kept.bytes as u64)) " of at most " (bytes(kept.most_bytes as u64)) "."
        @if kept.left_out > 0 { " " (count(kept.left_out)) " had no room." }
        " Read-only. " (time(page.now))
    }
}
