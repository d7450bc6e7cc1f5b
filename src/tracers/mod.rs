//! Tracers that come with the crate, a feature each. They use only what is public: what they do, a
//! tracer of yours can do.

#[cfg(any(feature = "otel", feature = "tracing"))]
mod conventions;
mod known;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod metrics;
#[cfg(any(feature = "metrics", feature = "otel"))]
mod name_hasher;
#[cfg(feature = "otel")]
#[cfg_attr(docsrs, doc(cfg(feature = "otel")))]
pub mod otel;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
#[cfg(feature = "tracing")]
#[cfg_attr(docsrs, doc(cfg(feature = "tracing")))]
pub mod tracing;

pub use known::{InvalidDescriptorSet, KnownMethods, NotAMethod};
