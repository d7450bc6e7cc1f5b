//! Which methods may be named, so that the number of names does not grow with what peers send.

mod descriptor_set;

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::rpc::{MethodKind, MethodPath};

/// The methods that a tracer may name in a label.
///
/// On a server a peer chooses the method's name, and a label of it would let that peer make a new
/// time series per request. So a server lists its methods; every other one is `_OTHER`. A client
/// made by `tonic-build` needs no list: its calls carry their `tonic::GrpcMethod`, which is part of
/// the program.
///
/// ```
/// use tower_tracer::methods::KnownMethods;
///
/// let known = KnownMethods::new(["echo.Echo/UnaryEcho", "echo.Echo/ServerStreamingEcho"]);
/// assert!(known.contains("echo.Echo/UnaryEcho"));
/// assert!(!known.contains("echo.Echo/Nonsense"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownMethods(Arc<BTreeMap<Box<str>, Option<MethodKind>>>);

impl KnownMethods {
    /// These methods, each as `pkg.Svc/Method`; a leading slash is taken off. For names that are
    /// written in the program; for others use [`try_new`](Self::try_new).
    ///
    /// # Panics
    ///
    /// If one of them is not the name of a method, such as a path with a prefix. List methods
    /// without it: they are known under any prefix.
    #[must_use]
    pub fn new<M: AsRef<str>>(full_methods: impl IntoIterator<Item = M>) -> Self {
        match Self::try_new(full_methods) {
            Ok(known) => known,
            Err(error) => panic!("{error}"),
        }
    }

    /// Like [`new`](Self::new), for names that come from a configuration.
    ///
    /// # Errors
    ///
    /// Names the first that is not the name of a method: see [`MethodPath::full_method`].
    pub fn try_new<M: AsRef<str>>(
        full_methods: impl IntoIterator<Item = M>,
    ) -> Result<Self, NotAMethod> {
        Self::with_kinds(full_methods.into_iter().map(|name| (name, None)))
    }

    fn with_kinds<M: AsRef<str>>(
        methods: impl IntoIterator<Item = (M, Option<MethodKind>)>,
    ) -> Result<Self, NotAMethod> {
        let methods = methods.into_iter().map(|(name, kind)| {
            let name = name.as_ref();
            let path: Arc<str> = format!("/{}", name.strip_prefix('/').unwrap_or(name)).into();
            match MethodPath::from(path).full_method() {
                Some(method) => Ok((method.into(), kind)),
                None => Err(NotAMethod(name.into())),
            }
        });
        Ok(Self(Arc::new(methods.collect::<Result<_, _>>()?)))
    }

    /// All methods of all services in an encoded `FileDescriptorSet`, as `tonic-build` writes it
    /// with `file_descriptor_set_path` and servers hand it to gRPC's reflection.
    ///
    /// # Errors
    ///
    /// If the bytes are not a `FileDescriptorSet`, or a name in them is not a method's.
    pub fn from_descriptor_set(encoded: &[u8]) -> Result<Self, InvalidDescriptorSet> {
        let methods = descriptor_set::methods(encoded);
        let known = methods.and_then(|methods| Self::with_kinds(methods).ok());
        known.ok_or(InvalidDescriptorSet(()))
    }

    /// Which sides of `pkg.Svc/Method` stream; `None` if it is not one of these, or comes from a list of
    /// names.
    #[must_use]
    pub fn kind(&self, full_method: &str) -> Option<MethodKind> {
        self.0.get(full_method).copied().flatten()
    }

    pub(crate) fn kind_of_path(&self, path: &str) -> Option<MethodKind> {
        self.kind(last_two(path)?)
    }

    /// Whether `pkg.Svc/Method` is one of them.
    #[must_use]
    pub fn contains(&self, full_method: &str) -> bool {
        self.0.contains_key(full_method)
    }

    /// The method among them that a path ends with: a router that nests a server under a prefix
    /// leaves that in the path of a layer around it.
    #[cfg(any(
        feature = "metrics",
        feature = "otel",
        feature = "prometheus",
        feature = "tracing"
    ))]
    pub(crate) fn find<'a>(&self, path: &'a str) -> Option<&'a str> {
        last_two(path).filter(|method| self.contains(method))
    }

    /// All of them, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }
}

/// A name in a list of methods does not have the form of a method's, `pkg.Svc/Method`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAMethod(Box<str>);

impl NotAMethod {
    /// The name, as it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NotAMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a method: write `pkg.Svc/Method`", self.0)
    }
}

impl std::error::Error for NotAMethod {}

/// The bytes are not a `FileDescriptorSet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidDescriptorSet(());

impl fmt::Display for InvalidDescriptorSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an encoded google.protobuf.FileDescriptorSet")
    }
}

impl std::error::Error for InvalidDescriptorSet {}

/// The last two segments of a path, which name a method whatever is before them.
fn last_two(path: &str) -> Option<&str> {
    let (before, _) = path.rsplit_once('/')?;
    path.get(before.rfind('/')? + 1..)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::{KnownMethods, MethodKind};

    fn echo() -> Vec<u8> {
        let echo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/echo");
        let set = protox::compile([format!("{echo}/echo.proto")], [echo]).unwrap();
        set.encode_to_vec()
    }

    #[test]
    fn a_descriptor_set_gives_the_methods_of_its_services() {
        let known = KnownMethods::from_descriptor_set(&echo()).unwrap();
        assert_eq!(
            known.iter().collect::<Vec<_>>(),
            [
                "echo.Echo/BidirectionalStreamingEcho",
                "echo.Echo/ClientStreamingEcho",
                "echo.Echo/ServerStreamingEcho",
                "echo.Echo/UnaryEcho",
            ]
        );
        for (method, kind) in [
            ("BidirectionalStreamingEcho", MethodKind::BidiStream),
            ("ClientStreamingEcho", MethodKind::ClientStream),
            ("ServerStreamingEcho", MethodKind::ServerStream),
            ("UnaryEcho", MethodKind::Unary),
        ] {
            assert_eq!(known.kind(&format!("echo.Echo/{method}")), Some(kind));
            let path = format!("/api/echo.Echo/{method}");
            assert_eq!(known.kind_of_path(&path), Some(kind));
        }
        assert_eq!(known.kind("echo.Echo/Other"), None);
        assert_eq!(KnownMethods::new(["a.B/C"]).kind("a.B/C"), None);
    }

    #[test]
    fn an_invalid_descriptor_set_is_an_error_and_does_not_panic() {
        let whole = echo();
        for end in 1..whole.len() - 1 {
            // Cut anywhere inside its one file.
            assert!(KnownMethods::from_descriptor_set(&whole[..end]).is_err());
        }
        assert!(KnownMethods::from_descriptor_set(&[0xff; 64]).is_err());
        for at in 0..whole.len() {
            for byte in [0, 0x7f, 0x80, 0xff] {
                let mut garbled = whole.clone();
                garbled[at] = byte;
                let _ = KnownMethods::from_descriptor_set(&garbled);
            }
        }
        assert_eq!(
            KnownMethods::from_descriptor_set(&[]),
            Ok(KnownMethods::default())
        );
    }

    #[test]
    fn the_last_of_two_names_counts_as_in_every_protobuf_library() {
        // A service `S` with a method that is named `A` and then `B`, in the package `p`.
        let method = [0x0a, 1, b'A', 0x0a, 1, b'B'];
        let service = [&[0x0a, 1, b'S', 0x12, 6][..], &method].concat();
        let file = [&[0x12, 1, b'p', 0x32, 11][..], &service].concat();
        let set = [&[0x0a, 16][..], &file].concat();
        let known = KnownMethods::from_descriptor_set(&set).unwrap();
        assert_eq!(known.iter().collect::<Vec<_>>(), ["p.S/B"]);
    }

    #[test]
    fn an_invalid_method_name_is_an_error_that_names_it() {
        let long = format!("a.B/{}", "c".repeat(300));
        for name in [
            "api/pkg.Svc/M",
            "/api/pkg.Svc/M",
            "shop",
            "",
            "/",
            "a.B/",
            "//C",
            "a.B/C d",
            &long,
        ] {
            let error = KnownMethods::try_new(["a.B/C", name]).unwrap_err();
            assert_eq!(error.name(), name);
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    #[should_panic(expected = "\"api/pkg.Svc/M\" is not a method")]
    fn a_list_in_the_program_panics_at_an_invalid_name() {
        let _ = KnownMethods::new(["api/pkg.Svc/M"]);
    }

    #[test]
    #[cfg(any(
        feature = "metrics",
        feature = "otel",
        feature = "prometheus",
        feature = "tracing"
    ))]
    fn a_method_is_found_only_at_the_end_of_a_path() {
        let known = KnownMethods::new(["a.B/C"]);
        for path in ["/a.B/C", "/api/a.B/C", "/api/v1/a.B/C", "//a.B/C"] {
            assert_eq!(known.find(path), Some("a.B/C"), "{path}");
        }
        for path in [
            "",
            "/",
            "a.B/C",
            "/a.B/C/",
            "/a.B/C/D",
            "/apia.B/C",
            "/api/a.B/D",
            "é/C",
        ] {
            assert_eq!(known.find(path), None, "{path}");
        }
    }

    #[test]
    fn a_leading_slash_does_not_make_another_method() {
        assert_eq!(KnownMethods::new(["/a.B/C"]), KnownMethods::new(["a.B/C"]));
    }
}
