//! Who may read the page.

use std::net::{IpAddr, SocketAddr};

use http::{StatusCode, header, request::Parts};

use super::{Access, config::Config};
use crate::panics::contain;

/// The address of who asks, as [`Live::serve`](super::Live::serve) knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader(pub(super) SocketAddr);

/// What the reader may see, or why there is no answer.
pub(super) fn check(parts: &Parts, config: &Config) -> Result<Access, (StatusCode, &'static str)> {
    if !is_known_host(parts, config) {
        return Err((
            StatusCode::MISDIRECTED_REQUEST,
            "this page is served to the hosts localhost, IP addresses, and those given to `Live::hosts`",
        ));
    }
    let access = match &config.guard {
        // A panic is counted, and shows nothing.
        Some(guard) => contain::<Config, _>("guard", || guard(parts)).unwrap_or(Access::None),
        None => by_address(parts),
    };
    match access {
        Access::None if config.guard.is_none() => Err((
            StatusCode::FORBIDDEN,
            "without a guard, this page is for readers on the same machine: see `Live::guard`",
        )),
        Access::None => Err((
            StatusCode::FORBIDDEN,
            "the guard of this page lets you see nothing",
        )),
        access => Ok(access),
    }
}

/// Readers on this machine see everything.
fn by_address(parts: &Parts) -> Access {
    let reader = reader(parts).map(|address| address.ip().to_canonical());
    match reader {
        Some(address) if address.is_loopback() => Access::Everything,
        _ => Access::None,
    }
}

fn reader(parts: &Parts) -> Option<SocketAddr> {
    let own = parts
        .extensions
        .get::<Reader>()
        .map(|Reader(address)| *address);
    #[cfg(feature = "axum")]
    let own = own.or_else(|| {
        let info = parts
            .extensions
            .get::<axum::extract::ConnectInfo<SocketAddr>>();
        info.map(|info| info.0)
    });
    #[cfg(feature = "transport")]
    let own = own.or_else(|| {
        let info = parts
            .extensions
            .get::<tonic::transport::server::TcpConnectInfo>();
        info.and_then(|info| info.remote_addr())
    });
    own
}

/// Whether the name that the reader used is one of this page. A browser can be made to use any name,
/// and then lets that name's scripts read the answer.
fn is_known_host(parts: &Parts, config: &Config) -> bool {
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let mut named = parts.headers.get_all(header::HOST).iter();
    let host = match (authority, named.next(), named.next()) {
        (Some(authority), None, _) => authority,
        (authority, Some(host), None) => match host.to_str() {
            Ok(host) if authority.is_none_or(|authority| authority == host) => host,
            _ => return false,
        },
        _ => return false,
    };
    let name = without_port(host);
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let lower = name.trim_end_matches('.').to_ascii_lowercase();
    address.parse::<IpAddr>().is_ok()
        || lower == "localhost"
        || lower.ends_with(".localhost")
        || config.hosts.iter().any(|known| **known == *lower)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}
