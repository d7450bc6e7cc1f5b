//! The addresses of servers, in the forms that users write.

use std::{borrow::Cow, net::IpAddr};

/// The server's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// As the layer is configured, in one of the forms that users write.
    Configured(&'a str),
    /// As a client's URI has it, host and port.
    Authority(&'a str),
}

impl Target<'_> {
    /// Host and port of an address of one host; else the whole of it, without a port.
    pub(crate) fn with_host_and_port<R>(self, f: impl FnOnce(&str, Option<u16>) -> R) -> Option<R> {
        let named;
        let (host, port) = match self {
            Self::Configured(name) => {
                named = without_user(name);
                host_and_port(&named)
            }
            Self::Authority(name) => one_host(name).unwrap_or((name, None)),
        };
        (!host.is_empty()).then(|| f(host, port))
    }
}

/// A target as gRPC's own metrics have it, `grpc.target`: with a scheme, which is `dns` for a host, so
/// that series join with those of other implementations.
#[cfg(feature = "otel")]
pub(crate) fn canonical(target: &str) -> Cow<'_, str> {
    let target = without_user(target);
    let scheme = target.split_once(':').map(|(scheme, _)| scheme);
    match scheme {
        Some("http" | "https") => {
            let (host, port) = host_and_port(&target);
            let port = port.unwrap_or(if scheme == Some("https") { 443 } else { 80 });
            match host.contains(':') {
                true => format!("dns:///[{host}]:{port}").into(),
                false => format!("dns:///{host}:{port}").into(),
            }
        }
        Some("dns") if !target.contains("://") => {
            let name = target.strip_prefix("dns:").unwrap_or(&target);
            format!("dns:///{name}").into()
        }
        _ if one_host(&target).is_some_and(|(host, _)| !host.is_empty()) => {
            format!("dns:///{target}").into()
        }
        _ => target,
    }
}

/// An address without the user and the password that a URI may have, which are secrets.
fn without_user(address: &str) -> Cow<'_, str> {
    if address.starts_with("unix:") || address.starts_with("unix-abstract:") {
        return address.into();
    }
    let (scheme, rest) = match address.find("://") {
        Some(at) => address.split_at(at + "://".len()),
        None => ("", address),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{host}{path}").into(),
        None => address.into(),
    }
}

/// Host and port of an address: of a URI, of `host:port`, and of a gRPC name that names one host. Of
/// any other name the whole, as the conventions say, and of a Unix socket its path.
fn host_and_port(address: &str) -> (&str, Option<u16>) {
    if let Some(path) = address.strip_prefix("unix:") {
        return (path.strip_prefix("//").unwrap_or(path), None);
    }
    let host = match address.split_once(':') {
        Some(("http" | "https", url)) => {
            let url = url.strip_prefix("//").unwrap_or(url);
            url.split(['/', '?', '#']).next().unwrap_or(url)
        }
        // `dns:host`, `dns:///host`, and `dns://resolver/host`.
        Some(("dns", name)) => match name.strip_prefix("//") {
            Some(name) => name.split_once('/').map_or(name, |(_, host)| host),
            None => name,
        },
        Some(("ipv4" | "ipv6", address)) => address,
        Some(("unix-abstract", _)) => return (address, None),
        _ => address,
    };
    one_host(host).unwrap_or((address, None))
}

/// `None` for what is more than a host and its port.
fn one_host(text: &str) -> Option<(&str, Option<u16>)> {
    let whole = bare(text).unwrap_or(text);
    if whole.parse::<IpAddr>().is_ok() {
        return Some((whole, None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            let is_number = port.bytes().all(|digit| digit.is_ascii_digit());
            (host, Some(port.parse().ok().filter(|_| is_number)?))
        }
        None => (text, None),
    };
    match bare(host) {
        Some(host) => Some((host, port)),
        None => (!host.contains([':', '/', ','])).then_some((host, port)),
    }
}

/// An address without the brackets of IPv6.
fn bare(host: &str) -> Option<&str> {
    let host = host.strip_prefix('[')?.strip_suffix(']')?;
    (!host.contains(['[', ']', ','])).then_some(host)
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "otel")]
    use super::canonical;
    use super::{host_and_port, without_user};

    #[test]
    fn host_and_port_are_found_in_addresses_as_users_write_them() {
        for (address, expected) in [
            ("greeter:50051", ("greeter", Some(50051))),
            ("greeter", ("greeter", None)),
            ("10.0.0.1:80", ("10.0.0.1", Some(80))),
            ("[::1]:50051", ("::1", Some(50051))),
            ("[::1]", ("::1", None)),
            ("::1", ("::1", None)),
            ("dns:greeter:443", ("greeter", Some(443))),
            ("dns:///greeter.example:443", ("greeter.example", Some(443))),
            ("dns://8.8.8.8/greeter:443", ("greeter", Some(443))),
            ("ipv4:10.0.0.1:80", ("10.0.0.1", Some(80))),
            ("ipv6:[::1]:80", ("::1", Some(80))),
            ("http://greeter:80/path", ("greeter", Some(80))),
            ("http://greeter:1/x@y", ("greeter", Some(1))),
            ("http://u:p@greeter:1/x", ("greeter", Some(1))),
            ("https://greeter?x", ("greeter", None)),
            ("https://[::1]:443", ("::1", Some(443))),
            ("u:p@greeter:80", ("greeter", Some(80))),
            ("unix:/run/greeter.sock", ("/run/greeter.sock", None)),
            ("unix:///run/greeter.sock", ("/run/greeter.sock", None)),
            ("unix:/run/user@1/app.sock", ("/run/user@1/app.sock", None)),
            // Names of more than one host, or of an unknown one.
            (
                "ipv4:10.0.0.1:80,10.0.0.2:80",
                ("ipv4:10.0.0.1:80,10.0.0.2:80", None),
            ),
            ("xds:///service", ("xds:///service", None)),
            (
                "zk://zookeeper:2181/service",
                ("zk://zookeeper:2181/service", None),
            ),
            ("zk://u:p@zookeeper:2181/x", ("zk://zookeeper:2181/x", None)),
            ("vsock:1:2", ("vsock:1:2", None)),
            ("[::1]:80,[::2]:80", ("[::1]:80,[::2]:80", None)),
            ("ipv6:[::1],[::2]:443", ("ipv6:[::1],[::2]:443", None)),
            ("unix-abstract:123", ("unix-abstract:123", None)),
            ("unix-abstract:a@b", ("unix-abstract:a@b", None)),
            ("unix:a@b", ("a@b", None)),
            ("greeter:+1", ("greeter:+1", None)),
            ("greeter:port", ("greeter:port", None)),
            (":50051", ("", Some(50051))),
            ("", ("", None)),
        ] {
            assert_eq!(host_and_port(&without_user(address)), expected, "{address}");
        }
    }

    #[test]
    #[cfg(feature = "otel")]
    fn targets_have_a_scheme() {
        for (target, expected) in [
            ("shop:50051", "dns:///shop:50051"),
            ("shop", "dns:///shop"),
            ("10.0.0.1:80", "dns:///10.0.0.1:80"),
            ("[::1]:80", "dns:///[::1]:80"),
            ("http://shop:50051", "dns:///shop:50051"),
            ("http://u:p@shop/x", "dns:///shop:80"),
            ("https://shop", "dns:///shop:443"),
            ("https://[::1]", "dns:///[::1]:443"),
            ("dns:shop:80", "dns:///shop:80"),
            ("dns:///shop:80", "dns:///shop:80"),
            ("dns://8.8.8.8/shop", "dns://8.8.8.8/shop"),
            ("xds:///shop", "xds:///shop"),
            ("unix:/run/shop.sock", "unix:/run/shop.sock"),
            (
                "ipv4:10.0.0.1:80,10.0.0.2:80",
                "ipv4:10.0.0.1:80,10.0.0.2:80",
            ),
            (":80", ":80"),
            ("", ""),
        ] {
            assert_eq!(canonical(target), expected);
        }
    }
}
