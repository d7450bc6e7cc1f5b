//! What threads share without a lock. `models/` compiles the files that use this with loom's atomics instead.

pub(crate) use std::sync::atomic;
