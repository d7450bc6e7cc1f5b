use std::{
    any::{Any, TypeId, type_name},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

static CONTAINED: AtomicU64 = AtomicU64::new(0);

/// How many panics were contained in this process: panics of tracers, and of other code that runs only
/// because of the layer, such as an error's `Display`.
///
/// It stays 0 while all tracers behave; watch it. With feature `tracing`, the first one in each hook
/// of each type of tracer is also reported as a `tracing` event, with the names of both. If code of a
/// [`Scope`](crate::tracer::Scope) panics, the name is that of the scope's type.
#[must_use]
pub fn contained_panics() -> u64 {
    CONTAINED.load(Ordering::Relaxed)
}

/// Runs one hook of one tracer, a `T`, or other code that is not this crate's; `None` if it panicked.
///
/// Also safe in a drop while the thread unwinds: the panic does not leave this function.
#[inline]
pub(crate) fn contain<T: ?Sized + 'static, R>(
    hook: &'static str,
    f: impl FnOnce() -> R,
) -> Option<R> {
    run(f, |payload| {
        contained(hook, type_name::<T>(), Some(TypeId::of::<T>()), payload);
    })
}

/// As [`contain`], for code whose type has only a name here.
#[inline]
pub(crate) fn contain_as<R>(
    hook: &'static str,
    name: impl FnOnce() -> &'static str,
    f: impl FnOnce() -> R,
) -> Option<R> {
    run(f, |payload| contained(hook, name(), None, payload))
}

#[inline]
fn run<R>(f: impl FnOnce() -> R, on_panic: impl FnOnce(Box<dyn Any + Send>)) -> Option<R> {
    // A hook may leave its own data half changed. Of the RPC it can change only headers and extensions,
    // which stay valid.
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(payload) => {
            on_panic(payload);
            None
        }
    }
}

#[cold]
fn contained(
    hook: &'static str,
    name: &'static str,
    id: Option<TypeId>,
    payload: Box<dyn Any + Send>,
) {
    CONTAINED.fetch_add(1, Ordering::Relaxed);
    if is_first(hook, name, id) {
        // A subscriber can panic too.
        if let Err(panic) = catch_unwind(|| report(hook, name)) {
            CONTAINED.fetch_add(1, Ordering::Relaxed);
            dispose(panic);
        }
    }
    dispose(payload);
}

/// A payload's own drop can panic. The payload of that panic is leaked.
fn dispose(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        CONTAINED.fetch_add(1, Ordering::Relaxed);
        mem::forget(second);
    }
}

/// Whether this hook of this tracer has not panicked before. The list is bounded by the types of tracers
/// in the program. Two closures of one function have one name, so types are compared if both are known.
fn is_first(hook: &'static str, name: &'static str, id: Option<TypeId>) -> bool {
    static SEEN: Mutex<Vec<(&str, &str, Option<TypeId>)>> = Mutex::new(Vec::new());
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let first = !seen.iter().any(|(seen_hook, seen_name, seen_id)| {
        let is_same_type = *seen_id == id || seen_id.is_none() || id.is_none();
        *seen_hook == hook && *seen_name == name && is_same_type
    });
    if first {
        seen.push((hook, name, id));
    }
    first
}

fn report(hook: &'static str, tracer: &'static str) {
    #[cfg(feature = "tracing")]
    ::tracing::error!(
        hook,
        tracer,
        "a tracer panicked; it was contained, and further ones of this hook are only counted \
         (tower_tracer::tracer::contained_panics)"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (hook, tracer);
}
