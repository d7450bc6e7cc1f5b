//! Pages to read before, or beside, the reference.
//!
//! * To begin: [`write_a_tracer`], [`tracing_opentelemetry_or_both`], [`hosts`].
//! * If you know another library: [`coming_from_tower_http`],
//!   [`coming_from_tonic_tracing_opentelemetry`], [`coming_from_kitex`], [`comparison`].
//! * What to expect: [`endings`], [`performance`], [`at_scale`].

#[doc = include_str!("at_scale.md")]
pub mod at_scale {}

#[doc = include_str!("coming_from_kitex.md")]
pub mod coming_from_kitex {}

#[doc = include_str!("coming_from_tonic_tracing_opentelemetry.md")]
pub mod coming_from_tonic_tracing_opentelemetry {}

#[doc = include_str!("coming_from_tower_http.md")]
pub mod coming_from_tower_http {}

#[doc = include_str!("comparison.md")]
pub mod comparison {}

#[doc = include_str!("endings.md")]
pub mod endings {}

#[doc = include_str!("hosts.md")]
pub mod hosts {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("tracing_opentelemetry_or_both.md")]
pub mod tracing_opentelemetry_or_both {}

#[doc = include_str!("write_a_tracer.md")]
pub mod write_a_tracer {}
