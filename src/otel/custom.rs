//! Attributes that a user adds.

use std::fmt;

use opentelemetry::{Array, KeyValue, Value};

use super::OtelTracer;
use crate::{
    RequestParts, RpcInfo,
    combinations::{self, Combinations},
    panics::contain,
};

type AtStart = dyn Fn(&RpcInfo, &RequestParts<'_>, &mut Vec<KeyValue>) + Send + Sync;
type AtEnd = dyn Fn(&RpcInfo, &mut Vec<KeyValue>) + Send + Sync;
type Label = dyn Fn(&RpcInfo) -> Option<String> + Send + Sync;

/// What a user adds to spans and metrics.
#[derive(Default)]
pub(super) struct Custom {
    at_start: Vec<Box<AtStart>>,
    at_end: Vec<Box<AtEnd>>,
    of_metrics: Vec<Box<AtEnd>>,
    combinations: Combinations,
    grpc_label: Option<Box<Label>>,
    grpc_labels: Combinations,
}

/// In place of the attributes of a combination beyond the limit, as the SDK has it.
const OVERFLOW: &str = "otel.metric.overflow";
/// In place of a value of `grpc.client.call.custom` beyond the limit.
const OTHER_LABEL: &str = "other";

impl OtelTracer {
    /// Adds attributes to the span at its start, from the record and the request. Samplers see them.
    ///
    /// Use it for what a request carries, and [`span_attributes`](Self::span_attributes) for what is
    /// known at the end. A panic is contained and counted.
    ///
    /// ```
    /// use opentelemetry::KeyValue;
    /// use tower_tracer::otel::OtelTracer;
    ///
    /// let tracer = OtelTracer::new().start_attributes(|_, request| {
    ///     let tenant = request.headers().get("tenant")?.to_str().ok()?;
    ///     Some(KeyValue::new("shop.tenant", tenant.to_owned()))
    /// });
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn start_attributes<A: IntoIterator<Item = KeyValue>>(
        mut self,
        attributes: impl Fn(&RpcInfo, &RequestParts<'_>) -> A + Send + Sync + 'static,
    ) -> Self {
        let add: Box<AtStart> =
            Box::new(move |rpc, request, to| to.extend(attributes(rpc, request)));
        self.custom.at_start.push(add);
        self
    }

    /// Adds attributes to the span at its end, from the record. [Tags](RpcInfo::set_tag) are there
    /// without it. It is called only for a span that records. A panic is contained and counted.
    ///
    /// ```
    /// use opentelemetry::KeyValue;
    /// use tower_tracer::otel::OtelTracer;
    ///
    /// let tracer = OtelTracer::new().span_attributes(|rpc| {
    ///     let bytes = rpc.stats().response().message_bytes()?;
    ///     Some(KeyValue::new("shop.response.size", i64::try_from(bytes).ok()?))
    /// });
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn span_attributes<A: IntoIterator<Item = KeyValue>>(
        mut self,
        attributes: impl Fn(&RpcInfo) -> A + Send + Sync + 'static,
    ) -> Self {
        let add: Box<AtEnd> = Box::new(move |rpc, to| to.extend(attributes(rpc)));
        self.custom.at_end.push(add);
        self
    }

    /// Adds attributes to the metrics of RPCs and HTTP requests, from the record at the end: to
    /// `rpc.*.call.duration`, `http.*.request.duration` and `http.*.body.size`. gRPC's own metrics
    /// have [one](Self::grpc_custom_label).
    ///
    /// Each combination of values is a time series, so a value that a caller chooses lets the caller
    /// make series. They are bounded: a text is cut to 128 bytes, and after 1000 combinations
    /// ([or as many as you say](Self::metric_attribute_combinations)) a further one is recorded with
    /// `otel.metric.overflow=true` in place of its attributes. A panic is contained and counted.
    ///
    /// ```
    /// use opentelemetry::KeyValue;
    /// use tower_tracer::otel::OtelTracer;
    ///
    /// let tracer = OtelTracer::new().metric_attributes(|rpc| {
    ///     [KeyValue::new("shop.retried", rpc.attempt() > 1)]
    /// });
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn metric_attributes<A: IntoIterator<Item = KeyValue>>(
        mut self,
        attributes: impl Fn(&RpcInfo) -> A + Send + Sync + 'static,
    ) -> Self {
        let add: Box<AtEnd> = Box::new(move |rpc, to| to.extend(attributes(rpc)));
        self.custom.of_metrics.push(add);
        self
    }

    /// Adds these [tags](RpcInfo::set_tag) of the record to the same metrics, bounded in the same way.
    /// A tag that an RPC does not have is left out.
    ///
    /// ```
    /// use tower_tracer::{RpcInfo, otel::OtelTracer};
    ///
    /// let tracer = OtelTracer::new().metric_tags(["tenant"]);
    /// // In a handler:
    /// if let Some(rpc) = RpcInfo::current() {
    ///     rpc.set_tag("tenant", "blue");
    /// }
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn metric_tags(self, tags: impl IntoIterator<Item = &'static str>) -> Self {
        let tags: Vec<_> = tags.into_iter().collect();
        self.metric_attributes(move |rpc| {
            let tag = |name: &&'static str| Some(KeyValue::new(*name, rpc.tag(name)?));
            tags.iter().filter_map(tag).collect::<Vec<_>>()
        })
    }

    /// How many combinations of [`metric_attributes`](Self::metric_attributes) and
    /// [`metric_tags`](Self::metric_tags) have series of their own: 1000 by default.
    #[must_use]
    pub fn metric_attribute_combinations(mut self, most: usize) -> Self {
        self.custom.combinations = Combinations::new(most);
        self
    }

    /// Adds the label `grpc.client.call.custom` of gRFC
    /// [A108](https://github.com/grpc/proposal/blob/master/A108-otel-custom-per-call-label.md) to gRPC's
    /// own metrics of clients. `None` is the empty text. It is called at the start for
    /// `grpc.client.attempt.started`, and at the end for the others.
    ///
    /// After 1000 different values, a further one is `other`. A panic is contained and counted.
    ///
    /// ```
    /// use tower_tracer::otel::{GrpcMetrics, OtelTracer};
    ///
    /// let tracer = OtelTracer::new()
    ///     .grpc_metrics(GrpcMetrics::CallsAndAttempts)
    ///     .grpc_custom_label(|rpc| Some(rpc.tag("tenant")?.into_owned()));
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn grpc_custom_label(
        mut self,
        label: impl Fn(&RpcInfo) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.custom.grpc_label = Some(Box::new(label));
        self
    }
}

impl Custom {
    pub(super) fn at_start(
        &self,
        rpc: &RpcInfo,
        request: &RequestParts<'_>,
        to: &mut Vec<KeyValue>,
    ) {
        for add in &self.at_start {
            contain::<OtelTracer, _>("start_attributes", || add(rpc, request, to));
        }
    }

    pub(super) fn at_end(&self, rpc: &RpcInfo) -> Vec<KeyValue> {
        collect(&self.at_end, "span_attributes", rpc)
    }

    /// Of the RPC's metrics.
    pub(super) fn of_metrics(&self, rpc: &RpcInfo) -> Vec<KeyValue> {
        if self.of_metrics.is_empty() {
            return Vec::new();
        }
        let attributes = collect(&self.of_metrics, "metric_attributes", rpc);
        let attributes: Vec<_> = attributes.into_iter().map(bounded).collect();
        if self.combinations.admits(&text_of(&attributes)) {
            attributes
        } else {
            vec![KeyValue::new(OVERFLOW, true)]
        }
    }

    /// `grpc.client.call.custom`, if there is to be one.
    pub(super) fn grpc_label(&self, rpc: &RpcInfo) -> Option<KeyValue> {
        let label = self.grpc_label.as_ref()?;
        let value = contain::<OtelTracer, _>("grpc_custom_label", || label(rpc));
        let value = value.flatten().unwrap_or_default();
        let value = combinations::value(&value);
        let value = match value.is_empty() || self.grpc_labels.admits(value) {
            true => value.to_owned().into(),
            false => opentelemetry::StringValue::from(OTHER_LABEL),
        };
        Some(KeyValue::new("grpc.client.call.custom", value))
    }
}

fn collect(all: &[Box<AtEnd>], hook: &'static str, rpc: &RpcInfo) -> Vec<KeyValue> {
    let mut attributes = Vec::new();
    for add in all {
        contain::<OtelTracer, _>(hook, || add(rpc, &mut attributes));
    }
    attributes
}

fn bounded(attribute: KeyValue) -> KeyValue {
    let cut = |text: &str| combinations::value(text).to_owned();
    let value = match attribute.value {
        Value::String(text) if text.as_str().len() > combinations::value(text.as_str()).len() => {
            Value::String(cut(text.as_str()).into())
        }
        Value::Array(Array::String(texts)) => {
            let texts = texts.iter().take(16).map(|text| cut(text.as_str()).into());
            Value::Array(Array::String(texts.collect()))
        }
        value => value,
    };
    KeyValue::new(attribute.key, value)
}

/// What tells a combination from others. No text has the separator but one that is made to have it,
/// which then shares a place in the count.
fn text_of(attributes: &[KeyValue]) -> String {
    use fmt::Write as _;
    let mut text = String::new();
    for attribute in attributes {
        let _ = write!(text, "{}={}\0", attribute.key, attribute.value);
    }
    text
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custom")
            .field("at_start", &self.at_start.len())
            .field("at_end", &self.at_end.len())
            .field("of_metrics", &self.of_metrics.len())
            .field("grpc_label", &self.grpc_label.is_some())
            .finish_non_exhaustive()
    }
}
