//! Where spans and metrics go: to the providers that were given, else to the global ones, also if
//! those are installed late.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    Context, InstrumentationScope, global,
    metrics::{Meter, MeterProvider},
    trace::{SpanBuilder, TraceContextExt as _},
};

use super::{metrics::Instruments, span::Spans};

/// Made at the first RPC.
pub(super) struct Live {
    spans: LiveSpans,
    instruments: LiveInstruments,
}

impl Live {
    /// `make` gets a meter, and whether instruments may be bound.
    pub(super) fn new(
        scope: InstrumentationScope,
        spans: Option<Arc<dyn Spans>>,
        meter: Option<Meter>,
        make: impl Fn(&Meter, bool) -> Instruments,
    ) -> Self {
        Self {
            spans: LiveSpans::new(scope.clone(), spans),
            instruments: LiveInstruments::new(scope, meter, make),
        }
    }

    /// Starts a span at `now`: the parent's context with the span in it, and whether it records.
    pub(super) fn start_span(
        &self,
        builder: SpanBuilder,
        parent: &Context,
        now: SystemTime,
    ) -> (Context, bool) {
        self.spans.start(builder, parent, now)
    }

    /// The instruments, for an RPC that starts `now`.
    pub(super) fn instruments_at_start(
        &self,
        now: SystemTime,
        make: impl Fn(&Meter, bool) -> Instruments,
    ) -> &Instruments {
        self.instruments.look_again(now, make);
        self.instruments()
    }

    pub(super) fn instruments(&self) -> &Instruments {
        self.instruments.get()
    }
}

struct LiveSpans {
    scope: InstrumentationScope,
    first: Arc<dyn Spans>,
    is_global: bool,
    /// Whether the global provider was seen to make no spans.
    makes_none: AtomicBool,
    /// From a global provider that was installed later.
    later: OnceLock<Box<dyn Spans>>,
    pace: Pace,
}

impl LiveSpans {
    fn new(scope: InstrumentationScope, given: Option<Arc<dyn Spans>>) -> Self {
        let global = || Arc::new(global::tracer_with_scope(scope.clone())) as Arc<dyn Spans>;
        Self {
            is_global: given.is_none(),
            first: given.unwrap_or_else(global),
            scope,
            makes_none: AtomicBool::new(false),
            later: OnceLock::new(),
            pace: Pace::default(),
        }
    }

    fn start(&self, builder: SpanBuilder, parent: &Context, now: SystemTime) -> (Context, bool) {
        if !self.is_global {
            return self.first.start(builder, parent);
        }
        if let Some(later) = self.later.get() {
            return later.start(builder, parent);
        }
        if self.makes_none.load(Relaxed) && self.pace.is_due(now) {
            let spans = global::tracer_with_scope(self.scope.clone());
            let (context, records) = Spans::start(&spans, builder, parent);
            if records || has_new_span(&context, parent) {
                let _ = self.later.set(Box::new(spans));
            }
            return (context, records);
        }
        let (context, records) = self.first.start(builder, parent);
        if !records && !has_new_span(&context, parent) {
            self.makes_none.store(true, Relaxed);
        }
        (context, records)
    }
}

/// Whether a context has a span of its own. OpenTelemetry's no-op tracer repeats the parent's, and a
/// provider that is shut down makes one without ids; a span that is not sampled has ids of its own.
fn has_new_span(context: &Context, parent: &Context) -> bool {
    let (span, parent) = (context.span(), parent.span());
    let span = span.span_context();
    span.is_valid() && span.span_id() != parent.span_context().span_id()
}

type GlobalMeters = Arc<dyn MeterProvider + Send + Sync>;

struct LiveInstruments {
    scope: InstrumentationScope,
    first: Instruments,
    /// The global provider that those are of, if it may be the one that does nothing.
    placeholder: Option<GlobalMeters>,
    /// Of a global provider that was installed later.
    later: OnceLock<Instruments>,
    pace: Pace,
}

impl LiveInstruments {
    fn new(
        scope: InstrumentationScope,
        given: Option<Meter>,
        make: impl Fn(&Meter, bool) -> Instruments,
    ) -> Self {
        let (first, placeholder) = match given {
            Some(meter) => (make(&meter, true), None),
            None => {
                let provider = global::meter_provider();
                // A provider does not say that it does nothing, but OpenTelemetry's no-op provider has no
                // size, and one that measures has something to measure into.
                let placeholder = (size_of_val(&*provider) == 0).then(|| provider.clone());
                let meter = provider.meter_with_scope(scope.clone());
                // Instruments are bound for good, so those that may do nothing are not.
                (make(&meter, placeholder.is_none()), placeholder)
            }
        };
        Self {
            scope,
            first,
            placeholder,
            later: OnceLock::new(),
            pace: Pace::default(),
        }
    }

    fn get(&self) -> &Instruments {
        match &self.placeholder {
            Some(_) => self.later.get().unwrap_or(&self.first),
            None => &self.first,
        }
    }

    fn look_again(&self, now: SystemTime, make: impl Fn(&Meter, bool) -> Instruments) {
        let Some(placeholder) = &self.placeholder else {
            return;
        };
        if self.later.get().is_some() || !self.pace.is_due(now) {
            return;
        }
        let provider = global::meter_provider();
        if !Arc::ptr_eq(&provider, placeholder) {
            self.later
                .get_or_init(|| make(&provider.meter_with_scope(self.scope.clone()), true));
        }
    }
}

/// How often the global provider is looked at again: at each of the first RPCs, as providers are
/// mostly late by a few, and then often enough. Each look takes a lock of the process.
#[derive(Default)]
struct Pace {
    looks: AtomicU32,
    /// When it was last looked at, in milliseconds of the wall clock.
    last: AtomicU64,
}

impl Pace {
    const FIRST: u32 = 1000;
    const MILLIS: u64 = 100;

    fn is_due(&self, now: SystemTime) -> bool {
        if self.looks.load(Relaxed) < Self::FIRST {
            self.looks.fetch_add(1, Relaxed);
            return true;
        }
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let last = self.last.load(Relaxed);
        // The clock may be set back.
        now.abs_diff(last) >= Self::MILLIS
            && self
                .last
                .compare_exchange(last, now, Relaxed, Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::Pace;

    #[test]
    fn it_is_due_at_each_of_the_first_looks_and_then_in_each_100_ms_once() {
        let at = |millis: u64| UNIX_EPOCH + Duration::from_millis(millis);
        let pace = Pace::default();
        assert!((0..Pace::FIRST).all(|_| pace.is_due(at(50_000))));
        assert!(pace.is_due(at(50_000)), "the first that looks at the clock");
        for (millis, due) in [
            (50_000, false),
            (50_099, false),
            (50_100, true),
            (50_150, false),
            (60_000, true),
            // The clock is set back.
            (10_000, true),
            (10_050, false),
            (10_100, true),
        ] {
            assert_eq!(pace.is_due(at(millis)), due, "{millis}");
        }
    }
}
