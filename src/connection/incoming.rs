//! A server's accepted connections.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use pin_project_lite::pin_project;

use super::{
    BoxConnectionTracer, ConnectionInfo, ConnectionIo, ConnectionTracer,
    info::Addresses,
    io::{Open, addresses_of},
};
use crate::Role;

pin_project! {
    /// A server's incoming connections, for tonic's `serve_with_incoming` or for `axum::serve`.
    ///
    /// It wraps a stream of IO, such as tonic's `TcpIncoming`, or an axum listener. An error of the stream
    /// passes unchanged. tonic's `tls_config` works as before.
    ///
    /// ```no_run
    /// # #[cfg(feature = "transport")] mod doc {
    /// use tonic::transport::{Server, server::TcpIncoming};
    /// use tower_tracer::connection::{ConnectionInfo, ConnectionTracer, Incoming};
    /// # pub(super) async fn run(tracer: impl ConnectionTracer + Clone, routes: tonic::service::Routes)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let incoming = Incoming::new(TcpIncoming::bind("[::1]:50051".parse()?)?, tracer);
    /// Server::builder().add_routes(routes).serve_with_incoming(incoming).await?;
    /// # Ok(()) } }
    /// ```
    #[derive(Clone)]
    #[must_use = "a stream or listener does nothing unless it is served"]
    pub struct Incoming<S> {
        #[pin]
        inner: S,
        acceptor: Acceptor,
    }
}

/// Wraps accepted connections, for an accept loop of your own.
///
/// ```
/// use tokio::net::{TcpListener, TcpStream};
/// use tower_tracer::connection::Acceptor;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let acceptor = Acceptor::new(());
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// # let address = listener.local_addr()?;
/// # let client = TcpStream::connect(address).await?;
/// let (tcp, _) = listener.accept().await?;
/// let io = acceptor.accept(tcp);
/// // A TLS handshake would be here.
/// io.set_ready();
/// assert_eq!(io.connection().peer().unwrap().to_string(), client.local_addr()?.to_string());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Acceptor(BoxConnectionTracer);

impl Acceptor {
    /// Connections that this tracer sees.
    pub fn new(tracer: impl ConnectionTracer) -> Self {
        Self(BoxConnectionTracer::new(tracer))
    }

    /// A connection that was accepted now. The addresses of a TCP or Unix socket are known, and those that tonic's
    /// `Connected` has of other IO once tonic has taken it. Else use [`accept_between`](Self::accept_between).
    pub fn accept<IO: 'static>(&self, io: IO) -> ConnectionIo<IO> {
        let addresses = addresses_of(&io);
        self.accept_with(io, addresses)
    }

    /// A connection between these addresses, such as a TLS stream, that was accepted now.
    pub fn accept_between<IO>(
        &self,
        io: IO,
        local: Option<SocketAddr>,
        peer: Option<SocketAddr>,
    ) -> ConnectionIo<IO> {
        self.accept_with(io, Addresses::of_ip(local, peer))
    }

    fn accept_with<IO>(&self, io: IO, addresses: Option<Addresses>) -> ConnectionIo<IO> {
        let connection = ConnectionInfo::new(Role::Server, None, None, addresses);
        ConnectionIo::new(io, Open::new(&self.0, connection))
    }
}

impl<S> Incoming<S> {
    /// The connections of `inner`, which this tracer sees.
    pub fn new(inner: S, tracer: impl ConnectionTracer) -> Self {
        Self {
            inner,
            acceptor: Acceptor::new(tracer),
        }
    }

    /// The stream or listener inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, IO, E> Stream for Incoming<S>
where
    S: Stream<Item = Result<IO, E>>,
    IO: 'static,
{
    type Item = Result<ConnectionIo<IO>, E>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        let accepted = ready!(this.inner.poll_next(cx));
        Poll::Ready(accepted.map(|accepted| accepted.map(|io| this.acceptor.accept(io))))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

/// A handler gets the record from `ConnectInfo<ConnectionInfo>`, after
/// `into_make_service_with_connect_info::<ConnectionInfo>()`. The layer's record has its peer from there.
#[cfg(feature = "axum")]
impl<L> axum::serve::Listener for Incoming<L>
where
    L: axum::serve::Listener<Io: 'static, Addr: 'static>,
{
    type Io = ConnectionIo<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, address) = self.inner.accept().await;
        // IO of another type than a socket, such as a TLS stream, has the address that the listener says.
        let of_listener = || {
            let address: &dyn std::any::Any = &address;
            Addresses::of_ip(None, address.downcast_ref().copied())
        };
        let addresses = addresses_of(&io).or_else(of_listener);
        let io = self.acceptor.accept_with(io, addresses);
        // axum's `serve` has no handshake.
        io.set_ready();
        (io, address)
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

#[cfg(feature = "axum")]
impl<L> axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Incoming<L>>>
    for ConnectionInfo
where
    L: axum::serve::Listener<Io: 'static, Addr: 'static>,
{
    fn connect_info(stream: axum::serve::IncomingStream<'_, Incoming<L>>) -> Self {
        stream.io().connection().clone()
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acceptor").field(&self.0).finish()
    }
}

impl<S: fmt::Debug> fmt::Debug for Incoming<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("inner", &self.inner)
            .field("acceptor", &self.acceptor)
            .finish()
    }
}
