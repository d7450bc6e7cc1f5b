//! The page on a port of its own.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tower_service::Service as _;

use super::{Live, LiveService, guard::Reader};

/// How many connections are served at a time.
const CONNECTIONS: usize = 128;
/// How long a reader may take to send a request.
const HEADERS: Duration = Duration::from_secs(10);

impl Live {
    /// Serves the page over HTTP/1.1, for ever: `tokio::spawn(live.serve(([127, 0, 0, 1], 6680)))`.
    ///
    /// Unless there is a [`guard`](Self::guard), readers on other machines see nothing, whatever the
    /// address.
    ///
    /// # Errors
    ///
    /// If the address cannot be listened on, such as a port that another page has. The error names it.
    /// With feature `tracing` it is reported too, since a spawned future's result is easily lost.
    pub fn serve(
        &self,
        address: impl Into<SocketAddr>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let (live, address) = (self.clone(), address.into());
        async move {
            match TcpListener::bind(address).await {
                Ok(listener) => live.serve_on(listener).await,
                Err(error) => {
                    let text = format!("the page of RPCs cannot listen on {address}: {error}");
                    #[cfg(feature = "tracing")]
                    ::tracing::error!("{text}");
                    Err(io::Error::new(error.kind(), text))
                }
            }
        }
    }

    /// As [`serve`](Self::serve), on a listener, whose address can be asked for.
    ///
    /// # Errors
    ///
    /// None: what cannot be accepted is tried again.
    pub fn serve_on(
        &self,
        listener: TcpListener,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let service = self.service();
        async move {
            let room = Arc::new(Semaphore::new(CONNECTIONS));
            loop {
                // Closed by nothing.
                let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                    return Ok(());
                };
                match listener.accept().await {
                    Ok((connection, reader)) => {
                        let service = service.clone();
                        tokio::spawn(async move {
                            connected(connection, reader, service).await;
                            drop(place);
                        });
                    }
                    // Such as too many open files: it passes.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        }
    }
}

async fn connected(connection: TcpStream, reader: SocketAddr, service: LiveService) {
    let _ = connection.set_nodelay(true);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Reader(reader));
        let mut service = service.clone();
        async move { Ok::<_, Infallible>(service.call(request).await.unwrap_or_else(|e| match e {})) }
    });
    // A reader that goes away is no error of this page.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(connection), service)
        .await;
}
