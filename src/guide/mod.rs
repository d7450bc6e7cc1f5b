//! Pages to read before the reference, or beside it.

#[doc = include_str!("coming_from_kitex.md")]
pub mod coming_from_kitex {}

#[doc = include_str!("coming_from_tower_http.md")]
pub mod coming_from_tower_http {}

#[doc = include_str!("comparison.md")]
pub mod comparison {}

#[doc = include_str!("endings.md")]
pub mod endings {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("write_a_tracer.md")]
pub mod write_a_tracer {}
