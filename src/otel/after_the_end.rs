//! Why spans are not chosen after their end.

use super::OtelTracer;

/// What would choose spans after their end. Nothing implements it.
///
/// OpenTelemetry's API decides at a span's start whether it is exported, and takes no ids for a span that is
/// made later.
#[diagnostic::on_unimplemented(
    message = "a span is chosen at its start, not after its end",
    label = "an `OtelTracer` cannot take this back: the span has started, and is exported",
    note = "choose before the start, by `.filter(…)`, `.sample(…)` or OpenTelemetry's sampler",
    note = "to keep slow or failed traces, let the collector decide: its `tail_sampling` sees whole traces",
    note = "for metrics of slow or failed RPCs alone, use another tracer, such as `MetricsTracer`"
)]
#[expect(unnameable_types, reason = "it is not meant to be implemented")]
pub trait ChosenAfterTheEnd {}

impl OtelTracer {
    /// Does not compile, since [`Tracer::slower_than`](crate::Tracer::slower_than) could not keep its
    /// promise: a span that has started is exported.
    #[doc(hidden)]
    #[must_use]
    pub fn slower_than(self, _: std::time::Duration) -> Self
    where
        for<'call> Self: ChosenAfterTheEnd,
    {
        self
    }

    /// Does not compile, see [`slower_than`](Self::slower_than).
    #[doc(hidden)]
    #[must_use]
    pub fn finish_if<F>(self, _: F) -> Self
    where
        F: Fn(&crate::RpcInfo) -> bool,
        for<'call> Self: ChosenAfterTheEnd,
    {
        self
    }

    /// Does not compile, see [`slower_than`](Self::slower_than).
    #[doc(hidden)]
    #[must_use]
    pub fn only_failed(self) -> Self
    where
        // With a lifetime the bound is checked at the call, not here.
        for<'call> Self: ChosenAfterTheEnd,
    {
        self
    }
}
