//! The wrapper around a connection's IO.

use std::{
    any::Any,
    fmt,
    io::{self, IoSlice},
    iter,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use hyper_util::{client::legacy::connect, rt::TokioIo};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    BoxConnectionTracer, ConnectionEnd, ConnectionInfo, ConnectionTracer, info::Addresses, rpcs,
    tracer::BoxState,
};
use crate::Role;

pin_project! {
    /// A connection whose tracers see it: made by an [`Incoming`](super::Incoming) or a
    /// [`Connector`](super::Connector). The bytes pass unchanged.
    pub struct ConnectionIo<IO> {
        // Dropped first: the connection is closed when `closed` is called.
        #[pin]
        io: IO,
        open: Open,
    }
}

/// A connection that is open. Its drop calls `closed`.
pub(super) struct Open {
    connection: ConnectionInfo,
    state: Mutex<BoxState>,
}

impl Open {
    pub(super) fn new(tracer: &BoxConnectionTracer, connection: ConnectionInfo) -> Self {
        if connection.role() == Role::Server {
            rpcs::register(&connection);
        }
        let state = tracer.opened(&connection);
        Self {
            connection,
            state: Mutex::new(state),
        }
    }

    pub(super) fn connection(&self) -> &ConnectionInfo {
        &self.connection
    }

    /// Of a server's connection, whose addresses were unknown when it was accepted.
    #[cfg(feature = "transport")]
    fn set_addresses(&self, addresses: Option<Addresses>) {
        if let Some(addresses) = addresses
            && self.connection.set_addresses(addresses)
        {
            rpcs::register(&self.connection);
        }
    }

    pub(super) fn set_ready(&self) {
        if self.connection.set_ready() {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.ready(&self.connection);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.close();
        if self.connection.role() == Role::Server {
            rpcs::unregister(&self.connection);
        }
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.closed(&self.connection);
    }
}

impl<IO> ConnectionIo<IO> {
    pub(super) fn new(io: IO, open: Open) -> Self {
        Self { io, open }
    }

    /// The record of the connection.
    #[must_use]
    pub fn connection(&self) -> &ConnectionInfo {
        &self.open.connection
    }

    /// The IO inside.
    #[must_use]
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Says that the connection is ready: on a server, that its handshake is over. tonic and axum do it by
    /// themselves. Call it in an accept loop of your own; otherwise the connection ends as
    /// [`HandshakeFailed`](ConnectionEnd::HandshakeFailed). The second call does nothing.
    pub fn set_ready(&self) {
        self.open.set_ready();
    }
}

/// Notes what ends a connection.
fn note<T>(connection: &ConnectionInfo, result: &io::Result<T>) {
    if let Err(error) = result
        && error.kind() != io::ErrorKind::Interrupted
    {
        connection.ends(ConnectionEnd::Error(error.kind()));
    }
}

impl<IO: AsyncRead> AsyncRead for ConnectionIo<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let (before, has_room) = (buf.filled().len(), buf.remaining() > 0);
        let result = ready!(this.io.poll_read(cx, buf));
        let connection = &this.open.connection;
        match buf.filled().get(before..) {
            Some(bytes) if !bytes.is_empty() => connection.on_read(bytes),
            _ if result.is_ok() && has_room => connection.ends(ConnectionEnd::PeerClosed),
            _ => {}
        }
        note(connection, &result);
        Poll::Ready(result)
    }
}

impl<IO: AsyncWrite> AsyncWrite for ConnectionIo<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let result = ready!(this.io.poll_write(cx, buf));
        if let Ok(written) = result {
            this.open.connection.on_write(iter::once(buf), written);
        }
        note(&this.open.connection, &result);
        Poll::Ready(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let result = ready!(this.io.poll_write_vectored(cx, bufs));
        if let Ok(written) = result {
            let buffers = bufs.iter().map(|buffer| &**buffer);
            this.open.connection.on_write(buffers, written);
        }
        note(&this.open.connection, &result);
        Poll::Ready(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let result = ready!(this.io.poll_flush(cx));
        note(&this.open.connection, &result);
        Poll::Ready(result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let result = ready!(this.io.poll_shutdown(cx));
        // After the peer has closed, or after an error, that stays the reason.
        note(&this.open.connection, &result);
        this.open.connection.ends(ConnectionEnd::Closed);
        Poll::Ready(result)
    }
}

/// tonic's server asks once, after the handshake.
#[cfg(feature = "transport")]
impl<IO: tonic::transport::server::Connected> tonic::transport::server::Connected
    for ConnectionIo<IO>
{
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        let info = self.io.connect_info();
        if self.connection().addresses().is_none() {
            // Only tonic knows which types have an address, such as that of a TLS stream.
            let mut request = tonic::Request::new(());
            request.extensions_mut().insert(info.clone());
            let addresses = Addresses::of_ip(request.local_addr(), request.remote_addr());
            self.open.set_addresses(addresses);
        }
        self.set_ready();
        info
    }
}

/// hyper-util's client puts the record of the connection into its responses' extensions.
impl<IO: connect::Connection> connect::Connection for ConnectionIo<IO> {
    fn connected(&self) -> connect::Connected {
        self.io.connected().extra(self.connection().clone())
    }
}

impl<IO: fmt::Debug> fmt::Debug for ConnectionIo<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionIo")
            .field("io", &self.io)
            .field("connection", self.connection())
            .finish()
    }
}

/// The addresses of IO of a known type.
pub(super) fn addresses_of(io: &dyn Any) -> Option<Addresses> {
    #[cfg(unix)]
    if let Some(unix) = as_tokio::<tokio::net::UnixStream>(io) {
        use super::info::Socket;

        let name = |address: io::Result<tokio::net::unix::SocketAddr>| {
            let address = address.ok()?;
            let path = address.as_pathname().map(|path| path.to_string_lossy());
            Some(Socket::Unix(
                format!("unix:{}", path.unwrap_or_default()).into(),
            ))
        };
        return Some(Addresses {
            local: name(unix.local_addr()),
            peer: name(unix.peer_addr()),
        });
    }
    let tcp = as_tokio::<TcpStream>(io)?;
    Addresses::of_ip(tcp.local_addr().ok(), tcp.peer_addr().ok())
}

/// As it is, or as hyper's client has it.
fn as_tokio<T: 'static>(io: &dyn Any) -> Option<&T> {
    let of_hyper = || io.downcast_ref::<TokioIo<T>>().map(TokioIo::inner);
    io.downcast_ref().or_else(of_hyper)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, IoSlice},
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use tokio::io::AsyncWrite;

    use crate::connection::Acceptor;

    /// Takes all.
    struct Sink;

    impl AsyncWrite for Sink {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffers: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buffers.iter().map(|buffer| buffer.len()).sum()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn vectored_writes_pass_and_are_read_whatever_is_empty() {
        let io = Acceptor::new(()).accept(Sink);
        let connection = io.connection().clone();
        assert!(io.is_write_vectored());
        // A server's SETTINGS and a PING, cut, with empty buffers in between.
        let bytes = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x06\0\0\0\0\0abcdefgh";
        let (one, rest) = bytes.split_at(4);
        let buffers = [b"", one, b"", rest].map(IoSlice::new);
        let mut context = Context::from_waker(Waker::noop());
        let written = pin!(io).poll_write_vectored(&mut context, &buffers);
        assert!(matches!(written, Poll::Ready(Ok(26))));
        assert_eq!(connection.sent().bytes(), 26);
        assert_eq!(connection.sent().calls(), 1);
        #[cfg(feature = "h2-frames")]
        assert!(connection.h2().is_some());
    }
}
