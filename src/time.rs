//! The platform's clocks. Those of the standard library panic in a browser, where the page has its own.

use std::time::SystemTime;

#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub(crate) use std::time::Instant;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub(crate) use web_time::Instant;

/// The time of day.
pub(crate) fn system_time() -> SystemTime {
    #[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
    return SystemTime::now();
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    return web_time::web::SystemTimeExt::to_std(web_time::SystemTime::now());
}
