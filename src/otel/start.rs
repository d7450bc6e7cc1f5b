//! What a span starts with.

use std::{borrow::Cow, net::SocketAddr};

use opentelemetry::KeyValue;

use super::{
    OtelTracer,
    address::{self, Target},
    forwarded::Forwarded,
    http::HttpExchange,
    series::Key,
    span::What,
};
use crate::{
    RequestParts, Role, RpcInfo,
    methods::generated_name,
    rpc::Address,
    semconv::{System, original_method},
};

/// Room for the attributes that a span gets after its start.
const AT_END: usize = 6;

/// What a span starts with.
pub(super) struct Start {
    pub(super) name: Cow<'static, str>,
    pub(super) attributes: Vec<KeyValue>,
    pub(super) what: What,
}

impl OtelTracer {
    pub(super) fn start_rpc(
        &self,
        rpc: &RpcInfo,
        request: &RequestParts<'_>,
        system: System,
        forwarded: Option<&Forwarded>,
    ) -> Start {
        let key = key(rpc, request.uri(), system);
        let generated = || generated_name(rpc, request);
        let make = self.make_series();
        let series = self.methods.of(rpc, generated, key, &make);
        let mut attributes = Vec::with_capacity(series.at_start.len() + AT_END);
        attributes.extend_from_slice(&series.at_start);
        if series.is_other() {
            attributes.push(original(rpc));
        }
        if series.is_grpc()
            && let (Role::Client, Some(_)) = (rpc.role(), rpc.same_request_parent())
        {
            attributes.push(KeyValue::new(
                "previous-rpc-attempts",
                earlier_attempts(rpc),
            ));
        }
        if let Some(host) = forwarded.and_then(|forwarded| forwarded.host.as_ref())
            && !matches!(rpc.callee().address(), Some(Address::Named(_)))
        {
            attributes.extend(address::server(Target::Authority(host.as_str())));
        }
        Start {
            name: series.span_name.into(),
            attributes,
            what: What::Rpc(series),
        }
    }

    pub(super) fn start_http(
        &self,
        rpc: &RpcInfo,
        request: &RequestParts<'_>,
        forwarded: Option<&Forwarded>,
    ) -> Start {
        let route = match rpc.role() {
            Role::Server => self.http_route.as_ref().and_then(|find| find(request)),
            Role::Client => None,
        };
        let (exchange, attributes) =
            HttpExchange::start(rpc, request, route, &self.http_methods, forwarded);
        Start {
            name: exchange.span_name.clone(),
            attributes,
            what: What::Http(Box::new(exchange)),
        }
    }
}

pub(super) fn peer_attributes(peer: SocketAddr) -> [KeyValue; 2] {
    [
        KeyValue::new("network.peer.address", peer.ip().to_string()),
        KeyValue::new("network.peer.port", i64::from(peer.port())),
    ]
}

/// How many attempts of its call were made before this one.
pub(super) fn earlier_attempts(rpc: &RpcInfo) -> i64 {
    rpc.attempt().saturating_sub(1).into()
}

/// The method as the caller named it.
pub(super) fn original(rpc: &RpcInfo) -> KeyValue {
    KeyValue::new("rpc.method_original", original_method(rpc).to_owned())
}

/// What tells the RPC's series from others of its method.
pub(super) fn key<'a>(rpc: &'a RpcInfo, uri: Option<&'a ::http::Uri>, system: System) -> Key<'a> {
    let role = rpc.role();
    let address = match (rpc.callee().address(), role) {
        (Some(Address::Named(told)), _) => Some(Target::Told(told)),
        (_, Role::Client) => uri.and_then(::http::Uri::authority).map(|authority| {
            let authority = authority.as_str();
            // A user and a password are nobody's business.
            let host = authority.rsplit_once('@').map(|(_, host)| host);
            Target::Authority(host.unwrap_or(authority))
        }),
        // What the connection has is not what clients call.
        (_, Role::Server) => None,
    };
    Key {
        role,
        system,
        address,
    }
}
