use std::{borrow::Cow, fmt, net::SocketAddr, sync::Arc};

/// One end of an RPC, as a user describes it to the layer.
///
/// ```
/// use tower_tracer::{TracerLayer, rpc::Endpoint};
///
/// let layer = TracerLayer::new(())
///     .client()
///     .callee(Endpoint::new("greeter").address("greeter.example:50051").tag("zone", "a"));
/// # let _ = layer;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    name: Option<Cow<'static, str>>,
    address: Option<Arc<str>>,
    tags: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

impl Endpoint {
    /// An end with this service name.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: Some(name.into()),
            ..Self::default()
        }
    }

    /// Its address, such as `greeter.example:50051`.
    #[must_use]
    pub fn address(mut self, address: impl Into<Arc<str>>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Something more to know about it, such as its zone or cluster.
    #[must_use]
    pub fn tag(
        mut self,
        key: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.tags.push((key.into(), value.into()));
        self
    }
}

/// Both ends, as the layer is configured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoints {
    pub(crate) caller: Endpoint,
    pub(crate) callee: Endpoint,
}

/// One end of an RPC in its record: what the layer is configured with, and on a server the address
/// of the connection, if it is known.
#[derive(Clone, Copy, Debug)]
pub struct EndpointRef<'a> {
    pub(crate) configured: Option<&'a Endpoint>,
    pub(crate) socket: Option<SocketAddr>,
}

impl<'a> EndpointRef<'a> {
    /// The configured service name.
    #[must_use]
    pub fn name(&self) -> Option<&'a str> {
        self.configured?.name.as_deref()
    }

    /// The address: the configured one, else the connection's.
    #[must_use]
    pub fn address(&self) -> Option<Address<'a>> {
        match self.configured.and_then(|end| end.address.as_deref()) {
            Some(named) => Some(Address::Named(named)),
            None => self.socket.map(Address::Socket),
        }
    }

    /// The address of the connection, if it is known: on a tonic server, that of a TCP connection.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        self.socket
    }

    /// The configured tags.
    pub fn tags(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.configured
            .into_iter()
            .flat_map(|end| end.tags.iter().map(|(key, value)| (&**key, &**value)))
    }

    /// The value of one tag.
    #[must_use]
    pub fn tag(&self, key: &str) -> Option<&'a str> {
        self.tags().find(|(k, _)| *k == key).map(|(_, value)| value)
    }
}

/// An address of one end.
///
/// ```
/// use tower_tracer::rpc::Address;
///
/// assert_eq!(Address::Named("greeter:50051").to_string(), "greeter:50051");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address<'a> {
    /// As a user wrote it for the layer.
    Named(&'a str),
    /// Of the connection.
    Socket(SocketAddr),
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.pad(name),
            Self::Socket(address) => address.fmt(f),
        }
    }
}
