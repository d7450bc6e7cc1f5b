use std::{fmt, sync::Arc};

use http::uri::PathAndQuery;

/// The path that names a method, `/pkg.Svc/Method` for gRPC, kept without copying it where possible.
///
/// A [`TracedRequest`](crate::service::TracedRequest) hands it to the record. It is made from a
/// `&'static str`, a [`PathAndQuery`] or an `Arc<str>`.
///
/// ```
/// use tower_tracer::rpc::MethodPath;
///
/// let path = MethodPath::from("/echo.Echo/UnaryEcho");
/// assert_eq!(path.full_method(), Some("echo.Echo/UnaryEcho"));
/// assert_eq!(path.service(), Some("echo.Echo"));
/// assert_eq!(path.method(), Some("UnaryEcho"));
///
/// assert_eq!(MethodPath::from("/a/b/c").full_method(), None);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct MethodPath(Repr);

#[derive(Clone, PartialEq, Eq)]
enum Repr {
    Static(&'static str),
    Http(PathAndQuery),
    Shared(Arc<str>),
}

/// A longer path has no method: no name in a metric or a span grows with what a peer sends.
const LONGEST: usize = 256;

impl MethodPath {
    /// The path as it came, without a query. A peer chose it: never use it as a label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Static(path) => path,
            Repr::Http(path) => path.path(),
            Repr::Shared(path) => path,
        }
    }

    /// `pkg.Svc/Method`, or `None` if the path does not have gRPC's form.
    ///
    /// That form is two segments, each of ASCII letters, digits, `.`, `_` and `-`, 256 bytes
    /// together at most.
    #[must_use]
    pub fn full_method(&self) -> Option<&str> {
        split(self.as_str()).map(|(full, _)| full)
    }

    /// `pkg.Svc`, or `None` if the path does not have gRPC's form.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        split(self.as_str()).map(|(full, slash)| &full[..slash])
    }

    /// `Method`, or `None` if the path does not have gRPC's form.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        split(self.as_str()).map(|(full, slash)| &full[slash + 1..])
    }

    /// `pkg` of `pkg.Svc`: all before the last dot, `None` if there is no dot.
    #[must_use]
    pub fn package(&self) -> Option<&str> {
        self.service()?.rsplit_once('.').map(|(package, _)| package)
    }
}

/// `pkg.Svc/Method` and the index of its slash.
fn split(path: &str) -> Option<(&str, usize)> {
    let full = path.strip_prefix('/')?;
    if full.len() > LONGEST {
        return None;
    }
    let mut slash = None;
    for (at, byte) in full.bytes().enumerate() {
        match byte {
            b'/' if slash.is_none() => slash = Some(at),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {}
            _ => return None,
        }
    }
    let slash = slash?;
    (slash > 0 && slash + 1 < full.len()).then_some((full, slash))
}

impl From<&'static str> for MethodPath {
    fn from(path: &'static str) -> Self {
        Self(Repr::Static(path))
    }
}

impl From<PathAndQuery> for MethodPath {
    fn from(path: PathAndQuery) -> Self {
        Self(Repr::Http(path))
    }
}

impl From<Arc<str>> for MethodPath {
    fn from(path: Arc<str>) -> Self {
        Self(Repr::Shared(path))
    }
}

impl fmt::Debug for MethodPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::MethodPath;

    #[test]
    #[cfg_attr(miri, ignore = "it leaks a text on purpose")]
    fn a_path_that_is_no_grpc_path_is_an_unknown_method() {
        let long: &'static str = format!("/a/{}", "b".repeat(60_000)).leak();
        for path in [
            "", "*", "/", "//", "/x", "x/y", "/a/", "//b", "/a/b/c/d", "/é/ü", "/a/%43", "/a/b c",
            "/a/b?q", long,
        ] {
            let path = MethodPath::from(path);
            assert_eq!(path.full_method(), None, "{:.20}", path.as_str());
            assert_eq!(path.service(), None);
            assert_eq!(path.method(), None);
            assert_eq!(path.package(), None);
        }
    }

    #[test]
    fn a_query_is_no_part_of_a_name() {
        let path = MethodPath::from(http::uri::PathAndQuery::from_static("/a.b.C/D?secret=1"));
        assert_eq!(path.full_method(), Some("a.b.C/D"));
        assert_eq!(path.package(), Some("a.b"));
        assert_eq!(path.as_str(), "/a.b.C/D");
    }
}
