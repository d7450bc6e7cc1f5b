//! The attributes of an RPC: prebuilt for each method and code, sorted.

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use opentelemetry::{Key as Name, KeyValue, StringValue};

use super::{Conventions, methods::UNDECIDED, metrics::Measured};
use crate::{
    Code, Ending, Role,
    methods::OTHER,
    rpc::Protocol,
    semconv::{System, bounded, is_failure},
};

/// What of the settings stands in attributes.
#[derive(Clone, Debug)]
pub(super) struct Wording {
    pub(super) conventions: Conventions,
    pub(super) status_code: &'static str,
}

/// What else than the method tells series apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    pub(super) role: Role,
    pub(super) system: System,
    pub(super) address: Option<Target<'a>>,
}

/// The server's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// As the layer was told, in one of the forms that users write.
    Told(&'a str),
    /// As a client's URI has it, host and port.
    Authority(&'a str),
}

impl Key<'_> {
    pub(super) fn without_address(self) -> Key<'static> {
        Key {
            role: self.role,
            system: self.system,
            address: None,
        }
    }
}

/// All RPCs of one method, on one side, by one protocol, to one address.
#[derive(Debug)]
pub(super) struct Series {
    role: Role,
    system: System,
    /// The server's, and whether the layer was told it.
    address: Option<(Box<str>, bool)>,
    wording: Wording,
    method: &'static str,
    pub(super) span_name: &'static str,
    /// What a span has from its start.
    pub(super) at_start: Vec<KeyValue>,
    /// Of the RPCs in flight.
    pub(super) in_flight: Vec<KeyValue>,
    /// Of gRPC's own metrics, before the status is known.
    pub(super) grpc_at_start: Vec<KeyValue>,
    outcomes: [OnceLock<Outcome>; Code::ALL.len()],
}

/// What is known when an RPC has ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) failed: bool,
    /// What a span has besides what it had from its start.
    pub(super) at_end: Vec<KeyValue>,
    /// Of the duration.
    pub(super) measured: Measured,
    /// Of the duration by the old conventions.
    pub(super) measured_old: Measured,
    /// Of gRPC's own metrics.
    pub(super) grpc: Vec<KeyValue>,
}

impl Series {
    pub(super) fn new(wording: &Wording, method: &'static str, key: Key<'_>) -> Self {
        let mut series = Self {
            role: key.role,
            system: key.system,
            address: key.address.map(|target| match target {
                Target::Told(name) => (name.into(), true),
                Target::Authority(name) => (name.into(), false),
            }),
            wording: wording.clone(),
            method,
            span_name: if matches!(method, OTHER | UNDECIDED) {
                key.system.span_name()
            } else {
                method
            },
            at_start: Vec::new(),
            in_flight: Vec::new(),
            grpc_at_start: Vec::new(),
            outcomes: [const { OnceLock::new() }; Code::ALL.len()],
        };
        series.at_start = series.common(method != UNDECIDED);
        series.in_flight = sorted(match wording.conventions.has_new() {
            true => vec![
                KeyValue::new("rpc.system.name", key.system.name()),
                KeyValue::new("rpc.method", series.label()),
            ],
            false => series.old(),
        });
        series.grpc_at_start = series.grpc(None);
        series
    }

    pub(super) fn is_for(&self, key: &Key<'_>) -> bool {
        self.role == key.role && self.system == key.system && self.target() == key.address
    }

    pub(super) fn key(&self) -> Key<'_> {
        Key {
            role: self.role,
            system: self.system,
            address: self.target(),
        }
    }

    fn target(&self) -> Option<Target<'_>> {
        let (name, is_told) = self.address.as_ref()?;
        Some(match is_told {
            true => Target::Told(name),
            false => Target::Authority(name),
        })
    }

    /// What the span of an RPC gets whose method was decided at its end; `original` as the peer
    /// named it.
    pub(super) fn method_attributes(&self, original: impl FnOnce() -> KeyValue) -> Vec<KeyValue> {
        let conventions = self.wording.conventions;
        let mut attributes = Vec::new();
        if conventions.has_new() {
            attributes.push(KeyValue::new("rpc.method", self.label()));
            attributes.extend((!self.is_known()).then(original));
        }
        if conventions.has_old() {
            let old = self.old().into_iter().filter(|a| match a.key.as_str() {
                "rpc.service" => true,
                "rpc.method" => !conventions.has_new(),
                _ => false,
            });
            attributes.extend(old);
        }
        attributes
    }

    pub(super) fn is_undecided(&self) -> bool {
        self.method == UNDECIDED
    }

    /// Whether a method that was named is not told, by the conventions that tell.
    pub(super) fn is_other(&self) -> bool {
        self.method == OTHER && self.wording.conventions.has_new()
    }

    pub(super) fn is_known(&self) -> bool {
        !matches!(self.method, OTHER | UNDECIDED)
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.system == System::Grpc
    }

    /// What the end of an RPC with this code adds; built the first time it is asked for.
    pub(super) fn outcome(&self, code: Code) -> &Outcome {
        // The array has a place for each code.
        self.outcomes[code as usize].get_or_init(|| self.end(Some(code), None))
    }

    /// The same for an RPC that has no code: a custom protocol.
    pub(super) fn outcome_without_code(&self, failed: Option<Ending>) -> Outcome {
        self.end(None, failed)
    }

    fn end(&self, code: Option<Code>, failed: Option<Ending>) -> Outcome {
        let error = match code {
            Some(code) if is_failure(self.role, code) => self.system.code(code),
            Some(_) => None,
            None => failed.map(Ending::as_str),
        };
        let status = code.and_then(|code| self.system.code(code));
        let conventions = self.wording.conventions;
        let mut at_end = Vec::new();
        let mut measured = self.common(true);
        let mut measured_old = Vec::new();
        if conventions.has_new() {
            if let Some(status) = status {
                at_end.push(KeyValue::new(self.wording.status_code, status));
            }
            if let Some(error) = error {
                at_end.push(KeyValue::new("error.type", error));
            }
            measured.retain(|a| !matches!(a.key.as_str(), "rpc.system" | "rpc.service"));
            measured.extend(at_end.iter().cloned());
        }
        if conventions.has_old() {
            measured_old = self.old();
            measured_old.extend(self.server());
            let code = match (self.system, code) {
                (System::Grpc, Some(code)) => {
                    let number = i64::from(code as u8);
                    Some(KeyValue::new("rpc.grpc.status_code", number))
                }
                (System::Connect, Some(_)) => {
                    status.map(|error| KeyValue::new("rpc.connect_rpc.error_code", error))
                }
                _ => None,
            };
            at_end.extend(code.clone());
            measured_old.extend(code);
        }
        Outcome {
            failed: error.is_some(),
            at_end,
            measured: Measured::new(sorted(measured)),
            measured_old: Measured::new(sorted(measured_old)),
            grpc: self.grpc(code),
        }
    }

    /// What spans and durations have in common.
    fn common(&self, with_method: bool) -> Vec<KeyValue> {
        let conventions = self.wording.conventions;
        let mut attributes = Vec::with_capacity(8);
        if conventions.has_new() {
            attributes.push(KeyValue::new("rpc.system.name", self.system.name()));
            if with_method {
                attributes.push(KeyValue::new("rpc.method", self.label()));
            }
        }
        if conventions.has_old() {
            let old = self.old().into_iter();
            // The two conventions give this name two meanings: the new one wins.
            attributes
                .extend(old.filter(|a| !(conventions.has_new() && a.key.as_str() == "rpc.method")));
        }
        attributes.extend(self.server());
        attributes
    }

    fn old(&self) -> Vec<KeyValue> {
        let system = match self.system {
            System::Connect => "connect_rpc",
            system => system.name(),
        };
        let mut attributes = vec![KeyValue::new("rpc.system", system)];
        if self.is_known()
            && let Some((service, method)) = self.method.split_once('/')
        {
            attributes.push(KeyValue::new("rpc.service", service));
            attributes.push(KeyValue::new("rpc.method", method));
        }
        attributes
    }

    fn server(&self) -> Vec<KeyValue> {
        self.target().map(server).unwrap_or_default()
    }

    fn grpc(&self, code: Option<Code>) -> Vec<KeyValue> {
        let method = if self.is_known() {
            self.method
        } else {
            "other"
        };
        let mut attributes = vec![KeyValue::new("grpc.method", method)];
        if let Some(code) = code {
            attributes.push(KeyValue::new("grpc.status", code.as_str()));
        }
        if let (Role::Client, Some((target, _))) = (self.role, &self.address) {
            let target = KeyValue::new("grpc.target", shared(&without_user(target)));
            attributes.push(target);
        }
        attributes
    }

    fn label(&self) -> &'static str {
        if self.is_known() { self.method } else { OTHER }
    }
}

/// The SDK finds a series at once where the attributes come sorted.
pub(super) fn sorted(mut attributes: Vec<KeyValue>) -> Vec<KeyValue> {
    attributes.sort_by(|a, b| a.key.cmp(&b.key));
    attributes
}

fn shared(text: &str) -> StringValue {
    StringValue::from(Arc::<str>::from(text))
}

/// `server.address` and `server.port` of an address as users write it.
pub(super) fn server(target: Target<'_>) -> Vec<KeyValue> {
    let told;
    let (host, port) = match target {
        Target::Told(name) => {
            told = without_user(name);
            host_and_port(&told)
        }
        Target::Authority(name) => one_host(name).unwrap_or((name, None)),
    };
    if host.is_empty() {
        return Vec::new();
    }
    let mut server = vec![KeyValue::new("server.address", shared(host))];
    server.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
    server
}

/// An address without the user and the password that a URI may have, which are nobody's business.
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

/// An address without the brackets that one of IPv6 stands in.
fn bare(host: &str) -> Option<&str> {
    let host = host.strip_prefix('[')?.strip_suffix(']')?;
    (!host.contains(['[', ']', ','])).then_some(host)
}

/// `rpc.request.metadata.<key>` and the like, made once.
#[derive(Clone, Debug)]
pub(super) struct AllowedHeader {
    header: http::HeaderName,
    http: Name,
    rpc: Name,
    old_grpc: Name,
    old_connect: Name,
}

/// How much of a header's values a span keeps.
const VALUES: usize = 16;
const VALUE_BYTES: usize = 1024;

impl AllowedHeader {
    /// Adds headers of the request or of the response; what cannot be a header's name is left out.
    pub(super) fn add<'a>(
        allowed: &mut Vec<Self>,
        headers: impl IntoIterator<Item = &'a str>,
        side: &str,
    ) {
        for header in headers {
            let header = http::HeaderName::from_bytes(header.as_bytes());
            if let Ok(header) = header
                && !allowed.iter().any(|known| known.header == header)
            {
                allowed.push(Self::new(header, side));
            }
        }
    }

    fn new(header: http::HeaderName, side: &str) -> Self {
        let name = |name: String| Name::from(Arc::<str>::from(name));
        Self {
            http: name(format!("http.{side}.header.{header}")),
            rpc: name(format!("rpc.{side}.metadata.{header}")),
            old_grpc: name(format!("rpc.grpc.{side}.metadata.{header}")),
            old_connect: name(format!("rpc.connect_rpc.{side}.metadata.{header}")),
            header,
        }
    }

    /// The header's values, by the name that each of the conventions has; those marked as sensitive
    /// and those that are no text are left out.
    pub(super) fn of(
        &self,
        headers: &http::HeaderMap,
        protocol: Protocol,
        conventions: Conventions,
    ) -> Vec<KeyValue> {
        let text = |value: &http::HeaderValue| {
            let text = value.to_str().ok().filter(|_| !value.is_sensitive())?;
            Some(StringValue::from(bounded(text, VALUE_BYTES).to_owned()))
        };
        let values = headers.get_all(&self.header).iter();
        let values: Vec<_> = values.filter_map(text).take(VALUES).collect();
        if values.is_empty() {
            return Vec::new();
        }
        let (new, old) = match System::of(protocol) {
            None => (&self.http, None),
            Some(System::Grpc) => (&self.rpc, Some(&self.old_grpc)),
            Some(System::Connect) => (&self.rpc, Some(&self.old_connect)),
            Some(System::Other) => (&self.rpc, None),
        };
        let old = old.filter(|_| conventions.has_old());
        let new = Some(new).filter(|_| conventions.has_new() || old.is_none());
        let values = opentelemetry::Value::Array(opentelemetry::Array::String(values));
        let named = |name: &Name| KeyValue::new(name.clone(), values.clone());
        new.into_iter().chain(old).map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::KeyValue;

    use super::{Target, host_and_port, server, without_user};

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
            // Names of more than one host, or of none that can be told.
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
    fn without_a_host_there_is_no_server() {
        assert_eq!(server(Target::Told(":50051")), []);
        assert_eq!(server(Target::Told("")), []);
        assert_eq!(server(Target::Told("greeter:80")).len(), 2);
    }

    #[test]
    fn a_host_of_a_uri_may_be_named_like_a_scheme() {
        for host in ["dns", "http", "unix", "ipv4", "greeter"] {
            let expected = [
                KeyValue::new("server.address", host),
                KeyValue::new("server.port", 80),
            ];
            let authority = format!("{host}:80");
            assert_eq!(server(Target::Authority(&authority)), expected);
        }
    }
}
