//! What a span starts with.

use std::{borrow::Cow, net::SocketAddr};

use http::{header::HOST, uri::Authority};
use opentelemetry::KeyValue;

use super::{
    OtelTracer, attempts::earlier_attempts, forwarded::Forwarded, http::HttpExchange, series::Key,
    span::What,
};
use crate::{
    RequestParts, Role, RpcInfo,
    address::Target,
    method_names::generated_name,
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
        if rpc.role() == Role::Server && !matches!(rpc.callee().address(), Some(Address::Named(_)))
        {
            let host = forwarded.and_then(|forwarded| forwarded.host.as_ref());
            let named = host
                .or_else(|| request.uri()?.authority())
                .map(Authority::as_str);
            let header = || request.headers().get(HOST)?.to_str().ok();
            if let Some(authority) = named.or_else(header) {
                attributes.extend(self.authorities.server(authority));
            }
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
        let (exchange, attributes) = HttpExchange::start(rpc, request, &self.http, forwarded);
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

/// The method as the caller named it.
pub(super) fn original(rpc: &RpcInfo) -> KeyValue {
    KeyValue::new("rpc.method_original", original_method(rpc).to_owned())
}

/// What tells the RPC's series from others of its method.
pub(super) fn key<'a>(rpc: &'a RpcInfo, uri: Option<&'a http::Uri>, system: System) -> Key<'a> {
    let role = rpc.role();
    let address = match (rpc.callee().address(), role) {
        (Some(Address::Named(configured)), _) => Some(Target::Configured(configured)),
        (_, Role::Client) => uri.and_then(http::Uri::authority).map(|authority| {
            let authority = authority.as_str();
            // A user and a password are secrets.
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
