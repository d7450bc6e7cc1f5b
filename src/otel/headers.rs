//! The headers that spans have.

use std::sync::Arc;

use opentelemetry::{Key as Name, KeyValue, StringValue};

use super::Conventions;
use crate::{
    rpc::Protocol,
    semconv::{System, bounded},
};

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
