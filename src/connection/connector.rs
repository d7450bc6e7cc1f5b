//! A client's connections.

use std::{
    error::Error,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    BoxConnectionTracer, ConnectionEnd, ConnectionInfo, ConnectionIo, ConnectionTracer,
    io::{Open, addresses_of},
};
use crate::{Role, service::errors::chain};

type BoxError = Box<dyn Error + Send + Sync>;

/// A client's connector, for tonic's `connect_with_connector` or for hyper-util's client.
///
/// Each call is an attempt to connect. Its error passes, boxed. tonic's default connector has
/// `TCP_NODELAY` on, and its TLS is above the connector, so both are set here:
///
/// ```no_run
/// # #[cfg(feature = "transport")] mod doc {
/// use hyper_util::client::legacy::connect::HttpConnector;
/// use tonic::transport::Endpoint;
/// use tower_tracer::connection::{ConnectionTracer, Connector};
/// # pub(super) async fn run(tracer: impl ConnectionTracer) -> Result<(), Box<dyn std::error::Error>> {
/// let mut http = HttpConnector::new();
/// http.set_nodelay(true);
/// http.enforce_http(false); // tonic adds TLS for `https`.
/// let connector = Connector::new(http, tracer);
/// let channel = Endpoint::from_static("http://[::1]:50051").connect_with_connector(connector).await?;
/// # drop(channel); Ok(()) } }
/// ```
#[derive(Clone)]
pub struct Connector<C> {
    inner: C,
    tracer: BoxConnectionTracer,
    /// How many attempts in a row had no connection yet.
    attempts: Arc<AtomicU32>,
}

impl<C> Connector<C> {
    /// The connections of `inner`, which this tracer sees.
    pub fn new(inner: C, tracer: impl ConnectionTracer) -> Self {
        Self {
            inner,
            tracer: BoxConnectionTracer::new(tracer),
            attempts: Arc::default(),
        }
    }
}

impl<C> Service<Uri> for Connector<C>
where
    C: Service<Uri, Error: Into<BoxError>>,
    C::Response: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    type Response = TokioIo<ConnectionIo<TokioIo<C::Response>>>;
    type Error = BoxError;
    type Future = ConnectFuture<C::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> ConnectFuture<C::Future> {
        let attempt = self.attempts.fetch_add(1, Relaxed).saturating_add(1);
        let connection = ConnectionInfo::new(Role::Client, target_of(&uri), Some(attempt), None);
        // Before the connector is called: what it does is part of the attempt.
        let open = Open::new(&self.tracer, connection);
        ConnectFuture {
            inner: self.inner.call(uri),
            attempts: Arc::clone(&self.attempts),
            open: Some(open),
        }
    }
}

/// Scheme, host and port: what identifies the target, and no password.
fn target_of(uri: &Uri) -> Option<Box<str>> {
    let host = uri.host()?;
    let mut target = String::new();
    if let Some(scheme) = uri.scheme_str() {
        target.push_str(scheme);
        target.push_str("://");
    }
    target.push_str(host);
    if let Some(port) = uri.port() {
        target.push(':');
        target.push_str(port.as_str());
    }
    Some(target.into())
}

pin_project! {
    /// The future of a [`Connector`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ConnectFuture<F> {
        #[pin]
        inner: F,
        attempts: Arc<AtomicU32>,
        open: Option<Open>,
    }

    impl<F> PinnedDrop for ConnectFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            // It has no result yet.
            if let Some(open) = this.project().open {
                open.connection().ends(ConnectionEnd::Abandoned);
            }
        }
    }
}

impl<F, IO, E> Future for ConnectFuture<F>
where
    F: Future<Output = Result<IO, E>>,
    IO: 'static,
    E: Into<BoxError>,
{
    type Output = Result<TokioIo<ConnectionIo<TokioIo<IO>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx)).map_err(Into::into);
        let Some(open) = this.open.take() else {
            // Polled after its result, and the inner future did not panic.
            return Poll::Ready(Err("this attempt to connect has had its result".into()));
        };
        Poll::Ready(match result {
            Ok(io) => {
                this.attempts.store(0, Relaxed);
                if let Some(addresses) = addresses_of(&io) {
                    open.connection().set_addresses(addresses);
                }
                open.set_ready();
                Ok(TokioIo::new(ConnectionIo::new(TokioIo::new(io), open)))
            }
            Err(error) => {
                let kind = kind_of(&*error);
                open.connection().ends(ConnectionEnd::ConnectFailed(kind));
                drop(open);
                Err(error)
            }
        })
    }
}

/// The kind of the I/O error that caused this one.
fn kind_of(error: &(dyn Error + 'static)) -> io::ErrorKind {
    let mut causes = chain(Some(error));
    let kind = causes.find_map(|cause| cause.downcast_ref().map(io::Error::kind));
    kind.unwrap_or(io::ErrorKind::Other)
}

impl<C: fmt::Debug> fmt::Debug for Connector<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("inner", &self.inner)
            .field("tracer", &self.tracer)
            .finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for ConnectFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectFuture").finish_non_exhaustive()
    }
}
