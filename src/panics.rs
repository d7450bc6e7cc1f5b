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

/// How many panics were contained in this process: of tracers, and of other code that runs only
/// because of the layer, such as what an error displays.
///
/// It stays 0 while all tracers behave; watch it. With feature `tracing`, the first one in each hook
/// of each type of tracer is also reported as a `tracing` event, with the names of both. Where code
/// of a [`Scope`](crate::tracer::Scope) panics, the name is that of the scope's type.
#[must_use]
pub fn contained_panics() -> u64 {
    CONTAINED.load(Ordering::Relaxed)
}

/// Runs one hook of one tracer, a `T`, or other code of a stranger; `None` where it panicked.
///
/// Also safe in a drop while the thread unwinds: the panic does not leave this function.
#[inline]
pub(crate) fn contain<T: ?Sized + 'static, R>(
    hook: &'static str,
    f: impl FnOnce() -> R,
) -> Option<R> {
    contain_as(hook, Whose::is::<T>, f)
}

/// As [`contain`], for code of whom only this function can tell.
#[inline]
pub(crate) fn contain_as<R>(
    hook: &'static str,
    whose: impl FnOnce() -> Whose,
    f: impl FnOnce() -> R,
) -> Option<R> {
    // What a hook leaves half done is the tracer's own; nothing of the RPC's is lent to it mutably
    // but headers and extensions, which stay valid.
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(payload) => {
            contained(hook, whose(), payload);
            None
        }
    }
}

/// Whose code it is.
#[derive(Clone, Copy)]
pub(crate) struct Whose {
    name: &'static str,
    /// Where it is known: two closures of one function have one name.
    id: Option<TypeId>,
}

impl Whose {
    fn is<T: ?Sized + 'static>() -> Self {
        Self {
            name: type_name::<T>(),
            id: Some(TypeId::of::<T>()),
        }
    }

    pub(crate) fn named(name: &'static str) -> Self {
        Self { name, id: None }
    }

    fn is_same(self, other: Self) -> bool {
        self.name == other.name && (self.id == other.id || self.id.is_none() || other.id.is_none())
    }
}

#[cold]
fn contained(hook: &'static str, whose: Whose, payload: Box<dyn Any + Send>) {
    CONTAINED.fetch_add(1, Ordering::Relaxed);
    if is_first(hook, whose) {
        // A subscriber is a stranger's code too.
        if let Err(panic) = catch_unwind(|| report(hook, whose.name)) {
            CONTAINED.fetch_add(1, Ordering::Relaxed);
            dispose(panic);
        }
    }
    dispose(payload);
}

/// A payload's own drop can panic; what that panic carries is then not dropped at all.
fn dispose(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        CONTAINED.fetch_add(1, Ordering::Relaxed);
        mem::forget(second);
    }
}

/// Whether this hook of this tracer has not panicked before. What is kept is bounded by the types
/// of tracers in the program.
fn is_first(hook: &'static str, whose: Whose) -> bool {
    static SEEN: Mutex<Vec<(&str, Whose)>> = Mutex::new(Vec::new());
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let first = !seen
        .iter()
        .any(|(seen, by)| *seen == hook && by.is_same(whose));
    if first {
        seen.push((hook, whose));
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
