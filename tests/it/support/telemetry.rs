//! OpenTelemetry's SDK with exporters in memory.

#![allow(dead_code, unreachable_pub)]

use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue, propagation::TextMapCompositePropagator};
use opentelemetry_sdk::{
    metrics::{
        InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
        data::{AggregatedMetrics, Metric, MetricData},
    },
    propagation::{BaggagePropagator, TraceContextPropagator},
    trace::{InMemorySpanExporter, Sampler, SdkTracerProvider, ShouldSample, SpanData},
};
use tower_tracer::otel::{self, OtelTracer};

pub struct Telemetry {
    pub tracer_provider: SdkTracerProvider,
    pub meter_provider: SdkMeterProvider,
    spans: InMemorySpanExporter,
    metrics: InMemoryMetricExporter,
}

/// One series of a histogram.
#[derive(Clone, Debug)]
pub struct Point {
    pub attributes: Vec<String>,
    pub count: u64,
    pub sum: f64,
    pub bounds: Vec<f64>,
}

impl Telemetry {
    pub fn new() -> Self {
        Self::sampled(Sampler::AlwaysOn)
    }

    pub fn sampled(sampler: impl ShouldSample + 'static) -> Self {
        let spans = InMemorySpanExporter::default();
        let metrics = InMemoryMetricExporter::default();
        // Collected when a test asks.
        let reader = PeriodicReader::builder(metrics.clone())
            .with_interval(Duration::from_secs(3600))
            .build();
        Self {
            tracer_provider: SdkTracerProvider::builder()
                .with_sampler(sampler)
                .with_simple_exporter(spans.clone())
                .build(),
            meter_provider: SdkMeterProvider::builder().with_reader(reader).build(),
            spans,
            metrics,
        }
    }

    /// A tracer that reports here, with W3C's propagators.
    pub fn tracer(&self) -> OtelTracer {
        otel::OtelTracer::new()
            .tracer_provider(&self.tracer_provider)
            .meter_provider(&self.meter_provider)
            .propagator(TextMapCompositePropagator::new(vec![
                Box::new(TraceContextPropagator::new()),
                Box::new(BaggagePropagator::new()),
            ]))
    }

    /// The spans that have ended, in that order.
    pub fn spans(&self) -> Vec<SpanData> {
        self.spans.get_finished_spans().unwrap()
    }

    /// The names of the metrics that have figures, sorted.
    pub fn metrics(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.each_metric(|metric| names.push(metric.name().to_owned()));
        names.sort();
        names
    }

    pub fn unit(&self, name: &str) -> String {
        let mut unit = None;
        self.each_metric(|metric| {
            if metric.name() == name {
                unit = Some(metric.unit().to_owned());
            }
        });
        unit.expect("the metric")
    }

    pub fn schema_url(&self, name: &str) -> Option<String> {
        let mut url = None;
        self.each_scope(|scope, metric| {
            if metric.name() == name {
                url = scope.schema_url().map(str::to_owned);
            }
        });
        url
    }

    /// The names of a metric's attributes.
    pub fn label_names(&self, name: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut add = |a: &KeyValue| names.push(a.key.as_str().to_owned());
        self.each_metric(|metric| {
            if metric.name() != name {
                return;
            }
            match metric.data() {
                AggregatedMetrics::F64(MetricData::Histogram(data)) => data
                    .data_points()
                    .for_each(|point| point.attributes().for_each(&mut add)),
                AggregatedMetrics::U64(MetricData::Histogram(data)) => data
                    .data_points()
                    .for_each(|point| point.attributes().for_each(&mut add)),
                AggregatedMetrics::I64(MetricData::Sum(data)) => data
                    .data_points()
                    .for_each(|point| point.attributes().for_each(&mut add)),
                AggregatedMetrics::U64(MetricData::Sum(data)) => data
                    .data_points()
                    .for_each(|point| point.attributes().for_each(&mut add)),
                other => panic!("{name} is neither a histogram nor a sum: {other:?}"),
            }
        });
        names
    }

    /// All series of a histogram.
    pub fn histogram(&self, name: &str) -> Vec<Point> {
        let mut points = Vec::new();
        self.each_metric(|metric| {
            if metric.name() != name {
                return;
            }
            match metric.data() {
                AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                    points.extend(histogram.data_points().map(|point| Point {
                        attributes: attributes(&point.attributes().cloned().collect::<Vec<_>>()),
                        count: point.count(),
                        sum: point.sum(),
                        bounds: point.bounds().collect(),
                    }));
                }
                AggregatedMetrics::U64(MetricData::Histogram(histogram)) => {
                    points.extend(histogram.data_points().map(|point| Point {
                        attributes: attributes(&point.attributes().cloned().collect::<Vec<_>>()),
                        count: point.count(),
                        sum: point.sum() as f64,
                        bounds: point.bounds().collect(),
                    }));
                }
                other => panic!("{name} is no histogram: {other:?}"),
            }
        });
        points
    }

    /// All series of a counter: attributes and value.
    pub fn sum(&self, name: &str) -> Vec<(String, i64)> {
        let mut sums = Vec::new();
        let mut push = |point: Vec<KeyValue>, value| {
            sums.push((attributes(&point).join(" "), value));
        };
        self.each_metric(|metric| {
            if metric.name() != name {
                return;
            }
            match metric.data() {
                AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                    for point in sum.data_points() {
                        push(point.attributes().cloned().collect(), point.value());
                    }
                }
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    for point in sum.data_points() {
                        let value = point.value().try_into().unwrap();
                        push(point.attributes().cloned().collect(), value);
                    }
                }
                other => panic!("{name} is no sum: {other:?}"),
            }
        });
        sums
    }

    fn each_metric(&self, mut each: impl FnMut(&Metric)) {
        self.each_scope(|_, metric| each(metric));
    }

    fn each_scope(&self, mut each: impl FnMut(&InstrumentationScope, &Metric)) {
        self.metrics.reset();
        self.meter_provider.force_flush().unwrap();
        for resource in self.metrics.get_finished_metrics().unwrap() {
            for scope in resource.scope_metrics() {
                // The SDK measures itself with the global provider.
                if scope.scope().name() == "otel.sdk" {
                    continue;
                }
                assert_eq!(scope.scope().name(), "tower-tracer");
                for metric in scope.metrics() {
                    each(scope.scope(), metric);
                }
            }
        }
    }
}

/// `key=value` each, sorted.
pub fn attributes(attributes: &[KeyValue]) -> Vec<String> {
    let line = |a: &KeyValue| format!("{}={}", a.key, a.value);
    let mut lines: Vec<_> = attributes.iter().map(line).collect();
    lines.sort();
    lines
}

pub fn duration(span: &SpanData) -> Duration {
    span.end_time.duration_since(span.start_time).unwrap()
}
