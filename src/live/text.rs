//! The pages for a terminal.

#[cfg(feature = "connection")]
mod connections;

use std::fmt::Write as _;

#[cfg(feature = "connection")]
pub(super) use self::connections::connections;

use super::{
    filter::Query,
    format::{bytes, count, percent, rate, seconds, time},
    history::Window,
    rpc::{Moved, Rpc},
    schema::{MethodRow, Page, WindowFigures},
    tree::Nested,
};

/// Columns with two spaces in between, each as wide as its longest text.
fn table(rows: &[Vec<String>], out: &mut String) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

fn texts<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

pub(super) fn page(page: &Page, query: &Query) -> String {
    let mut out = String::new();
    let minute = page.figures.get("1m");
    let of = |pick: fn(&WindowFigures) -> Option<f64>| {
        minute
            .and_then(pick)
            .map_or_else(|| "–".to_owned(), seconds)
    };
    let _ = writeln!(
        out,
        "{}  up {}  in flight {}  {} in 10 s  failed {} in 1 min  p50 {}  p99 {}",
        page.name,
        seconds(page.uptime.floor()),
        page.in_flight.total,
        page.figures
            .get("10s")
            .map_or_else(String::new, |f| rate(f.rate)),
        minute.map_or_else(String::new, |f| or(percent(f.failed, f.finished), "0")),
        of(|figures| figures.p50),
        of(|figures| figures.p99),
    );
    let open = &page.in_flight;
    let _ = writeln!(
        out,
        "\nIN FLIGHT  {} of {} match{}, oldest first, {} left out{}",
        open.matching,
        open.total,
        searched(query),
        open.left_out,
        match open.untracked {
            0 => String::new(),
            more => format!(", {more} too many to track"),
        }
    );
    let mut rows = vec![texts([
        "id", "method", "side", "peer", "age", "deadline", "sent", "received", "last msg",
        "waiting",
    ])];
    for rpc in &open.rpcs {
        let parent = rpc
            .parent
            .as_ref()
            .filter(|id| open.rpcs.iter().any(|rpc| rpc.id == **id));
        let indent = if parent.is_some() { "  " } else { "" };
        rows.push(vec![
            rpc.id.clone(),
            format!("{indent}{}{}", rpc.method, attempt(rpc.attempt)),
            rpc.role.to_owned(),
            or(rpc.private.peer.clone().unwrap_or_default(), "–"),
            seconds(rpc.seconds),
            rpc.deadline_in.map_or_else(|| "–".to_owned(), seconds),
            moved(&rpc.sent),
            moved(&rpc.received),
            last_message(rpc).map_or_else(|| "–".to_owned(), seconds),
            rpc.waiting_for.unwrap_or("–").to_owned(),
        ]);
    }
    table(&rows, &mut out);
    let _ = writeln!(out, "\nMETHODS  {}", query.window.label());
    let mut rows = vec![texts([
        "method", "side", "now", "rate", "failed", "p50", "p90", "p99", "max", "sent", "received",
    ])];
    rows.extend(
        page.methods
            .rows
            .iter()
            .map(|row| method(row, query.window)),
    );
    table(&rows, &mut out);
    if let [row] = &page.methods.rows[..] {
        details(row, &mut out);
    }
    let _ = writeln!(
        out,
        "\nSAMPLES  {} of {} kept match, newest first, {} left out; kept samples are no totals",
        page.samples.matching,
        page.samples.total,
        page.samples.matching - page.samples.rpcs.len(),
    );
    let mut rows = vec![texts([
        "id", "method", "side", "started", "took", "status", "ending", "error",
    ])];
    rows.extend(page.samples.rpcs.iter().map(|rpc| {
        vec![
            rpc.id.clone(),
            format!("{}{}", rpc.method, attempt(rpc.attempt)),
            rpc.role.to_owned(),
            time(rpc.started),
            seconds(rpc.seconds),
            or(rpc.status.clone().unwrap_or_default(), "–"),
            rpc.ending.unwrap_or("–").to_owned(),
            rpc.private.error.clone().unwrap_or_default(),
        ]
    }));
    table(&rows, &mut out);
    out
}

/// All windows of one method.
fn details(row: &MethodRow, out: &mut String) {
    let list = |counts: Vec<String>| match counts.len() {
        0 => "–".to_owned(),
        _ => counts.join(", "),
    };
    let codes = row.codes.iter();
    let codes = codes.map(|(code, count)| format!("{code} {count}"));
    let endings = row.endings.iter();
    let endings = endings.map(|(ending, count)| format!("{ending} {count}"));
    let _ = writeln!(
        out,
        "\n{} started, {} ok, {} failed, ended by {}, codes {}",
        row.started,
        row.ok,
        row.failed,
        list(endings.collect()),
        list(codes.collect()),
    );
    let mut rows = vec![texts([
        "window", "started", "ended", "failed", "rate", "p50", "p90", "p99", "max",
    ])];
    for window in Window::ALL {
        let Some(figures) = row.windows.get(window.key()) else {
            continue;
        };
        let at = |time: Option<f64>| time.map_or_else(|| "–".to_owned(), seconds);
        rows.push(vec![
            window.label().to_owned(),
            figures.started.to_string(),
            figures.finished.to_string(),
            figures.failed.to_string(),
            rate(figures.rate),
            at(figures.p50),
            at(figures.p90),
            at(figures.p99),
            at(figures.max),
        ]);
    }
    table(&rows, out);
}

fn method(row: &MethodRow, window: Window) -> Vec<String> {
    let figures = row.windows.get(window.key());
    let at = |time: Option<f64>| time.map_or_else(|| "–".to_owned(), seconds);
    let Some(figures) = figures else {
        return Vec::new();
    };
    let codes = row
        .codes
        .iter()
        .map(|(code, count)| format!("{code} {count}"));
    let share = match figures.failed {
        0 => "0".to_owned(),
        failed => percent(failed, figures.finished),
    };
    let codes: Vec<_> = codes.collect();
    let failed = match codes.len() {
        0 => share,
        _ => format!("{share} (total: {})", codes.join(", ")),
    };
    vec![
        row.method.clone(),
        row.role.to_owned(),
        row.in_flight.to_string(),
        rate(figures.rate),
        failed,
        at(figures.p50),
        at(figures.p90),
        at(figures.p99),
        at(figures.max),
        bytes(figures.sent_bytes),
        bytes(figures.received_bytes),
    ]
}

pub(super) fn rpc(rpc: &Rpc) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}{}  {}  {}",
        rpc.method,
        attempt(rpc.attempt),
        rpc.role,
        rpc.id
    );
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(out, "{name:<14}{value}");
        }
    };
    line("started", time(rpc.started));
    line(
        if rpc.in_flight { "age" } else { "took" },
        seconds(rpc.seconds),
    );
    line("status", rpc.status.clone().unwrap_or_default());
    line("wire status", rpc.wire_status.clone().unwrap_or_default());
    line("ended by", rpc.ending.unwrap_or_default().to_owned());
    line(
        "waiting for",
        rpc.waiting_for.unwrap_or_default().to_owned(),
    );
    line(
        "deadline in",
        rpc.deadline_in.map(seconds).unwrap_or_default(),
    );
    line("timeout", rpc.timeout.map(seconds).unwrap_or_default());
    line("protocol", rpc.protocol.to_owned());
    line(
        "HTTP status",
        rpc.http_status
            .map(|status| status.to_string())
            .unwrap_or_default(),
    );
    line("peer", rpc.private.peer.clone().unwrap_or_default());
    line("sent", moved(&rpc.sent));
    line("received", moved(&rpc.received));
    line("error", rpc.private.error.clone().unwrap_or_default());
    line("panic", rpc.private.panic.clone().unwrap_or_default());
    line(
        "raw status",
        rpc.private.raw_status.clone().unwrap_or_default(),
    );
    line("trace", rpc.private.trace_id.clone().unwrap_or_default());
    line("parent", rpc.parent.clone().unwrap_or_default());
    let connection = rpc.connection.map(|number| number.to_string());
    line("connection", connection.unwrap_or_default());
    for (key, value) in &rpc.private.tags {
        line("tag", format!("{key}={value}"));
    }
    for (name, value) in &rpc.private.headers {
        line("header", format!("{name}: {value}"));
    }
    if !rpc.events.is_empty() {
        out.push_str("\nEVENTS\n");
        let events = rpc.events.iter().scan(0.0, |last, event| {
            let since = event.at - std::mem::replace(last, event.at);
            Some(vec![
                seconds(event.at),
                format!("+{}", seconds(since)),
                event.name.clone(),
                event.info.clone().unwrap_or_default(),
            ])
        });
        table(&events.collect::<Vec<_>>(), &mut out);
    }
    if !rpc.children.is_empty() {
        out.push_str("\nMADE BY IT\n");
        let mut rows = vec![texts([
            "at", "took", "method", "side", "status", "ending", "id",
        ])];
        children(&rpc.children, 0, &mut rows);
        table(&rows, &mut out);
    }
    if rpc.children_left_out > 0 {
        let _ = writeln!(out, "{} more", rpc.children_left_out);
    }
    out
}

fn children(nested: &[Nested], depth: usize, rows: &mut Vec<Vec<String>>) {
    for child in nested {
        rows.push(vec![
            seconds(child.at),
            seconds(child.seconds),
            format!(
                "{:depth$}{}{}",
                "",
                child.method,
                attempt(child.attempt),
                depth = 2 * depth
            ),
            child.role.to_owned(),
            child.status.clone().unwrap_or_default(),
            child.ending.unwrap_or("running").to_owned(),
            child.id.clone(),
        ]);
        children(&child.children, depth + 1, rows);
    }
}

/// Messages and bytes of one direction.
pub(super) fn moved(moved: &Moved) -> String {
    match (moved.messages, moved.message_bytes, moved.body_bytes) {
        (Some(0), ..) => "0".to_owned(),
        (Some(messages), Some(size), _) => format!("{} · {}", count(messages), bytes(size)),
        (_, _, Some(size)) => bytes(size),
        _ => "–".to_owned(),
    }
}

/// Seconds since the last message of either direction.
pub(super) fn last_message(rpc: &Rpc) -> Option<f64> {
    let last = [rpc.sent.last_message_at, rpc.received.last_message_at];
    let last = last
        .into_iter()
        .flatten()
        .fold(None, |a: Option<f64>, b| Some(a.map_or(b, |a| a.max(b))));
    last.map(|at| (rpc.seconds - at).max(0.0))
}

pub(super) fn attempt(attempt: u32) -> String {
    match attempt {
        0 | 1 => String::new(),
        attempt => format!(" #{attempt}"),
    }
}

fn searched(query: &Query) -> String {
    match query.search.as_str() {
        "" => String::new(),
        search => format!(" {}", super::format::visible(search, 200)),
    }
}

fn or(text: String, other: &str) -> String {
    if text.is_empty() {
        other.to_owned()
    } else {
        text
    }
}
