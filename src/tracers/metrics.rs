//! Metrics on the `metrics` facade.
