//! The server of gRPC's interop cases. It prints where it listens, then a line of JSON for each RPC
//! that is over, and serves until it is killed.
//!
//! `interop_server --port N (--traced | --untraced) [--gzip]`

#[path = "mod.rs"]
mod interop;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use interop::{
    ECHO_INITIAL, ECHO_TRAILING, EchoStatus, Empty, Options, Report, ResponseParameters,
    SimpleRequest, SimpleResponse, StreamingInputCallRequest, StreamingInputCallResponse,
    StreamingOutputCallRequest, StreamingOutputCallResponse,
    test_service_server::{TestService, TestServiceServer},
    zeros,
};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{
    Code, Request, Response, Status, Streaming, body::Body, codec::CompressionEncoding::Gzip,
    transport::Server,
};
use tower::Service;
use tower_tracer::TracerLayer;

#[tokio::main]
async fn main() {
    let options = Options::from_args();
    let listener = TcpListener::bind(("127.0.0.1", options.port))
        .await
        .expect("a free port");
    println!("listening on {}", listener.local_addr().expect("its port"));
    let incoming = TcpListenerStream::new(listener);

    let mut service = TestServiceServer::new(Interop).accept_compressed(Gzip);
    if options.gzip {
        service = service.send_compressed(Gzip);
    }
    let aside = tower::layer::layer_fn(Aside);
    let served = if options.traced {
        Server::builder()
            .layer(TracerLayer::new(Report))
            .layer(aside)
            .add_service(service)
            .serve_with_incoming(incoming)
            .await
    } else {
        Server::builder()
            .layer(aside)
            .add_service(service)
            .serve_with_incoming(incoming)
            .await
    };
    served.expect("the server runs until it is killed");
}

struct Interop;

type Responses = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

#[tonic::async_trait]
impl TestService for Interop {
    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        check_compression(&extensions, 0, request.expect_compressed.map(|it| it.value))?;
        check_status(request.response_status.as_ref())?;
        let payload = zeros(size(request.response_size)?);
        let mut response = Response::new(SimpleResponse { payload });
        if !request.response_compressed.is_some_and(|it| it.value) {
            response.disable_compression();
        }
        echo_initial(&metadata.into_headers(), response.metadata_mut());
        Ok(response)
    }

    type StreamingOutputCallStream = Responses;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Responses>, Status> {
        let responses = answer(request.into_inner());
        Ok(Response::new(Box::pin(responses)))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let (_, extensions, mut requests) = request.into_parts();
        let mut total = 0;
        let mut index = 0;
        while let Some(request) = requests.message().await? {
            let expected = request.expect_compressed.map(|it| it.value);
            check_compression(&extensions, index, expected)?;
            total += request.payload.map_or(0, |payload| payload.body.len());
            index += 1;
        }
        let aggregated_payload_size =
            i32::try_from(total).map_err(|_| Status::out_of_range("too much"))?;
        let mut response = Response::new(StreamingInputCallResponse {
            aggregated_payload_size,
        });
        response.disable_compression();
        Ok(response)
    }

    type FullDuplexCallStream = Responses;

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let (metadata, _, requests) = request.into_parts();
        // Each request's own responses, one request after the other.
        let mut responses = futures_util::StreamExt::flat_map(requests, |request| match request {
            Ok(request) => Box::pin(answer(request)) as Responses,
            Err(status) => Box::pin(tokio_stream::once(Err(status))),
        });
        // The headers wait for the first one, as elsewhere: after the headers tonic enforces no
        // timeout.
        let first = responses.next().await;
        let responses = tokio_stream::iter(first).chain(responses);
        let mut response = Response::new(Box::pin(responses) as Responses);
        echo_initial(&metadata.into_headers(), response.metadata_mut());
        Ok(response)
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("this is not implemented"))
    }
}

/// The responses that one request of a streaming call asks for.
fn answer(
    request: StreamingOutputCallRequest,
) -> impl Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send {
    let end = check_status(request.response_status.as_ref()).err();
    tokio_stream::iter(request.response_parameters)
        .then(|response: ResponseParameters| async move {
            if let Ok(pause @ 1..) = u64::try_from(response.interval_us) {
                tokio::time::sleep(Duration::from_micros(pause)).await;
            }
            let payload = zeros(size(response.size)?);
            Ok(StreamingOutputCallResponse { payload })
        })
        .chain(tokio_stream::iter(end.map(Err)))
}

fn size(size: i32) -> Result<usize, Status> {
    match usize::try_from(size) {
        Ok(size @ ..=0x100_0000) => Ok(size),
        _ => Err(Status::invalid_argument("no such size")),
    }
}

/// Fails with the status that a request asks for.
fn check_status(status: Option<&EchoStatus>) -> Result<(), Status> {
    match status {
        Some(status) if status.code != 0 => {
            Err(Status::new(Code::from_i32(status.code), &status.message))
        }
        _ => Ok(()),
    }
}

/// Fails if a message was compressed and should not be, or the other way round.
fn check_compression(
    extensions: &http::Extensions,
    index: usize,
    expected: Option<bool>,
) -> Result<(), Status> {
    let Some(expected) = expected else {
        return Ok(());
    };
    let compressed = extensions
        .get::<Flags>()
        .and_then(|flags| flags.of_message(index));
    if compressed == Some(expected) {
        Ok(())
    } else {
        Err(Status::invalid_argument(format!(
            "message {index}: compressed is {compressed:?}"
        )))
    }
}

fn echo_initial(request: &http::HeaderMap, response: &mut tonic::metadata::MetadataMap) {
    if let Some(value) = request.get(ECHO_INITIAL)
        && let Ok(value) = value.as_bytes().try_into()
    {
        response.insert(ECHO_INITIAL, value);
    }
}

/// Which of a request's messages were compressed on the wire: tonic does not show it to its
/// handlers, and the layer's own count is what is to be tested.
#[derive(Clone, Debug, Default)]
struct Flags(Arc<Mutex<Vec<bool>>>);

impl Flags {
    fn of_message(&self, index: usize) -> Option<bool> {
        let flags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flags.get(index).copied()
    }

    /// Notes the flags of a body's messages on their way.
    fn watch(&self, body: Body) -> Body {
        let flags = self.clone();
        let mut prefix = Vec::with_capacity(5);
        let mut missing = 0_u32;
        Body::new(body.map_frame(move |frame| {
            for &byte in frame.data_ref().into_iter().flatten() {
                if missing > 0 {
                    missing -= 1;
                    continue;
                }
                prefix.push(byte);
                if let [flag, a, b, c, d] = *prefix {
                    let mut flags = flags.0.lock().unwrap_or_else(PoisonError::into_inner);
                    flags.push(flag == 1);
                    missing = u32::from_be_bytes([a, b, c, d]);
                    prefix.clear();
                }
            }
            frame
        }))
    }
}

/// Does what a tonic handler cannot do: sees the requests' compression, and sets a trailer.
#[derive(Clone, Debug)]
struct Aside<S>(S);

impl<S> Service<http::Request<Body>> for Aside<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let flags = Flags::default();
        request.extensions_mut().insert(flags.clone());
        let trailing = request.headers().get(ECHO_TRAILING).cloned();
        let response = self.0.call(request.map(|body| flags.watch(body)));
        Box::pin(async {
            let response = response.await?;
            Ok(match trailing {
                Some(value) => response.map(|body| with_trailer(body, value)),
                None => response,
            })
        })
    }
}

fn with_trailer(body: Body, value: HeaderValue) -> Body {
    Body::new(body.map_frame(move |mut frame| {
        if let Some(trailers) = frame.trailers_mut() {
            trailers.insert(HeaderName::from_static(ECHO_TRAILING), value.clone());
        }
        frame
    }))
}
