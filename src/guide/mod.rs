//! Pages to read before, or beside, the reference.

#[doc = include_str!("coming_from_kitex.md")]
pub mod coming_from_kitex {}
