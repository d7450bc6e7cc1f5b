//! Parts of the record that no user sees.

pub(crate) mod clock;
mod context;
mod http_method;
mod offset;
pub(super) mod pool;
mod rare;
mod sample;

pub(crate) use clock::Tick;
pub(crate) use context::Slot;
pub(super) use context::current;
pub(crate) use http_method::HttpMethod;
pub(crate) use offset::AtomicOffset;
pub(super) use rare::{MessagesAt, RareFields};
pub(super) use sample::LazySampleKey;
pub(crate) use sample::SampleKey;
