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

    fn list<'s>(
        &'s self,
        name: &HeaderName,
        joined: &'s OnceCell<Option<String>>,
        bytes: usize,
        members: usize,
    ) -> Option<&'s str> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?;
        let list = if values.next().is_none() {
            first.to_str().ok()?
        } else {
            joined
                .get_or_init(|| join(self.headers.get_all(name).iter(), bytes))
                .as_deref()?
        };
        let fits = list.len() <= bytes && list.split(',').take(members + 1).count() <= members;
        fits.then_some(list)
    }
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
            "tracestate" => self.list(
                &TRACESTATE,
                &self.tracestate,
                TRACESTATE_BYTES,
                TRACESTATE_MEMBERS,
            ),
            "baggage" => self.list(&BAGGAGE, &self.baggage, BAGGAGE_BYTES, BAGGAGE_MEMBERS),
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
    use super::is_traceparent;

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
