//! The ids of the trace that an RPC belongs to.

use http::HeaderMap;

#[cfg(any(feature = "prometheus", feature = "tracing"))]
use crate::RequestParts;

/// A request's [`traceparent`](https://www.w3.org/TR/trace-context/#traceparent-header).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub(crate) trace: TraceId,
    /// The id of the span that made the request.
    #[cfg(feature = "live")]
    pub(crate) span: u64,
}

/// The id of a trace: 32 hexadecimal digits in lower case, not all 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId {
    digits: [u8; 32],
    is_sampled: bool,
}

impl TraceParent {
    pub(crate) fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let value = values.next()?.as_bytes();
        let (head, rest) = value.split_at_checked(55)?;
        let is_whole = match head.get(..2)? {
            b"ff" => false,
            b"00" => rest.is_empty(),
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let mut parts = head.split(|byte| *byte == b'-');
        let [version, trace, parent, flags] = [(); 4].map(|()| parts.next().unwrap_or_default());
        let is_hex = |digits: &[u8], length| {
            digits.len() == length
                && digits
                    .iter()
                    .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |id: &[u8], length| is_hex(id, length) && id.iter().any(|digit| *digit != b'0');
        let is_valid = is_whole
            && values.next().is_none()
            && parts.next().is_none()
            && is_hex(version, 2)
            && is_hex(flags, 2)
            && is_id(parent, 16)
            && is_id(trace, 32);
        let digits = trace.try_into().ok().filter(|_| is_valid)?;
        // Two hexadecimal digits, of which the lowest bit says it.
        let low = flags
            .last()
            .and_then(|digit| char::from(*digit).to_digit(16));
        let trace = TraceId {
            digits,
            is_sampled: low.is_some_and(|bits| bits & 1 == 1),
        };
        Some(Self {
            trace,
            #[cfg(feature = "live")]
            span: number(parent)?,
        })
    }
}

/// The number that 16 hexadecimal digits are.
#[cfg(feature = "live")]
fn number(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

impl TraceId {
    /// That of a request's `traceparent`.
    #[cfg(any(feature = "prometheus", feature = "tracing"))]
    pub(crate) fn of_request(request: &RequestParts<'_>) -> Option<Self> {
        Some(TraceParent::of_headers(request.headers())?.trace)
    }

    /// That of OpenTelemetry's current context, such as of a span of `OtelTracer` beside this tracer.
    #[cfg(any(feature = "prometheus", feature = "tracing"))]
    pub(crate) fn current() -> Option<Self> {
        #[cfg(feature = "otel")]
        {
            use opentelemetry::{Context, trace::TraceContextExt as _};
            let current = Context::map_current(|context| context.span().span_context().clone());
            if current.is_valid() {
                let digits = current.trace_id().to_string().into_bytes();
                return Some(Self {
                    digits: digits.try_into().ok()?,
                    is_sampled: current.is_sampled(),
                });
            }
        }
        None
    }

    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(&self.digits).unwrap_or_default()
    }

    /// Its lower half, which is the random one of ids that begin with the time.
    #[cfg(feature = "live")]
    pub(crate) fn lower_half(&self) -> u64 {
        self.digits.get(16..).and_then(number).unwrap_or_default()
    }

    /// Whether its spans are kept, as far as is known here.
    #[cfg(feature = "prometheus")]
    pub(crate) fn is_sampled(self) -> bool {
        self.is_sampled
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::TraceParent;

    #[test]
    #[cfg(feature = "prometheus")]
    fn flags_say_whether_it_is_sampled() {
        for (flags, sampled) in [
            ("00", false),
            ("01", true),
            ("02", false),
            ("ff", true),
            ("10", false),
        ] {
            let value = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", value.parse().unwrap());
            let parent = TraceParent::of_headers(&headers).unwrap();
            assert_eq!(parent.trace.is_sampled(), sampled);
        }
    }

    fn read(values: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", HeaderValue::from_static(value));
        }
        let parent = TraceParent::of_headers(&headers);
        parent.map(|parent| str::from_utf8(&parent.trace.digits).unwrap().to_owned())
    }

    #[test]
    fn only_a_valid_traceparent_has_an_id() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(read(&[valid]).as_deref(), Some(id));
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert_eq!(read(&[later]).as_deref(), Some(id));
        for invalid in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e47-3600f067aa0ba902b7-0001",
        ] {
            assert_eq!(read(&[invalid]), None, "{invalid}");
        }
        assert_eq!(read(&[valid, valid]), None);
        assert_eq!(read(&[]), None);
    }
}
