//! Headers as OpenTelemetry's propagators read and write them.

use std::{borrow::Cow, cell::OnceCell, fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, global,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TraceContextExt as _,
};

/// The propagator that was given, else the global one.
#[derive(Clone, Default)]
pub(super) struct Propagation(Option<Arc<dyn TextMapPropagator + Send + Sync>>);

impl Propagation {
    pub(super) fn new(propagator: impl TextMapPropagator + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(propagator)))
    }

    /// The context that the headers bring, else the one given.
    pub(super) fn extract(&self, context: &Context, headers: &HeaderMap) -> Context {
        let headers = Extracted {
            headers,
            tracestate: OnceCell::new(),
            baggage: OnceCell::new(),
        };
        self.with(|propagator| propagator.extract_with_context(context, &headers))
    }

    /// Puts the context into the headers, in place of what was there, also where the context has
    /// less to say. Without a valid span there is no context of ours, and what was there stays.
    pub(super) fn inject(&self, context: &Context, headers: &mut HeaderMap) {
        let is_ours = context.span().span_context().is_valid();
        self.with(|propagator| {
            if is_ours {
                for field in propagator.fields().filter_map(name) {
                    headers.remove(&*field);
                }
            }
            propagator.inject_context(context, &mut Injected(headers));
        });
    }

    fn with<R>(&self, mut f: impl FnMut(&dyn TextMapPropagator) -> R) -> R {
        match &self.0 {
            Some(propagator) => f(&**propagator),
            None => global::get_text_map_propagator(f),
        }
    }
}

impl fmt::Debug for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// W3C's names, ready to be looked up.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
static BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// A name as propagators give it.
fn name(field: &str) -> Option<Cow<'static, HeaderName>> {
    Some(match field {
        "traceparent" => Cow::Borrowed(&TRACEPARENT),
        "tracestate" => Cow::Borrowed(&TRACESTATE),
        "baggage" => Cow::Borrowed(&BAGGAGE),
        other => Cow::Owned(HeaderName::from_bytes(other.as_bytes()).ok()?),
    })
}

/// W3C's limits.
const BAGGAGE_BYTES: usize = 8192;
const BAGGAGE_MEMBERS: usize = 64;
const TRACESTATE_BYTES: usize = 512;
const TRACESTATE_MEMBERS: usize = 32;
/// Members that are longer are the first to go.
const TRACESTATE_MEMBER_BYTES: usize = 128;

/// A request's headers; what a peer sent beyond what is allowed is not there.
struct Extracted<'a> {
    headers: &'a HeaderMap,
    // A list may stand in several headers, and a propagator asks for one text.
    tracestate: OnceCell<Option<String>>,
    baggage: OnceCell<Option<String>>,
}

impl Extracted<'_> {
    /// The only value; of two, which is right cannot be known.
    fn only(&self, name: &HeaderName) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }

    fn tracestate(&self) -> Option<&str> {
        let mut values = self.headers.get_all(&TRACESTATE).iter();
        let first = values.next()?;
        if values.next().is_none() && first.len() <= TRACESTATE_BYTES {
            let list = first.to_str().ok()?;
            return has_at_most(TRACESTATE_MEMBERS, list).then_some(list);
        }
        self.tracestate
            .get_or_init(|| cut_tracestate(self.headers.get_all(&TRACESTATE).iter()))
            .as_deref()
    }

    fn baggage(&self) -> Option<&str> {
        let mut values = self.headers.get_all(&BAGGAGE).iter();
        let first = values.next()?;
        let list = if values.next().is_none() {
            first.to_str().ok()?
        } else {
            self.baggage
                .get_or_init(|| join(self.headers.get_all(&BAGGAGE).iter(), BAGGAGE_BYTES))
                .as_deref()?
        };
        let fits = list.len() <= BAGGAGE_BYTES && has_at_most(BAGGAGE_MEMBERS, list);
        fits.then_some(list)
    }
}

fn has_at_most(members: usize, list: &str) -> bool {
    list.split(',').take(members + 1).count() <= members
}

/// The members of all `tracestate` headers, cut as W3C's
/// [Trace Context](https://www.w3.org/TR/trace-context/#tracestate-limits) (3.3.1.5) says: no member is
/// split, members of more than 128 characters go first, the longest before the others, then those
/// at the end.
///
/// `None` if a value is not text, if nothing is left, and if there are more than 32 members: such a
/// list is not valid.
fn cut_tracestate<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Option<String> {
    let mut members = Vec::new();
    for value in values {
        for member in value.to_str().ok()?.split(',') {
            if members.len() == TRACESTATE_MEMBERS {
                return None;
            }
            members.push(member.trim_matches([' ', '\t']));
        }
    }
    // Members can be empty.
    members.retain(|member| !member.is_empty());
    let length = |members: &[&str]| {
        let with_comma = members.iter().map(|member| member.len() + 1);
        with_comma.sum::<usize>().saturating_sub(1)
    };
    while length(&members) > TRACESTATE_BYTES {
        // Of two that are equally long, the one nearer to the end.
        let longest = members
            .iter_mut()
            .filter(|member| member.len() > TRACESTATE_MEMBER_BYTES)
            .max_by_key(|member| member.len());
        match longest {
            Some(longest) => *longest = "",
            None => _ = members.pop(),
        }
        members.retain(|member| !member.is_empty());
    }
    (!members.is_empty()).then(|| members.join(","))
}

/// Joins the values of a list; `None` where one is no text, or they are too long.
fn join<'a>(values: impl Iterator<Item = &'a HeaderValue>, bytes: usize) -> Option<String> {
    let mut joined = String::new();
    for value in values {
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(value.to_str().ok()?);
        if joined.len() > bytes {
            return None;
        }
    }
    Some(joined)
}

impl Extractor for Extracted<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.only(&TRACEPARENT).filter(|v| is_traceparent(v)),
            "tracestate" => self.tracestate(),
            "baggage" => self.baggage(),
            key => self.only(&*name(key)?),
        }
    }

    /// For propagators whose header may stand several times; W3C's come bounded, as one.
    fn get_all(&self, key: &str) -> Option<Vec<&str>> {
        if let "traceparent" | "tracestate" | "baggage" = key {
            return self.get(key).map(|value| vec![value]);
        }
        let values = self.headers.get_all(&*name(key)?).iter();
        let values: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
        (!values.is_empty()).then_some(values)
    }

    fn keys(&self) -> Vec<&str> {
        self.headers.keys().map(HeaderName::as_str).collect()
    }
}

/// Whether a `traceparent` is one, to the letter of W3C's Trace Context; propagators take a short
/// one for another trace's id.
fn is_traceparent(value: &str) -> bool {
    let hex = |digits: &[u8]| {
        digits
            .iter()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    };
    let value = value.as_bytes();
    let Some((known, rest)) = value.split_at_checked(55) else {
        return false;
    };
    let [v0, v1, b'-', ids @ ..] = known else {
        return false;
    };
    let Some((trace, [b'-', span @ ..])) = ids.split_at_checked(32) else {
        return false;
    };
    let Some((span, [b'-', flags @ ..])) = span.split_at_checked(16) else {
        return false;
    };
    let version = [*v0, *v1];
    // A version to come may have more after a further dash.
    let length_fits = rest.is_empty() || (version != *b"00" && rest.first() == Some(&b'-'));
    length_fits
        && version != *b"ff"
        && [&version, trace, span, flags].into_iter().all(hex)
        && [trace, span].iter().all(|id| id.iter().any(|d| *d != b'0'))
}

struct Injected<'a>(&'a mut HeaderMap);

impl Injector for Injected<'_> {
    fn set(&mut self, key: &str, value: String) {
        let Some(name) = name(key) else { return };
        if value.is_empty() {
            self.0.remove(&*name);
        } else if let Ok(value) = HeaderValue::try_from(value) {
            self.0.insert(&*name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::{cut_tracestate, is_traceparent};

    fn cut<const N: usize>(values: [&str; N]) -> Option<String> {
        let values = values.map(|value| HeaderValue::from_bytes(value.as_bytes()).unwrap());
        cut_tracestate(values.iter())
    }

    /// A member of this length.
    fn member(name: &str, length: usize) -> String {
        format!("{name}={}", "v".repeat(length - name.len() - 1))
    }

    #[test]
    fn a_tracestate_is_cut_by_members_the_longest_first_then_from_the_end() {
        let of = |lengths: &[(&str, usize)]| {
            let members = lengths.iter().map(|(name, length)| member(name, *length));
            members.collect::<Vec<_>>().join(",")
        };
        let whole = of(&[("a", 128), ("b", 128), ("c", 128), ("d", 125)]);
        assert_eq!(whole.len(), 512);
        assert_eq!(cut([&whole]), Some(whole.clone()));
        for (given, kept) in [
            // One character too many, and none is long: the last one goes.
            (
                vec![("a", 128), ("b", 128), ("c", 128), ("d", 126)],
                vec![("a", 128), ("b", 128), ("c", 128)],
            ),
            // One of more than 128 goes before the last.
            (
                vec![("a", 128), ("b", 129), ("c", 128), ("d", 128)],
                vec![("a", 128), ("c", 128), ("d", 128)],
            ),
            // The longest goes first, and the next one only if it still does not fit.
            (
                vec![("a", 140), ("b", 400), ("c", 130)],
                vec![("a", 140), ("c", 130)],
            ),
            (
                vec![("a", 300), ("b", 400), ("c", 100), ("d", 128)],
                vec![("c", 100), ("d", 128)],
            ),
            // Of equals the one nearer to the end.
            (vec![("a", 300), ("b", 300)], vec![("a", 300)]),
        ] {
            assert_eq!(cut([&of(&given)]), Some(of(&kept)), "{given:?}");
        }
        let many: Vec<_> = (10..42).map(|n| (format!("k{n}"), 20)).collect();
        let many: Vec<_> = many.iter().map(|(name, n)| (&**name, *n)).collect();
        assert_eq!(cut([&of(&many)]), Some(of(&many[..24])));
        assert_eq!(cut([&of(&[("a", 513)])]), None, "nothing is left");
    }

    #[test]
    fn a_tracestate_of_several_headers_is_one_list() {
        assert_eq!(cut(["a=1", "b=2"]).as_deref(), Some("a=1,b=2"));
        assert_eq!(
            cut(["a=1 , b=2,", "", ",\tc=3"]).as_deref(),
            Some("a=1,b=2,c=3")
        );
        let long = member("b", 600);
        assert_eq!(cut(["a=1", &long, "c=3"]).as_deref(), Some("a=1,c=3"));
        assert_eq!(cut(["a=1", "é"]), None);
        assert_eq!(cut(["", ""]), None);
        // No more members are looked at than are allowed.
        assert_eq!(cut([&",".repeat(100_000)]), None);
        assert_eq!(cut(["a=1"; 32]).map(|list| list.len()), Some(32 * 4 - 1));
        assert_eq!(cut(["a=1"; 33]), None);
    }

    #[test]
    fn only_what_w3c_allows_is_a_traceparent() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let span = "00f067aa0ba902b7";
        for (value, expected) in [
            (format!("00-{trace}-{span}-01"), true),
            (format!("00-{trace}-{span}-ff"), true),
            (format!("01-{trace}-{span}-01"), true),
            (format!("01-{trace}-{span}-01-more"), true),
            (format!("01-{trace}-{span}-01more"), false),
            (format!("00-{trace}-{span}-01-more"), false),
            (format!("00-{trace}-{span}-01-"), false),
            (format!("ff-{trace}-{span}-01"), false),
            (format!("0-{trace}-{span}-001"), false),
            (format!("00-{}-{span}-01", trace.to_uppercase()), false),
            (format!("00-{}-{span}-01", &trace[1..]), false),
            (format!("00-0{trace}-{}-01", &span[1..]), false),
            (format!("00-{}-{span}-01", "0".repeat(32)), false),
            (format!("00-{trace}-{}-01", "0".repeat(16)), false),
            (format!("00-{trace}-{span}"), false),
            (format!("00-{trace}-{span}-0"), false),
            (format!("00_{trace}-{span}-01"), false),
            (format!("00-+{}-{span}-01", &trace[1..]), false),
            (String::new(), false),
            ("é".repeat(40), false),
        ] {
            assert_eq!(is_traceparent(&value), expected, "{value}");
        }
    }
}
