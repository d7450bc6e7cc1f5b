//! The client of gRPC's interop cases. It reads the names of cases from its standard input, and
//! prints a line of JSON for each RPC that is over and for each case that is done.
//!
//! `interop_client --port N (--traced | --untraced)`

#[path = "mod.rs"]
mod interop;

use std::{io::BufRead as _, time::Duration};

use interop::{
    BoolValue, ECHO_INITIAL, ECHO_TRAILING, EchoStatus, Empty, Options, Report, ResponseParameters,
    SimpleRequest, SimpleResponse, StreamingInputCallRequest, StreamingOutputCallRequest,
    StreamingOutputCallResponse, test_service_client::TestServiceClient,
    unimplemented_service_client::UnimplementedServiceClient, zeros,
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client::GrpcService,
    codec::CompressionEncoding::Gzip,
    codegen::{Body as HttpBody, Bytes, StdError},
    metadata::{MetadataMap, MetadataValue},
    transport::Endpoint,
};
use tower::ServiceBuilder;
use tower_tracer::TracerLayer;

/// Long enough for a request to reach its server, short enough to wait for.
const A_MOMENT: Duration = Duration::from_millis(300);

#[tokio::main]
async fn main() {
    let options = Options::from_args();
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{}", options.port))
        .expect("a URI")
        .connect()
        .await
        .expect("a server at the port");
    if options.traced {
        let layer = TracerLayer::new(Report);
        run_all(ServiceBuilder::new().layer(layer).service(channel)).await;
    } else {
        run_all(channel).await;
    }
}

async fn run_all<S>(service: S)
where
    S: GrpcService<Body, Error: Into<StdError>> + Clone,
    S::ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    for case in std::io::stdin().lock().lines() {
        let case = case.expect("the name of a case");
        let mut client = Client {
            plain: TestServiceClient::new(service.clone()).accept_compressed(Gzip),
            gzip: TestServiceClient::new(service.clone()).send_compressed(Gzip),
            nowhere: UnimplementedServiceClient::new(service.clone()),
            statuses: Vec::new(),
        };
        let error = client.run(&case).await.err();
        let statuses: Vec<_> = client.statuses.iter().map(|code| *code as i32).collect();
        println!(
            "{}",
            json!({ "case": case, "error": error, "statuses": statuses })
        );
    }
}

/// What went wrong in a case.
type Outcome = Result<(), String>;

struct Client<S> {
    plain: TestServiceClient<S>,
    /// Compresses what it sends.
    gzip: TestServiceClient<S>,
    nowhere: UnimplementedServiceClient<S>,
    /// How the case's RPCs ended.
    statuses: Vec<Code>,
}

impl<S> Client<S>
where
    S: GrpcService<Body, Error: Into<StdError>> + Clone,
    S::ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    async fn run(&mut self, case: &str) -> Outcome {
        match case {
            "empty_unary" => self.empty_unary().await,
            "large_unary" => self.large_unary().await,
            "client_streaming" => self.client_streaming().await,
            "server_streaming" => self.server_streaming().await,
            "ping_pong" => self.ping_pong().await,
            "empty_stream" => self.empty_stream().await,
            "cancel_after_begin" => self.cancel_after_begin().await,
            "cancel_after_first_response" => self.cancel_after_first_response().await,
            "timeout_on_sleeping_server" => self.timeout_on_sleeping_server().await,
            "custom_metadata" => self.custom_metadata().await,
            "status_code_and_message" => self.status_with_message("test status message").await,
            "special_status_message" => {
                let message = "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";
                self.status_with_message(message).await
            }
            "unimplemented_method" => {
                let response = self.plain.unimplemented_call(Empty {}).await;
                self.fails_with(response, Code::Unimplemented).map(drop)
            }
            "unimplemented_service" => {
                let response = self.nowhere.unimplemented_call(Empty {}).await;
                self.fails_with(response, Code::Unimplemented).map(drop)
            }
            "client_compressed_unary" => self.client_compressed_unary().await,
            "client_compressed_unary_probe" => {
                let response = self.plain.unary_call(told_compressed(true)).await;
                self.fails_with(response, Code::InvalidArgument).map(drop)
            }
            "server_compressed_unary" => self.server_compressed_unary().await,
            "client_compressed_streaming" => self.client_compressed_streaming().await,
            "client_compressed_streaming_probe" => {
                let requests = tokio_stream::iter([input(27182, Some(true))]);
                let response = self.plain.streaming_input_call(requests).await;
                self.fails_with(response, Code::InvalidArgument).map(drop)
            }
            "server_compressed_streaming" => self.server_compressed_streaming().await,
            _ => Err("no such case".to_owned()),
        }
    }

    async fn empty_unary(&mut self) -> Outcome {
        let response = self.plain.empty_call(Empty {}).await;
        self.succeeds(response).map(drop)
    }

    async fn large_unary(&mut self) -> Outcome {
        let response = self.plain.unary_call(large()).await;
        is_large(self.succeeds(response)?)
    }

    async fn client_streaming(&mut self) -> Outcome {
        let requests = [27182, 8, 1828, 45904].map(|size| input(size, None));
        let response = self
            .plain
            .streaming_input_call(tokio_stream::iter(requests))
            .await;
        let total = self.succeeds(response)?.into_inner();
        equal("total", total.aggregated_payload_size, 74922)
    }

    async fn server_streaming(&mut self) -> Outcome {
        let request = StreamingOutputCallRequest {
            response_parameters: [31415, 9, 2653, 58979].map(of_size).into(),
            ..StreamingOutputCallRequest::default()
        };
        let response = self.plain.streaming_output_call(request).await;
        let sizes = self.read_all(response).await?;
        equal("sizes", sizes, vec![31415, 9, 2653, 58979])
    }

    async fn ping_pong(&mut self) -> Outcome {
        let (requests, outgoing) = mpsc::channel(1);
        let mut plain = self.plain.clone();
        let response = plain.full_duplex_call(ReceiverStream::new(outgoing));
        let turns = [(31415, 27182), (9, 8), (2653, 1828), (58979, 45904)];
        // A server may send its headers only with its first message.
        let (first, response) = tokio::join!(requests.send(ping(turns[0])), response);
        first.map_err(|_| "the request's body is gone")?;
        let mut responses = self.or_status(response)?.into_inner();
        for (turn, &(size, _)) in turns.iter().enumerate() {
            if turn > 0 {
                let sent = requests.send(ping(turns[turn])).await;
                sent.map_err(|_| "the request's body is gone")?;
            }
            let got = self.next(&mut responses).await?;
            equal("size", got.map(|message| body_size(&message)), Some(size))?;
        }
        drop(requests);
        let end = self.next(&mut responses).await?;
        equal("messages after the last", end.is_some(), false)
    }

    async fn empty_stream(&mut self) -> Outcome {
        let response = self.plain.full_duplex_call(tokio_stream::empty()).await;
        let sizes = self.read_all(response).await?;
        equal("sizes", sizes, vec![])
    }

    async fn cancel_after_begin(&mut self) -> Outcome {
        let call = self.plain.streaming_input_call(tokio_stream::pending());
        match tokio::time::timeout(A_MOMENT, call).await {
            Err(_elapsed) => {
                // The status of a caller that drops its call.
                self.statuses.push(Code::Cancelled);
                Ok(())
            }
            Ok(response) => Err(format!("answered: {response:?}")),
        }
    }

    async fn cancel_after_first_response(&mut self) -> Outcome {
        let (requests, outgoing) = mpsc::channel(1);
        let sent = requests.send(ping((31415, 27182))).await;
        sent.map_err(|_| "the request's body is gone")?;
        let response = self
            .plain
            .full_duplex_call(ReceiverStream::new(outgoing))
            .await;
        let mut responses = self.or_status(response)?.into_inner();
        let got = self.next(&mut responses).await?;
        equal("size", got.map(|message| body_size(&message)), Some(31415))?;
        drop(responses);
        // hyper resets a stream only when neither side sends any more.
        drop(requests);
        self.statuses.push(Code::Cancelled);
        Ok(())
    }

    async fn timeout_on_sleeping_server(&mut self) -> Outcome {
        // A millisecond, as gRPC's own case has it, could be over before the request is sent.
        let mut request = Request::new(tokio_stream::StreamExt::chain(
            tokio_stream::once(StreamingOutputCallRequest {
                payload: zeros(27182),
                ..StreamingOutputCallRequest::default()
            }),
            tokio_stream::pending(),
        ));
        request.set_timeout(A_MOMENT);
        let response = self.plain.full_duplex_call(request).await;
        // Once there are headers, tonic's client enforces no timeout, but leaves it to the server.
        let failure = match response {
            Err(status) => status,
            Ok(response) => {
                let mut responses = response.into_inner();
                match tokio::time::timeout(10 * A_MOMENT, responses.message()).await {
                    Ok(Err(status)) => status,
                    Ok(Ok(message)) => return Err(format!("answered: {message:?}")),
                    Err(_elapsed) => return Err("it has no end".to_owned()),
                }
            }
        };
        self.statuses.push(failure.code());
        match failure.code() {
            // tonic calls its own timeout CANCELLED.
            Code::DeadlineExceeded | Code::Cancelled => Ok(()),
            _ => Err(format!("{failure:?}")),
        }
    }

    async fn custom_metadata(&mut self) -> Outcome {
        let response = self.plain.unary_call(with_metadata(large())).await;
        let response = self.succeeds(response)?;
        has_initial(response.metadata())?;
        // tonic joins a unary response's trailers with its headers.
        has_trailing(response.metadata())?;

        let requests = tokio_stream::once(ping((314159, 271828)));
        let response = self.plain.full_duplex_call(with_metadata(requests)).await;
        let response = self.or_status(response)?;
        has_initial(response.metadata())?;
        let mut responses = response.into_inner();
        let got = self.next(&mut responses).await?;
        equal("size", got.map(|message| body_size(&message)), Some(314159))?;
        let end = self.next(&mut responses).await?;
        equal("messages after the last", end.is_some(), false)?;
        let trailers = responses.trailers().await;
        let trailers = trailers.map_err(|status| status.to_string())?;
        has_trailing(&trailers.ok_or("no trailers")?)
    }

    async fn status_with_message(&mut self, message: &str) -> Outcome {
        let wanted = EchoStatus {
            code: Code::Unknown as i32,
            message: message.to_owned(),
        };
        let request = SimpleRequest {
            response_status: Some(wanted.clone()),
            ..SimpleRequest::default()
        };
        let response = self.plain.unary_call(request).await;
        let status = self.fails_with(response, Code::Unknown)?;
        equal("message", status.message(), message)?;

        let request = StreamingOutputCallRequest {
            response_status: Some(wanted),
            ..StreamingOutputCallRequest::default()
        };
        let response = self
            .plain
            .full_duplex_call(tokio_stream::once(request))
            .await;
        let status = match response {
            Err(status) => status,
            Ok(response) => match response.into_inner().message().await {
                Err(status) => status,
                Ok(message) => return Err(format!("answered: {message:?}")),
            },
        };
        self.statuses.push(status.code());
        equal("code", status.code(), Code::Unknown)?;
        equal("message", status.message(), message)
    }

    async fn client_compressed_unary(&mut self) -> Outcome {
        let response = self.gzip.unary_call(told_compressed(true)).await;
        is_large(self.succeeds(response)?)?;
        let response = self.plain.unary_call(told_compressed(false)).await;
        is_large(self.succeeds(response)?)
    }

    async fn server_compressed_unary(&mut self) -> Outcome {
        for value in [true, false] {
            let request = SimpleRequest {
                response_compressed: Some(BoolValue { value }),
                ..large()
            };
            let response = self.plain.unary_call(request).await;
            is_large(self.succeeds(response)?)?;
        }
        Ok(())
    }

    async fn client_compressed_streaming(&mut self) -> Outcome {
        // tonic compresses all messages of a stream or none.
        let requests = [27182, 45904].map(|size| input(size, Some(true)));
        let response = self
            .gzip
            .streaming_input_call(tokio_stream::iter(requests))
            .await;
        let total = self.succeeds(response)?.into_inner();
        equal("total", total.aggregated_payload_size, 73086)
    }

    async fn server_compressed_streaming(&mut self) -> Outcome {
        let sized = |size, value| ResponseParameters {
            compressed: Some(BoolValue { value }),
            ..of_size(size)
        };
        let request = StreamingOutputCallRequest {
            response_parameters: vec![sized(31415, true), sized(92653, false)],
            ..StreamingOutputCallRequest::default()
        };
        let response = self.plain.streaming_output_call(request).await;
        let sizes = self.read_all(response).await?;
        equal("sizes", sizes, vec![31415, 92653])
    }

    /// A unary call's response.
    fn succeeds<T>(&mut self, response: Result<T, Status>) -> Result<T, String> {
        let response = self.or_status(response)?;
        self.statuses.push(Code::Ok);
        Ok(response)
    }

    /// The status of a unary call that is to fail.
    fn fails_with<T>(
        &mut self,
        response: Result<Response<T>, Status>,
        code: Code,
    ) -> Result<Status, String> {
        match response {
            Ok(_) => Err("it succeeded".to_owned()),
            Err(status) => {
                self.statuses.push(status.code());
                equal("code", status.code(), code)?;
                Ok(status)
            }
        }
    }

    fn or_status<T>(&mut self, response: Result<T, Status>) -> Result<T, String> {
        response.map_err(|status| {
            self.statuses.push(status.code());
            format!("{status:?}")
        })
    }

    /// The next message of a stream; at its end, `None`.
    async fn next<T>(&mut self, responses: &mut Streaming<T>) -> Result<Option<T>, String> {
        let message = self.or_status(responses.message().await)?;
        if message.is_none() {
            self.statuses.push(Code::Ok);
        }
        Ok(message)
    }

    /// The payloads' sizes of a complete stream.
    async fn read_all(
        &mut self,
        response: Result<Response<Streaming<StreamingOutputCallResponse>>, Status>,
    ) -> Result<Vec<usize>, String> {
        let mut responses = self.or_status(response)?.into_inner();
        let mut sizes = Vec::new();
        while let Some(message) = self.next(&mut responses).await? {
            sizes.push(body_size(&message));
        }
        Ok(sizes)
    }
}

fn large() -> SimpleRequest {
    SimpleRequest {
        response_size: 314159,
        payload: zeros(271828),
        ..SimpleRequest::default()
    }
}

fn is_large(response: Response<SimpleResponse>) -> Outcome {
    let payload = response.into_inner().payload.unwrap_or_default();
    equal("payload", payload.body.len(), 314159)?;
    equal("zeros", payload.body.iter().all(|byte| *byte == 0), true)
}

fn told_compressed(value: bool) -> SimpleRequest {
    SimpleRequest {
        expect_compressed: Some(BoolValue { value }),
        ..large()
    }
}

fn input(size: usize, expect_compressed: Option<bool>) -> StreamingInputCallRequest {
    StreamingInputCallRequest {
        payload: zeros(size),
        expect_compressed: expect_compressed.map(|value| BoolValue { value }),
    }
}

fn of_size(size: i32) -> ResponseParameters {
    ResponseParameters {
        size,
        ..ResponseParameters::default()
    }
}

/// A request of the second size for one response of the first.
fn ping((response, request): (usize, usize)) -> StreamingOutputCallRequest {
    let size = i32::try_from(response).expect("a small size");
    StreamingOutputCallRequest {
        response_parameters: vec![of_size(size)],
        payload: zeros(request),
        ..StreamingOutputCallRequest::default()
    }
}

fn body_size(message: &StreamingOutputCallResponse) -> usize {
    message
        .payload
        .as_ref()
        .map_or(0, |payload| payload.body.len())
}

fn with_metadata<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(
        ECHO_INITIAL,
        MetadataValue::from_static("test_initial_metadata_value"),
    );
    metadata.insert_bin(ECHO_TRAILING, MetadataValue::from_bytes(&[0xab; 3]));
    request
}

fn has_initial(metadata: &MetadataMap) -> Outcome {
    let value = metadata
        .get(ECHO_INITIAL)
        .and_then(|value| value.to_str().ok());
    equal(ECHO_INITIAL, value, Some("test_initial_metadata_value"))
}

fn has_trailing(metadata: &MetadataMap) -> Outcome {
    let value = metadata
        .get_bin(ECHO_TRAILING)
        .and_then(|value| value.to_bytes().ok());
    equal(ECHO_TRAILING, value.as_deref(), Some(&[0xab; 3][..]))
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Outcome {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?} instead of {expected:?}"))
    }
}
