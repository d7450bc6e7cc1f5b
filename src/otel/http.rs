//! Plain HTTP requests, by the conventions for HTTP.

use std::{borrow::Cow, sync::Arc};

use http::{StatusCode, header::HOST};
use opentelemetry::{KeyValue, StringValue};

use super::{
    address::{self, Target},
    forwarded::Forwarded,
    series::sorted,
    start::earlier_attempts,
};
use crate::{
    Ending, RequestParts, Role, RpcInfo, Status,
    methods::OTHER,
    rpc::Address,
    semconv::{HTTP_METHOD, PATH, bounded, full_url, http_error, known_http_method, scheme},
};

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
        route: Option<String>,
        known_methods: &[&'static str],
        forwarded: Option<&Forwarded>,
    ) -> (Self, Vec<KeyValue>) {
        let role = rpc.role();
        let method = rpc.http_method();
        let known = method.and_then(|method| known_http_method(method, known_methods));
        let label = known.unwrap_or(OTHER);
        let uri = request.uri();
        let forwarded_scheme = forwarded.and_then(|forwarded| forwarded.scheme);
        let scheme = forwarded_scheme.unwrap_or_else(|| scheme(uri));
        let route = route.map(Arc::<str>::from);
        let name = known.unwrap_or("HTTP");
        let span_name = match &route {
            Some(route) => format!("{name} {route}").into(),
            None => name.into(),
        };
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
                at_start.extend(server);
            }
            Role::Client => {
                measured.extend(server);
                in_flight.extend_from_slice(&measured);
                if let Some(url) = uri.and_then(full_url) {
                    at_start.push(KeyValue::new("url.full", url));
                }
                let earlier = earlier_attempts(rpc);
                if earlier > 0 {
                    at_start.push(KeyValue::new("http.request.resend_count", earlier));
                }
            }
        }
        if let Some(route) = route {
            measured.push(KeyValue::new("http.route", StringValue::from(route)));
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
        let stats = rpc.stats();
        let status = match stats.status() {
            Some(Status::Http(status)) => Some(status),
            _ => None,
        };
        let (role, ending) = (rpc.role(), stats.ending());
        let at_end = outcome(role, status, ending);
        let mut measured = self.measured.clone();
        measured.extend(match role {
            Role::Client => outcome(role, status.map(known_status), ending),
            Role::Server => at_end.clone(),
        });
        HttpOutcome {
            failed: http_error(role, status, ending).is_some(),
            at_end,
            measured: sorted(measured),
        }
    }
}

/// What the end adds.
fn outcome(role: Role, status: Option<u16>, ending: Option<Ending>) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(2);
    if let Some(status) = status {
        let status = KeyValue::new("http.response.status_code", i64::from(status));
        attributes.push(status);
    }
    let error = http_error(role, status, ending);
    attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
    attributes
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

/// The server's address and port: as the layer was told, else as a proxy that is trusted says, else as
/// the request has it, which without a host in its URI has a header. On a server that is the
/// caller's word, and stands in the span alone.
fn server(
    rpc: &RpcInfo,
    request: &RequestParts<'_>,
    forwarded: Option<&Forwarded>,
    scheme: &str,
) -> Vec<KeyValue> {
    if let Some(Address::Named(told)) = rpc.callee().address() {
        return address::server(Target::Told(told));
    }
    let forwarded = forwarded.and_then(|forwarded| forwarded.host.as_ref());
    let named = forwarded.or_else(|| request.uri()?.authority()).cloned();
    let header = || request.headers().get(HOST)?.as_bytes().try_into().ok();
    let Some(authority) = named.or_else(header) else {
        return Vec::new();
    };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = bounded(bare.unwrap_or(host), HOST_NAME);
    let port = match (authority.port_u16(), scheme) {
        (Some(port), _) => Some(port),
        // What stands there is no port.
        _ if !authority.as_str().ends_with(authority.host()) => None,
        (None, "https") => Some(443),
        (None, _) => Some(80),
    };
    let host = StringValue::from(Arc::<str>::from(host));
    let mut server = vec![KeyValue::new("server.address", host)];
    server.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
    server
}

/// How much of a host's name a span keeps, which is as much as DNS allows.
pub(super) const HOST_NAME: usize = 255;
