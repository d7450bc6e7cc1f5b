//! reqwest's client as a tower service, traced: what its calls sent and received, and how they ended.
//!
//! ```sh
//! cargo run -p examples --example reqwest --features reqwest
//! ```
//!
//! A client that reads no body of a response, only its status, says `.finish_at_response()`: else each of
//! its calls is cancelled when it drops the response.

use std::time::Duration;

use axum::{Router, body::Bytes, routing};
use reqwest::{Client, Method, Request};
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_tracer::{TracerLayer, on_finish};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let router = Router::new()
        .route("/echo", routing::post(async |body: Bytes| body))
        .route("/slow", routing::get(std::future::pending::<()>));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });

    let log = on_finish(|rpc| {
        let error = rpc.stats().error().unwrap_or_default();
        println!("{rpc} {error}");
    });
    let client = ServiceBuilder::new()
        .layer(TracerLayer::new(log))
        .service(Client::new());

    let mut echo = Request::new(Method::POST, format!("http://{address}/echo").parse()?);
    *echo.body_mut() = Some("hello".into());
    let response = client.clone().oneshot(echo).await?;
    println!("the server said {}", response.text().await?);

    let missing = Request::new(Method::GET, format!("http://{address}/missing").parse()?);
    client.clone().oneshot(missing).await?.bytes().await?;

    let mut slow = Request::new(Method::GET, format!("http://{address}/slow").parse()?);
    *slow.timeout_mut() = Some(Duration::from_millis(50));
    let error = client.oneshot(slow).await.unwrap_err();
    assert!(error.is_timeout());
    Ok(())
}
