//! `server.address` and `server.port`.

use std::sync::{Arc, OnceLock};

use opentelemetry::{KeyValue, StringValue};

use crate::{address::Target, text::bounded};

/// How much of a host's name a span keeps, which is as much as DNS allows.
pub(super) const HOST_NAME: usize = 255;

/// `server.address` and `server.port` that the callers of a server name. Most of them name one, the
/// first, which is kept: a span of it needs no allocation.
#[derive(Debug, Default)]
pub(super) struct Authorities(OnceLock<(Box<str>, Vec<KeyValue>)>);

impl Authorities {
    /// Those of an authority, which is what a caller says.
    pub(super) fn server(&self, authority: &str) -> Vec<KeyValue> {
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let make = || server(Target::Authority(bounded(host, HOST_NAME)));
        if host.len() > HOST_NAME {
            return make();
        }
        let (known, attributes) = self.0.get_or_init(|| (host.into(), make()));
        match **known == *host {
            true => attributes.clone(),
            false => make(),
        }
    }
}

pub(super) fn shared(text: &str) -> StringValue {
    StringValue::from(Arc::<str>::from(text))
}

/// `server.address` and `server.port` of an address as users write it.
pub(super) fn server(target: Target<'_>) -> Vec<KeyValue> {
    let attributes = target.with_host_and_port(|host, port| {
        let mut server = vec![KeyValue::new("server.address", shared(host))];
        server.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
        server
    });
    attributes.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use opentelemetry::KeyValue;

    use super::{Target, server};

    #[test]
    fn first_authority_is_kept_and_others_are_built() {
        let authorities = super::Authorities::default();
        for (authority, host, port) in [
            ("shop:50051", "shop", Some(50051)),
            ("other", "other", None),
            ("u:p@shop:50051", "shop", Some(50051)),
        ] {
            let expected = [KeyValue::new("server.address", host)]
                .into_iter()
                .chain(port.map(|port| KeyValue::new("server.port", port)));
            assert_eq!(authorities.server(authority), expected.collect::<Vec<_>>());
        }
        let long = "x".repeat(60_000);
        let server = authorities.server(&long);
        assert_eq!(server[0].value.as_str().len(), 255);
    }

    #[test]
    fn without_a_host_there_is_no_server() {
        assert_eq!(server(Target::Configured(":50051")), []);
        assert_eq!(server(Target::Configured("")), []);
        assert_eq!(server(Target::Configured("greeter:80")).len(), 2);
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
