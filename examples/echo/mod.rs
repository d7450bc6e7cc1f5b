//! The Echo service of the examples, the tests and the benchmarks.
//!
//! `generated.rs` is made from `echo.proto`; the test `generated_code` makes it again and compares.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unnameable_types,
    unused_imports
)]

use std::{future::Future, pin::Pin, time::Duration};

use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming, transport::server::TcpIncoming};

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
    assert!(!request.panic, "asked to panic");
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

impl EchoRequest {
    /// Asks for so many messages in a server stream.
    pub fn times(self, count: u32) -> Self {
        Self { count, ..self }
    }

    /// Asks to wait before each message of the response.
    pub fn after(self, delay: Duration) -> Self {
        let delay_ms = delay.as_millis().try_into().unwrap_or(u32::MAX);
        Self { delay_ms, ..self }
    }

    /// Asks to end with this code.
    pub fn failing(self, code: Code) -> Self {
        let code = code as u32;
        Self { code, ..self }
    }

    /// Asks the handler to panic.
    pub fn panicking(self) -> Self {
        Self {
            panic: true,
            ..self
        }
    }
}

/// An Echo service of which only `UnaryEcho` does something: what the closure does.
#[derive(Clone, Debug)]
pub struct Unary<F>(pub F);

#[tonic::async_trait]
impl<F, Answer> Echo for Unary<F>
where
    F: Fn(Request<EchoRequest>) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Result<Response<EchoResponse>, Status>> + Send,
{
    async fn unary_echo(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<EchoResponse>, Status> {
        (self.0)(request).await
    }

    type ServerStreamingEchoStream = Responses;

    async fn server_streaming_echo(
        &self,
        _: Request<EchoRequest>,
    ) -> Result<Response<Responses>, Status> {
        Err(Status::unimplemented("only unary"))
    }

    async fn client_streaming_echo(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoResponse>, Status> {
        Err(Status::unimplemented("only unary"))
    }

    type BidirectionalStreamingEchoStream = Responses;

    async fn bidirectional_streaming_echo(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Responses>, Status> {
        Err(Status::unimplemented("only unary"))
    }
}

/// A listener on a free port of the loopback address, and its URI.
pub async fn listen() -> std::io::Result<(TcpIncoming, String)> {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?.with_nodelay(Some(true));
    let uri = format!("http://{}", incoming.local_addr()?);
    Ok((incoming, uri))
}
