use std::{fmt, str::FromStr, sync::Arc};

use http::Uri;

/// The server that a client calls, for [`TracerLayer::target`](crate::TracerLayer::target): a tonic
/// `Endpoint`, a URI, or a name as gRPC writes it.
///
/// ```
/// use tower_tracer::{TracerLayer, rpc::Target};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "transport")] {
/// let endpoint = tonic::transport::Endpoint::from_static("http://shop.example:50051");
/// let layer = TracerLayer::new(()).client().target(&endpoint);
/// # let _ = layer;
/// # }
///
/// // Of a channel over several addresses, the name that they belong to:
/// let target: Target = "dns:///shop.example:50051".parse()?;
/// let layer = TracerLayer::new(()).client().target(target);
/// # let _ = layer;
///
/// // What is not a target is an error.
/// assert!("shop example".parse::<Target>().is_err());
/// assert!("/shop.Shop/Buy".parse::<Target>().is_err());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target(pub(crate) Arc<str>);

impl Target {
    /// The most bytes that it has.
    const LONGEST: usize = 1024;

    /// The target as it was given, without a user or a password.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of_uri(uri: &Uri) -> Option<Self> {
        let authority = uri.authority()?.as_str();
        let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
        Some(Self(match uri.scheme_str() {
            Some(scheme) => format!("{scheme}://{host}").into(),
            None => host.into(),
        }))
    }
}

impl FromStr for Target {
    type Err = InvalidTarget;

    /// Takes `host`, `host:port`, a URI with a host, and a name such as `dns:///host:port`,
    /// `ipv4:10.0.0.1:80`, `unix:/run/shop.sock` or `xds:///shop`.
    ///
    /// # Errors
    ///
    /// If the text is empty, has spaces, control characters or more than 1024 bytes, is a path, or has a
    /// user outside of a URI of HTTP.
    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
        let is_target = !text.is_empty()
            && text.len() <= Self::LONGEST
            && text.chars().all(is_plain)
            && !text.starts_with(['/', ':', '?', '#']);
        if !is_target {
            return Err(InvalidTarget(()));
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            // A file's name may have an `@`. Elsewhere a user and a password come before it.
            return match text.contains('@') && !text.starts_with("unix") {
                true => Err(InvalidTarget(())),
                false => Ok(Self(text.into())),
            };
        }
        let uri = text.parse::<Uri>().map_err(|_| InvalidTarget(()))?;
        Self::of_uri(&uri).ok_or(InvalidTarget(()))
    }
}

impl TryFrom<&str> for Target {
    type Error = InvalidTarget;

    fn try_from(text: &str) -> Result<Self, InvalidTarget> {
        text.parse()
    }
}

impl TryFrom<&Uri> for Target {
    type Error = InvalidTarget;

    /// # Errors
    ///
    /// If the URI has no host.
    fn try_from(uri: &Uri) -> Result<Self, InvalidTarget> {
        Self::of_uri(uri).ok_or(InvalidTarget(()))
    }
}

/// The URI that tonic connects to. An endpoint whose URI has no host, such as one for a custom
/// connector, gives an empty target, which is as if there were none.
#[cfg(feature = "transport")]
impl From<&tonic::transport::Endpoint> for Target {
    fn from(endpoint: &tonic::transport::Endpoint) -> Self {
        Self::of_uri(endpoint.uri()).unwrap_or_else(|| Self("".into()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A text or a URI is not a [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTarget(());

impl fmt::Display for InvalidTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a target: expected `host:port`, a URI with a host such as `https://host:port`, or a \
             gRPC name such as `dns:///host:port`, without spaces, without a user, and of at most 1024 \
             bytes",
        )
    }
}

impl std::error::Error for InvalidTarget {}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::Target;

    #[test]
    fn targets_are_hosts_uris_and_names() {
        for (text, expected) in [
            ("shop", Some("shop")),
            ("shop:50051", Some("shop:50051")),
            ("[::1]:50051", Some("[::1]:50051")),
            ("http://shop:50051", Some("http://shop:50051")),
            ("https://u:p@shop/path?x", Some("https://shop")),
            ("dns:///shop:443", Some("dns:///shop:443")),
            ("unix:/run/shop.sock", Some("unix:/run/shop.sock")),
            ("xds:///shop", Some("xds:///shop")),
            ("", None),
            ("/shop", None),
            (":50051", None),
            ("a b", None),
            ("user:secret@shop:80", None),
            ("dns://user:secret@resolver/shop", None),
            ("unix:/run/a@b", Some("unix:/run/a@b")),
            ("a\nb", None),
            ("http://", None),
            ("http:///path", None),
            (&"a".repeat(1025), None),
        ] {
            let target = text.parse::<Target>().ok();
            assert_eq!(target.as_ref().map(Target::as_str), expected, "{text}");
        }
        assert!(Target::try_from(&Uri::from_static("/path")).is_err());
        let target = Target::try_from(&Uri::from_static("https://shop/path"));
        assert_eq!(target.unwrap().as_str(), "https://shop");
    }
}
