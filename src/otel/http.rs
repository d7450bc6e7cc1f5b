//! Plain HTTP requests, by the conventions for HTTP.

use std::{borrow::Cow, sync::Arc};

use http::{
    StatusCode, Uri, Version,
    header::{HOST, USER_AGENT},
};
use opentelemetry::{KeyValue, StringValue};

use super::{
    OtelTracer, address, attempts::earlier_attempts, forwarded::Forwarded, meters::sorted,
};
use crate::{
    RequestParts, Role, RpcInfo, Status,
    address::Target,
    method_names::OTHER,
    panics::contain,
    rpc::Address,
    semconv::{HTTP_METHOD, HTTP_METHODS, PATH, error_type, full_url, known_http_method, scheme},
    text::bounded,
};

pub(super) type RouteOf = dyn Fn(&RequestParts<'_>) -> Option<String> + Send + Sync;

/// What of plain HTTP is configured.
pub(super) struct HttpSettings {
    pub(super) route: Option<Box<RouteOf>>,
    pub(super) url_template: Option<Box<RouteOf>>,
    pub(super) methods: Vec<&'static str>,
    pub(super) url_query: bool,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            route: None,
            url_template: None,
            methods: HTTP_METHODS.to_vec(),
            url_query: false,
        }
    }
}

/// What is known of an exchange when it starts.
#[derive(Debug)]
pub(super) struct HttpExchange {
    pub(super) span_name: Cow<'static, str>,
    /// What its duration has from its start.
    measured: Vec<KeyValue>,
    pub(super) in_flight: Vec<KeyValue>,
}

/// What is known when it has ended.
#[derive(Debug)]
pub(super) struct HttpOutcome {
    pub(super) failed: bool,
    pub(super) at_end: Vec<KeyValue>,
    pub(super) measured: Vec<KeyValue>,
}

impl HttpExchange {
    /// The exchange, and what its span has from its start.
    pub(super) fn start(
        rpc: &RpcInfo,
        request: &RequestParts<'_>,
        settings: &HttpSettings,
        forwarded: Option<&Forwarded>,
    ) -> (Self, Vec<KeyValue>) {
        let role = rpc.role();
        let method = rpc.http_method();
        let known = method.and_then(|method| known_http_method(method, &settings.methods));
        let label = known.unwrap_or(OTHER);
        let uri = request.uri();
        let forwarded_scheme = forwarded.and_then(|forwarded| forwarded.scheme);
        let scheme = forwarded_scheme.unwrap_or_else(|| scheme(uri));
        let find_route = match role {
            Role::Server => &settings.route,
            Role::Client => &settings.url_template,
        };
        let route = find_route
            .as_ref()
            .and_then(|find| contain::<OtelTracer, _>("http_route", || find(request)).flatten());
        let route = route.map(Arc::<str>::from);
        let name = known.unwrap_or("HTTP");
        let span_name = match &route {
            Some(route) => format!("{name} {route}").into(),
            None => name.into(),
        };
        let query = uri.filter(|_| settings.url_query).and_then(redacted_query);
        let mut measured = Vec::with_capacity(7);
        measured.push(KeyValue::new("http.request.method", label));
        let mut in_flight = Vec::new();
        let server = server(rpc, request, forwarded, scheme);
        let mut at_start = Vec::with_capacity(12);
        match role {
            Role::Server => {
                measured.push(KeyValue::new("url.scheme", scheme));
                in_flight.extend_from_slice(&measured);
                let path = bounded(rpc.path(), PATH).to_owned();
                at_start.push(KeyValue::new("url.path", path));
                at_start.extend(query.map(|query| KeyValue::new("url.query", query)));
                at_start.extend(server);
                let agent = request.headers().get(USER_AGENT);
                if let Some(agent) = agent.and_then(|agent| agent.to_str().ok()) {
                    let agent = bounded(agent, AGENT).to_owned();
                    at_start.push(KeyValue::new("user_agent.original", agent));
                }
                // A client's is known from the response.
                let version = request.version().and_then(protocol_version);
                measured.extend(version.map(|v| KeyValue::new("network.protocol.version", v)));
            }
            Role::Client => {
                measured.extend(server);
                in_flight.extend_from_slice(&measured);
                if let Some(mut url) = uri.and_then(full_url) {
                    if let Some(query) = query {
                        url = format!("{url}?{query}");
                    }
                    at_start.push(KeyValue::new("url.full", url));
                }
                let earlier = earlier_attempts(rpc);
                if earlier > 0 {
                    at_start.push(KeyValue::new("http.request.resend_count", earlier));
                }
            }
        }
        if let Some(route) = route {
            let key = match role {
                Role::Server => "http.route",
                Role::Client => "url.template",
            };
            measured.push(KeyValue::new(key, StringValue::from(route)));
        }
        at_start.extend_from_slice(&measured);
        if let (None, Some(method)) = (known, method) {
            let original = bounded(method.as_str(), HTTP_METHOD).to_owned();
            at_start.push(KeyValue::new("http.request.method_original", original));
        }
        let exchange = Self {
            span_name,
            measured,
            in_flight,
        };
        (exchange, at_start)
    }

    pub(super) fn end(&self, rpc: &RpcInfo) -> HttpOutcome {
        let status = match rpc.stats().status() {
            Some(Status::Http(status)) => Some(status),
            _ => None,
        };
        let error = error_type(rpc);
        let failed = error.is_some();
        // A peer's status is no label of a client's metric as it came.
        let label = match rpc.role() {
            Role::Client => status.map(known_status),
            Role::Server => status,
        };
        let error_label = match (status, label) {
            (Some(status), Some(label)) if status != label => {
                let is_status = |error: Cow<'static, str>| match *error == *status.to_string() {
                    true => label.to_string().into(),
                    false => error,
                };
                error.clone().map(is_status)
            }
            _ => error.clone(),
        };
        let version = rpc.stats().http_version().and_then(protocol_version);
        let version = version.map(|version| KeyValue::new("network.protocol.version", version));
        let mut measured = self.measured.clone();
        measured.extend(outcome(label, error_label).chain(version.clone()));
        HttpOutcome {
            failed,
            at_end: outcome(status, error).chain(version).collect(),
            measured: sorted(measured),
        }
    }
}

/// What the end adds.
fn outcome(
    status: Option<u16>,
    error: Option<Cow<'static, str>>,
) -> impl Iterator<Item = KeyValue> {
    let status = status.map(|s| KeyValue::new("http.response.status_code", i64::from(s)));
    let error = error.map(|error| KeyValue::new("error.type", error));
    status.into_iter().chain(error)
}

/// A status that a peer sent, as a label: one that is not registered counts as the first of its
/// class, and one without a class as a server's error, which is how RFC 9110 has clients take them.
fn known_status(status: u16) -> u16 {
    let registered = StatusCode::from_u16(status).is_ok_and(|s| s.canonical_reason().is_some());
    match status {
        _ if registered => status,
        100..=599 => status - status % 100,
        _ => 500,
    }
}

/// The server's address and port: as the layer is configured, else as a trusted proxy says, else as
/// the request has it, in its URI or in a header. On a server the caller chooses that, so only the span has
/// it.
fn server(
    rpc: &RpcInfo,
    request: &RequestParts<'_>,
    forwarded: Option<&Forwarded>,
    scheme: &str,
) -> Vec<KeyValue> {
    if let Some(Address::Named(configured)) = rpc.callee().address() {
        return address::server(Target::Configured(configured));
    }
    let forwarded = forwarded.and_then(|forwarded| forwarded.host.as_ref());
    let named = forwarded.or_else(|| request.uri()?.authority()).cloned();
    let header = || request.headers().get(HOST)?.as_bytes().try_into().ok();
    let Some(authority) = named.or_else(header) else {
        return Vec::new();
    };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = bounded(bare.unwrap_or(host), address::HOST_NAME);
    let port = match (authority.port_u16(), scheme) {
        (Some(port), _) => Some(port),
        // What follows the host is not a port.
        _ if !authority.as_str().ends_with(authority.host()) => None,
        (None, "https") => Some(443),
        (None, _) => Some(80),
    };
    let host = StringValue::from(Arc::<str>::from(host));
    let mut server = vec![KeyValue::new("server.address", host)];
    server.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
    server
}

/// How much of a client's name for itself a span keeps.
const AGENT: usize = 256;

/// The version of HTTP as the conventions write it.
fn protocol_version(version: Version) -> Option<&'static str> {
    Some(match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => return None,
    })
}

/// Parameters of a query that are credentials: the conventions name them.
const CREDENTIALS: [&str; 7] = [
    "AWSAccessKeyId",
    "Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Goog-Signature",
    "sig",
];

/// The query of a URI, with the values of credentials replaced.
fn redacted_query(uri: &Uri) -> Option<String> {
    let query = bounded(uri.query()?, PATH);
    let parameters = query.split('&').map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_secret = CREDENTIALS.contains(&name) && !value.is_empty();
        is_secret.then(|| format!("{name}=REDACTED").into())
    });
    let parameters = parameters
        .zip(query.split('&'))
        .map(|(redacted, as_it_is)| redacted.unwrap_or(Cow::Borrowed(as_it_is)));
    Some(parameters.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::redacted_query;

    #[test]
    fn credentials_in_a_query_are_redacted() {
        for (uri, expected) in [
            ("/", None),
            ("/?", Some("")),
            ("/?a=1&b", Some("a=1&b")),
            ("/?sig=secret&a=1", Some("sig=REDACTED&a=1")),
            (
                "/?X-Amz-Signature=x&sig=&Sig=y",
                Some("X-Amz-Signature=REDACTED&sig=&Sig=y"),
            ),
            ("/?AWSAccessKeyId=a=b", Some("AWSAccessKeyId=REDACTED")),
        ] {
            let uri = Uri::from_static(uri);
            assert_eq!(redacted_query(&uri).as_deref(), expected, "{uri}");
        }
    }
}
