use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

static CONTAINED: AtomicU64 = AtomicU64::new(0);

/// How many panics were contained in this process: of tracers, and of other code that runs only
/// because of the layer, such as what an error displays.
///
/// It stays 0 while all tracers behave; watch it. With feature `tracing` the first one is also
/// reported as a `tracing` event.
#[must_use]
pub fn contained_panics() -> u64 {
    CONTAINED.load(Ordering::Relaxed)
}

/// Runs one hook of one tracer, or other code of a stranger; `None` where it panicked.
///
/// Also safe in a drop while the thread unwinds: the panic does not leave this function.
#[inline]
pub(crate) fn contain<R>(hook: &'static str, f: impl FnOnce() -> R) -> Option<R> {
    // What a hook leaves half done is the tracer's own; nothing of the RPC's is lent to it mutably
    // but headers and extensions, which stay valid.
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(payload) => {
            contained(hook, payload);
            None
        }
    }
}

#[cold]
fn contained(hook: &'static str, payload: Box<dyn Any + Send>) {
    let earlier = CONTAINED.fetch_add(1, Ordering::Relaxed);
    if earlier == 0 {
        // A subscriber is a stranger's code too.
        let _ = catch_unwind(|| report(hook));
    }
    // A payload's own drop can panic; what that panic carries is then not dropped at all.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(second);
    }
}

fn report(hook: &'static str) {
    #[cfg(feature = "tracing")]
    ::tracing::error!(
        hook,
        "a tracer panicked; it was contained, and further ones are only counted \
         (tower_tracer::contained_panics)"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = hook;
}
