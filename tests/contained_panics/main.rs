//! A tracer that panics changes nothing for the RPC, for its caller and for other tracers; and the panic is
//! counted.
//!
//! They have their own binary: `contained_panics` counts per process.

mod built_in;
#[cfg(feature = "connection")]
mod connection;
mod tracers;

#[path = "../it/support/scripted.rs"]
mod scripted;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Only one test at a time counts panics.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    scripted::quiet();
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
