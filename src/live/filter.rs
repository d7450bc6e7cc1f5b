use std::{borrow::Cow, time::Duration};

use percent_encoding::percent_decode_str;

use super::{
    entry::Entry,
    history::Window,
    rows::{Row, Rows},
    rpc::{Rpc, method_of},
};
use crate::{Role, Stats, rpc::Address};

/// Longer queries are refused.
const LONGEST: usize = 2_048;
/// How many RPCs a page lists at most.
pub(super) const MOST: usize = 200;

/// What a URL asks for.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) filter: Filter,
    pub(super) window: Window,
    /// How many RPCs to list; 0 if the URL does not say it.
    pub(super) limit: usize,
    /// The page of one RPC.
    pub(super) rpc: Option<u64>,
    /// Which page is asked for.
    pub(super) view: View,
    /// `json`, `text` or `html`, if the URL says it.
    pub(super) format: Option<Box<str>>,
    /// What the search field had.
    pub(super) search: String,
    /// All of it, to make links that keep the rest.
    pub(super) pairs: Vec<(String, String)>,
}

/// A page that has a path of its own too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Overview,
    Connections,
    Watch,
}

/// Which RPCs are shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    pub(super) method: Option<String>,
    pub(super) role: Option<Role>,
    pub(super) code: Option<String>,
    pub(super) ending: Option<String>,
    pub(super) min: Option<Duration>,
    pub(super) max: Option<Duration>,
    pub(super) failed: bool,
    pub(super) parent: Option<u64>,
    peer: Option<String>,
    tags: Vec<(String, Option<String>)>,
}

/// Why a URL is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not understood.
    Invalid(String),
    /// It asks for what only full access shows.
    Private(&'static str),
}

impl Query {
    pub(super) fn parse(query: &str) -> Result<Self, Refused> {
        if query.len() > LONGEST {
            return Err(Refused::Invalid(format!(
                "a query has {LONGEST} bytes at most"
            )));
        }
        let mut this = Self {
            filter: Filter::default(),
            window: Window::Minute,
            limit: 0,
            rpc: None,
            view: View::Overview,
            format: None,
            search: String::new(),
            pairs: Vec::new(),
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key), decode(value));
            let value = value.trim();
            // An empty field of a form.
            if !value.is_empty() {
                this.set(&key, value)?;
                this.pairs.push((key.into_owned(), value.to_owned()));
            }
        }
        Ok(this)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Refused> {
        match key {
            "rpc" => self.rpc = Some(id(value)?),
            "window" => {
                let window = Window::ALL.into_iter().find(|window| window.key() == value);
                self.window = window.ok_or_else(|| invalid(key, value, "10s, 1m, 1h or total"))?;
            }
            "limit" => {
                let limit: Result<usize, _> = value.parse();
                let limit = limit.map_err(|_| invalid(key, value, "a number up to 200"))?;
                self.limit = limit.clamp(1, MOST);
            }
            "view" => {
                self.view = match value {
                    "connections" => View::Connections,
                    "watch" => View::Watch,
                    _ => return Err(invalid(key, value, "connections or watch")),
                };
            }
            "format" => self.format = Some(value.into()),
            "q" => {
                value.clone_into(&mut self.search);
                for term in value.split_whitespace() {
                    self.search_for(term)?;
                }
            }
            _ => self.filter.set(key, value)?,
        }
        Ok(())
    }

    /// A term of the search field: `key:value`, `age:>1s`, or a part of a method's name.
    fn search_for(&mut self, term: &str) -> Result<(), Refused> {
        match term.split_once(':') {
            Some(("age", age)) => match age.split_at_checked(1) {
                Some((">", age)) => self.filter.set("min", age),
                Some(("<", age)) => self.filter.set("max", age),
                _ => Err(invalid("age", age, ">1s or <10ms")),
            },
            Some((key, value)) => self.filter.set(key, value),
            None if term == "failed" => self.filter.set("failed", "1"),
            None => self.filter.set("method", &format!("*{term}*")),
        }
    }
}

impl Filter {
    fn set(&mut self, key: &str, value: &str) -> Result<(), Refused> {
        let text = || Some(value.to_owned());
        match key {
            "method" => self.method = text(),
            "role" | "side" => {
                self.role = Some(match value {
                    "client" => Role::Client,
                    "server" => Role::Server,
                    _ => return Err(invalid(key, value, "client or server")),
                });
            }
            "code" => self.code = text(),
            "ending" => self.ending = text(),
            "failed" => self.failed = value != "0",
            "min" => self.min = Some(duration(key, value)?),
            "max" => self.max = Some(duration(key, value)?),
            "parent" => self.parent = Some(id(value)?),
            "peer" => self.peer = text(),
            "tag" => {
                let pair = value.split_once('=').or_else(|| value.split_once(':'));
                self.tags.push(match pair {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (value.to_owned(), None),
                });
            }
            _ => {
                return Err(Refused::Invalid(format!(
                    "there is no filter {key:?}: use method, role, code, ending, failed, min, max, \
                     parent, peer, tag; or rpc, window, limit, format, q"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.method.is_none()
            && self.role.is_none()
            && !self.needs_end()
            && !self.is_private()
            && self.min.is_none()
            && self.max.is_none()
            && self.parent.is_none()
    }

    /// Whether it asks for what only full access shows: an answer would show it too.
    pub(super) fn check_public(&self) -> Result<(), Refused> {
        match self.is_private() {
            true => Err(Refused::Private(
                "filters by peer and by tag need full access",
            )),
            false => Ok(()),
        }
    }

    fn is_private(&self) -> bool {
        self.peer.is_some() || !self.tags.is_empty()
    }

    /// Whether it asks how an RPC ended.
    fn needs_end(&self) -> bool {
        self.failed || self.code.is_some() || self.ending.is_some()
    }

    pub(super) fn matches_row(&self, row: &Row, public: bool) -> bool {
        let name = if public { row.public_name() } else { &row.name };
        self.role.is_none_or(|role| role == row.role) && self.matches_method(name)
    }

    /// Of an RPC in flight, or one that is just over.
    pub(super) fn matches_record(&self, entry: &Entry, rows: &Rows, public: bool) -> bool {
        let rpc = &entry.rpc;
        let stats = rpc.stats();
        if self.role.is_some_and(|role| role != rpc.role())
            || self
                .parent
                .is_some_and(|id| entry.parent.is_none_or(|parent| parent.id.get() != id))
            || (self.needs_end() && !self.matches_end(stats))
        {
            return false;
        }
        if (self.min.is_some() || self.max.is_some()) && !self.matches_time(stats.elapsed()) {
            return false;
        }
        if self.method.is_some() {
            let public = public.then(|| rows.get(entry.row)).flatten();
            let matches = match public {
                Some(row) => self.matches_method(row.public_name()),
                None => self.matches_method(&method_of(rpc)),
            };
            if !matches {
                return false;
            }
        }
        if let Some(wanted) = &self.peer {
            let peer = rpc.peer();
            let named = peer.name().is_some_and(|name| name.contains(wanted));
            let at = match peer.address() {
                Some(Address::Named(name)) => name.contains(wanted),
                Some(address) => address.to_string().contains(wanted),
                None => false,
            };
            if !named && !at {
                return false;
            }
        }
        let tag_matches = |(key, value): &(String, Option<String>)| {
            rpc.tag(key)
                .is_some_and(|tag| value.as_ref().is_none_or(|value| **value == tag))
        };
        self.tags.iter().all(tag_matches)
    }

    pub(super) fn matches(&self, rpc: &Rpc, rows: &Rows, public: bool) -> bool {
        let same = |wanted: &Option<String>, is: Option<&str>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| is.is_some_and(|is| is.eq_ignore_ascii_case(wanted)))
        };
        let row = public.then(|| rows.get(rpc.row)).flatten();
        let method = row.map_or(&*rpc.method, |row| row.public_name());
        let private = &rpc.private;
        let seconds = Duration::try_from_secs_f64(rpc.seconds).unwrap_or_default();
        let tag_matches = |(key, value): &(String, Option<String>)| {
            let mut tags = private.tags.iter();
            tags.any(|(k, v)| k == key && value.as_ref().is_none_or(|value| value == v))
        };
        self.role.is_none_or(|role| role.as_str() == rpc.role)
            && self.matches_method(method)
            && self.matches_time(seconds)
            && same(&self.code, rpc.status.as_deref())
            && same(&self.ending, rpc.ending)
            && (!self.failed || rpc.failed)
            && self
                .parent
                .is_none_or(|id| rpc.parent.as_deref() == Some(&*super::format::id(id)))
            && self.peer.as_ref().is_none_or(|wanted| {
                private
                    .peer
                    .as_ref()
                    .is_some_and(|peer| peer.contains(wanted))
            })
            && self.tags.iter().all(tag_matches)
    }

    fn matches_end(&self, stats: &Stats) -> bool {
        let Some((_, ending)) = stats.ending_label() else {
            return false;
        };
        let code = |code: &String| {
            let status = stats.status().map(|status| status.to_string());
            status.is_some_and(|status| status.eq_ignore_ascii_case(code))
        };
        (!self.failed || stats.failed())
            && self.code.as_ref().is_none_or(code)
            && self
                .ending
                .as_ref()
                .is_none_or(|wanted| ending.eq_ignore_ascii_case(wanted))
    }

    fn matches_time(&self, time: Duration) -> bool {
        self.min.is_none_or(|min| time >= min) && self.max.is_none_or(|max| time < max)
    }

    fn matches_method(&self, name: &str) -> bool {
        self.method
            .as_ref()
            .is_none_or(|pattern| glob(pattern.as_bytes(), name.as_bytes()))
    }
}

/// Whether a name matches a pattern in which `*` is any text.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let found = rest
            .windows(part.len().max(1))
            .position(|window| window == part);
        let Some(at) = found.or(part.is_empty().then_some(0)) else {
            return false;
        };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    true
}

/// A duration such as `10ms`, `1.5s` or `2min`.
fn duration(key: &str, value: &str) -> Result<Duration, Refused> {
    let digits = value.trim_end_matches(|c: char| c.is_alphabetic());
    let unit = match value.get(digits.len()..).unwrap_or_default() {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => f64::NAN,
    };
    let number: Option<f64> = digits.trim().parse().ok();
    let seconds = number.map(|number| number * unit);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| invalid(key, value, "a time such as 10ms, 1.5s or 2min"))
}

fn id(value: &str) -> Result<u64, Refused> {
    u64::from_str_radix(value, 16).map_err(|_| invalid("id", value, "the id of an RPC"))
}

fn invalid(key: &str, value: &str, expected: &str) -> Refused {
    let value = super::format::visible(value, 64);
    Refused::Invalid(format!("{key}={value:?} is not {expected}"))
}

fn decode(text: &str) -> Cow<'_, str> {
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Query, Refused, glob};

    #[test]
    fn a_star_is_any_text() {
        for (pattern, name, expected) in [
            ("a.B/C", "a.B/C", true),
            ("a.B/C", "a.B/Cd", false),
            ("a.*", "a.B/C", true),
            ("*/C", "a.B/C", true),
            ("*B*", "a.B/C", true),
            ("a*B*C", "a.B/C", true),
            ("a*X*C", "a.B/C", false),
            ("**", "", true),
            ("", "", true),
            ("", "a", false),
            ("*aa*a", "aaa", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn a_search_says_the_same_as_parameters() {
        let query = Query::parse("q=method%3Ashop.*+age%3A%3E1s+tag:tenant=blue").unwrap();
        assert_eq!(query.filter.method.as_deref(), Some("shop.*"));
        assert_eq!(query.filter.min, Some(Duration::from_secs(1)));
        assert_eq!(
            query.filter.tags,
            [("tenant".to_owned(), Some("blue".to_owned()))]
        );
        assert!(query.filter.check_public().is_err());
        let query = Query::parse("method=shop.*&min=1s&limit=9999&code=").unwrap();
        assert_eq!((query.limit, query.filter.code), (200, None));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for query in [
            "color=red",
            "min=banana",
            "min=-1s",
            "min=1e400s",
            "role=both",
            "rpc=zz",
            "window=2s",
            "limit=-1",
            "q=age:1s",
            "q=x:y",
            "max=%FF",
        ] {
            assert!(
                matches!(Query::parse(query), Err(Refused::Invalid(_))),
                "{query}"
            );
        }
        assert!(Query::parse(&"x".repeat(60_000)).is_err());
        assert!(Query::parse("&&=&q=&%zz=").is_ok());
    }
}
