//! Pages to read before, or beside, the reference.

#[doc = include_str!("coming_from_kitex.md")]
pub mod coming_from_kitex {}

#[doc = include_str!("write_a_tracer.md")]
pub mod write_a_tracer {}
