//! The pages for a browser. Nothing is inline: no script, no style, so that the policy can forbid both.

#[cfg(feature = "connection")]
mod connections;
mod overview;
mod picture;
mod single;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

#[cfg(feature = "connection")]
pub(super) use self::connections::connections;
pub(super) use self::{
    overview::{ended_row, page},
    single::rpc,
};

/// How many bytes a page has at most, without its script and its style, which have 10 kB.
const PAGE: usize = 50_000;

/// As many rows as fit into the room, which is made less by them.
fn fitting(rows: impl Iterator<Item = Markup>, room: &mut usize) -> Vec<Markup> {
    let fits = |row: &Markup| match room.checked_sub(row.0.len()) {
        Some(left) => {
            *room = left;
            true
        }
        None => false,
    };
    rows.take_while(fits).collect()
}

/// The frame of each page. What is in `main` is replaced by the script every two seconds.
fn frame(title: &str, head: &Markup, body: &Markup, foot: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "RPCs · " (title) }
                link rel="icon" href=(ICON);
                link rel="stylesheet" href="?style.css";
                script src="?app.js" defer {}
            }
            body {
                (head)
                main id="main" { (body) }
                footer { (foot) }
            }
        }
    };
    page.into_string()
}

const ICON: PreEscaped<&str> = PreEscaped(
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath \
     fill='none' stroke='%232563c9' stroke-width='2' d='M1 9h3l2-6 3 10 2-4h4'/%3E%3C/svg%3E",
);

/// A link on this page with one parameter more, or another one: all pages have one path, so that a page
/// works under any prefix.
fn link(pairs: &[(&str, &str)]) -> String {
    let mut url = "?".to_owned();
    for (key, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        if url.len() > 1 {
            url.push('&');
        }
        let encoded = percent_encoding::utf8_percent_encode(value, ESCAPED);
        url.push_str(&format!("{key}={encoded}"));
    }
    url
}

/// What is escaped in the value of a parameter: all but what needs it nowhere.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'/')
    .remove(b'-')
    .remove(b'_');

fn tag_of(rpc_attempt: u32) -> Markup {
    html! {
        @if rpc_attempt > 1 { " " span.tag.run { "attempt " (rpc_attempt) } }
    }
}
