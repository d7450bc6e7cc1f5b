//! The headers that spans have.

use std::sync::Arc;

use opentelemetry::{Key as Name, KeyValue, StringValue};

use super::Conventions;
use crate::{rpc::Protocol, semconv::System, text::bounded};

/// Where a header is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    RequestHeader,
    ResponseHeader,
    ResponseTrailer,
}

/// A header that spans have, and its name by each of the conventions.
#[derive(Clone, Debug)]
pub(super) struct AllowedHeader {
    header: http::HeaderName,
    /// The conventions for HTTP have no trailers.
    http: Option<Name>,
    rpc: Name,
    old_grpc: Name,
    old_connect: Name,
}

/// How many values of a header a span keeps, and how many bytes of each.
const VALUES: usize = 16;
const VALUE_BYTES: usize = 1024;

impl AllowedHeader {
    /// Adds headers to a list.
    ///
    /// # Panics
    ///
    /// If one cannot be the name of a header.
    pub(super) fn add<'a>(
        allowed: &mut Vec<Self>,
        headers: impl IntoIterator<Item = &'a str>,
        place: Place,
    ) {
        for name in headers {
            let Ok(header) = http::HeaderName::from_bytes(name.as_bytes()) else {
                panic!("{name:?} is not the name of a header: letters, digits and `-`, `_`, `.`");
            };
            if !allowed.iter().any(|known| known.header == header) {
                allowed.push(Self::new(header, place));
            }
        }
    }

    fn new(header: http::HeaderName, place: Place) -> Self {
        let name = |name: String| Name::from(Arc::<str>::from(name));
        let (http, rpc, old) = match place {
            Place::RequestHeader => (Some("request.header"), "request.header", "request"),
            Place::ResponseHeader => (Some("response.header"), "response.header", "response"),
            Place::ResponseTrailer => (None, "response.trailer", "response"),
        };
        Self {
            http: http.map(|http| name(format!("http.{http}.{header}"))),
            rpc: name(format!("rpc.{rpc}.{header}")),
            old_grpc: name(format!("rpc.grpc.{old}.metadata.{header}")),
            old_connect: name(format!("rpc.connect_rpc.{old}.metadata.{header}")),
            header,
        }
    }

    /// The header's values, by the name that each of the conventions has. Those marked as sensitive are
    /// left out.
    pub(super) fn of(
        &self,
        headers: &http::HeaderMap,
        protocol: Protocol,
        conventions: Conventions,
    ) -> Vec<KeyValue> {
        let system = System::of(protocol);
        let text = |value: &http::HeaderValue| {
            if value.is_sensitive() {
                return None;
            }
            match value.to_str() {
                Ok(text) => Some(StringValue::from(bounded(text, VALUE_BYTES).to_owned())),
                // Metadata that is not text, from a peer that did not encode it.
                Err(_) if system.is_some() => {
                    let bytes = value.as_bytes();
                    let kept = bytes.get(..VALUE_BYTES / 4 * 3).unwrap_or(bytes);
                    Some(base64(kept).into())
                }
                Err(_) => None,
            }
        };
        let values = headers.get_all(&self.header).iter();
        let values: Vec<_> = values.filter_map(text).take(VALUES).collect();
        if values.is_empty() {
            return Vec::new();
        }
        let (new, old) = match system {
            None => (self.http.as_ref(), None),
            Some(System::Grpc) => (Some(&self.rpc), Some(&self.old_grpc)),
            Some(System::Connect) => (Some(&self.rpc), Some(&self.old_connect)),
            Some(System::Other) => (Some(&self.rpc), None),
        };
        let old = old.filter(|_| conventions.has_old());
        let new = new.filter(|_| conventions.has_new() || old.is_none());
        let values = opentelemetry::Value::Array(opentelemetry::Array::String(values));
        let named = |name: &Name| KeyValue::new(name.clone(), values.clone());
        new.into_iter().chain(old).map(named).collect()
    }
}

/// Bytes as text: [RFC 4648](https://www.rfc-editor.org/rfc/rfc4648#section-4), with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            // Six bits, so always within the alphabet.
            let six = (bits >> (18 - 6 * at) & 0x3f) as usize;
            text.push(match at > group.len() {
                true => '=',
                false => char::from(ALPHABET[six]),
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(super::base64(bytes.as_bytes()), text);
        }
        assert_eq!(super::base64(&[0xff, 0xfe]), "//4=");
    }
}
