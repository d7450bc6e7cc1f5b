//! The Echo service of the examples, the tests and the benchmarks.
//!
//! `generated.rs` is made from `echo.proto`; the test `generated_code` makes it again and compares.

#![allow(dead_code, missing_docs, unreachable_pub, unnameable_types)]

use std::{pin::Pin, time::Duration};

use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

#[rustfmt::skip]
#[allow(clippy::all, rust_2018_idioms)]
mod generated;

pub use generated::{
    EchoRequest, EchoResponse,
    echo_client::EchoClient,
    echo_server::{Echo, EchoServer},
};

/// Does what each request says.
#[derive(Clone, Debug, Default)]
pub struct EchoService;

type Responses = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

/// What one request asks of a handler.
async fn obey(request: &EchoRequest) -> Result<(), Status> {
    if request.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(request.delay_ms.into())).await;
    }
    assert!(!request.panic, "told to panic");
    match i32::try_from(request.code).map_or(Code::Unknown, Code::from_i32) {
        Code::Ok => Ok(()),
        code => Err(Status::new(code, request.message.clone())),
    }
}

fn answer(message: String) -> EchoResponse {
    EchoResponse { message }
}

#[tonic::async_trait]
impl Echo for EchoService {
    async fn unary_echo(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<EchoResponse>, Status> {
        let request = request.into_inner();
        obey(&request).await?;
        Ok(Response::new(answer(request.message)))
    }

    type ServerStreamingEchoStream = Responses;

    async fn server_streaming_echo(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<Responses>, Status> {
        let request = request.into_inner();
        let (count, code) = (request.count.max(1), request.code);
        let each = EchoRequest { code: 0, ..request };
        let messages = tokio_stream::iter(0..count).then(move |_| {
            let each = each.clone();
            async move {
                obey(&each).await?;
                Ok(answer(each.message))
            }
        });
        let end = async move {
            obey(&EchoRequest {
                code,
                ..EchoRequest::default()
            })
            .await
        };
        let end = futures_util::stream::once(end).filter_map(|end| end.err().map(Err));
        Ok(Response::new(Box::pin(messages.chain(end))))
    }

    async fn client_streaming_echo(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoResponse>, Status> {
        let mut requests = request.into_inner();
        let mut all = String::new();
        while let Some(request) = requests.message().await? {
            obey(&request).await?;
            all.push_str(&request.message);
        }
        Ok(Response::new(answer(all)))
    }

    type BidirectionalStreamingEchoStream = Responses;

    async fn bidirectional_streaming_echo(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let requests = request.into_inner();
        let responses = requests.then(|request| async {
            let request = request?;
            obey(&request).await?;
            Ok(answer(request.message))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// A request with this message.
pub fn say(message: impl Into<String>) -> EchoRequest {
    EchoRequest {
        message: message.into(),
        ..EchoRequest::default()
    }
}

/// A listener on a free port of the loopback address, and its URI.
pub async fn listen() -> std::io::Result<(TcpListenerStream, String)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let uri = format!("http://{}", listener.local_addr()?);
    Ok((TcpListenerStream::new(listener), uri))
}
