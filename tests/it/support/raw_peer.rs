//! Peers that speak HTTP/2 without a gRPC library: they send exactly the frames of a script.
//!
//! [`RawServer`] plays one script for every request, [`RawClient`] is led by hand, and
//! [`serve_script`] is a tonic server whose handler plays a script. What a tracer saw of it is
//! compared with what the same exchange gives without a layer.

#![allow(dead_code, unreachable_pub)]

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::Poll,
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    server::SendResponse,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tonic::{
    client::GrpcService,
    codegen::{Body, StdError},
    service::Routes,
    transport::{Channel, Endpoint, Server},
};
use tower::ServiceBuilder;
use tower_tracer::{RpcInfo, TracerLayer, testing::RecordingTracer};

use super::tcp::{
    echo::{EchoClient, EchoRequest, EchoResponse, say},
    soon,
};

/// What a peer does next with its side of a stream.
#[derive(Clone, Debug)]
pub enum Step {
    /// Response headers, with this HTTP status.
    Headers(u16, HeaderMap),
    /// Response headers that end the stream.
    HeadersOnly(u16, HeaderMap),
    /// One DATA frame.
    Data(Bytes),
    /// A DATA frame that is empty and ends the stream.
    End,
    /// Trailers.
    Trailers(HeaderMap),
    /// RST_STREAM.
    Reset(Reason),
    /// GOAWAY on the connection: with NO_ERROR it is closed when its streams are over, else at once.
    GoAway(Reason),
    /// Closes the TCP connection without a word.
    HangUp,
    /// Neither reads nor writes from here on, and keeps the connection.
    Freeze,
    /// Reads the request's body to its end, for [`RawServer::requests`].
    Read,
    /// Waits until the test allows the rest.
    Wait(Arc<Notify>),
    /// Leaves the stream open, while a script's end would end it.
    Forever,
}

/// Response headers as a gRPC server sends them.
pub fn ok() -> Step {
    Step::Headers(200, map(&[("content-type", "application/grpc")]))
}

/// Response headers as a gRPC server sends them, and these.
pub fn headers(more: &[(&str, &str)]) -> Step {
    let mut headers = map(&[("content-type", "application/grpc")]);
    headers.extend(map(more));
    Step::Headers(200, headers)
}

/// A gRPC response that is nothing but headers.
pub fn headers_only(more: &[(&str, &str)]) -> Step {
    match headers(more) {
        Step::Headers(status, headers) => Step::HeadersOnly(status, headers),
        other => other,
    }
}

/// A DATA frame with one complete message of the Echo service.
pub fn message(text: &str) -> Step {
    Step::Data(framed(0, &encoded(text)))
}

/// A DATA frame with these bytes.
pub fn data(bytes: &[u8]) -> Step {
    Step::Data(Bytes::copy_from_slice(bytes))
}

pub fn trailers(headers: &[(&str, &str)]) -> Step {
    Step::Trailers(map(headers))
}

/// A header map, in which a name can occur twice.
pub fn map(headers: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter().map(pair) {
        map.append(name, value);
    }
    map
}

/// A request or response of the Echo service; both have the text as their first field.
pub fn encoded(text: &str) -> Vec<u8> {
    say(text).encode_to_vec()
}

/// Bytes behind gRPC's prefix of a flag and their length.
pub fn framed(flag: u8, message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag][..], &length, message].concat().into()
}

/// An HTTP/2 server that plays a script for each request.
pub struct RawServer {
    pub uri: String,
    requests: Requests,
}

type Requests = Arc<Mutex<Vec<Request<Vec<u8>>>>>;
type ScriptOf = Arc<dyn Fn(&http::request::Parts) -> Arc<[Step]> + Send + Sync>;

/// What a script asks of the connection.
enum Asked {
    GoAway(Reason),
    HangUp,
    Freeze,
}

impl RawServer {
    /// Listens on a free port; the server ends with the test's runtime.
    ///
    /// The frames of one step are on the wire before the next step is taken. A script that does not
    /// end its stream leaves it open.
    pub async fn start(script: impl Into<Arc<[Step]>>) -> Self {
        let script = script.into();
        Self::start_with(move |_| Arc::clone(&script)).await
    }

    /// As [`start`](Self::start), with a script for each request.
    pub async fn start_with(
        script_of: impl Fn(&http::request::Parts) -> Arc<[Step]> + Send + Sync + 'static,
    ) -> Self {
        let script_of: ScriptOf = Arc::new(script_of);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::default();
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                tokio::spawn(Self::serve(
                    socket,
                    Arc::clone(&script_of),
                    Arc::clone(&seen),
                ));
            }
        });
        Self { uri, requests }
    }

    /// The requests so far; their bodies if the script reads them.
    pub fn requests(&self) -> Vec<Request<Vec<u8>>> {
        self.requests.lock().unwrap().clone()
    }

    async fn serve(socket: TcpStream, script_of: ScriptOf, seen: Requests) {
        let Ok(mut connection) = h2::server::handshake(socket).await else {
            return;
        };
        let mut scripts = FuturesUnordered::new();
        let (ask, mut asked) = mpsc::unbounded_channel();
        // One task polls the scripts, then the connection: what a script gave to the connection is
        // written before the script goes on.
        let last = poll_fn(|cx| {
            loop {
                let _ = scripts.poll_next_unpin(cx);
                while let Poll::Ready(Some(asked)) = asked.poll_recv(cx) {
                    match asked {
                        Asked::GoAway(Reason::NO_ERROR) => connection.graceful_shutdown(),
                        Asked::GoAway(reason) => connection.abrupt_shutdown(reason),
                        asked => return Poll::Ready(Some(asked)),
                    }
                }
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, reply)))) => {
                        let (head, body) = request.into_parts();
                        let script = script_of(&head);
                        let mut requests = seen.lock().unwrap();
                        let read = (requests.len(), Arc::clone(&seen));
                        requests.push(Request::from_parts(head, Vec::new()));
                        let ask = ask.clone();
                        scripts.push(Self::play(script, reply, body, read, ask));
                    }
                    Poll::Ready(None | Some(Err(_))) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        if let Some(Asked::Freeze) = last {
            std::future::pending().await
        }
    }

    /// The request's body is held even if it is not read: to drop it would reset the stream.
    async fn play(
        script: Arc<[Step]>,
        mut reply: SendResponse<Bytes>,
        mut body: RecvStream,
        (number, requests): (usize, Requests),
        ask: mpsc::UnboundedSender<Asked>,
    ) {
        let mut stream: Option<SendStream<Bytes>> = None;
        for step in script.iter().cloned() {
            match (step, &mut stream) {
                // A peer that has given up does not stop the script.
                (Step::Headers(status, headers), _) => {
                    stream = reply.send_response(head(status, headers), false).ok();
                }
                (Step::HeadersOnly(status, headers), _) => {
                    stream = reply.send_response(head(status, headers), true).ok();
                }
                (Step::Data(data), Some(stream)) => drop(stream.send_data(data, false)),
                (Step::End, Some(stream)) => drop(stream.send_data(Bytes::new(), true)),
                (Step::Trailers(trailers), Some(stream)) => drop(stream.send_trailers(trailers)),
                (Step::Reset(reason), Some(stream)) => stream.send_reset(reason),
                (Step::Reset(reason), None) => reply.send_reset(reason),
                (Step::GoAway(reason), _) => ask.send(Asked::GoAway(reason)).unwrap(),
                (Step::HangUp, _) => ask.send(Asked::HangUp).unwrap(),
                (Step::Freeze, _) => ask.send(Asked::Freeze).unwrap(),
                (Step::Read, _) => {
                    let mut bytes = Vec::new();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                        bytes.extend(data);
                    }
                    *requests.lock().unwrap()[number].body_mut() = bytes;
                }
                (Step::Wait(go_on), _) => go_on.notified().await,
                (Step::Forever, _) => break,
                (_, None) => {}
            }
            tokio::task::yield_now().await;
        }
        std::future::pending::<()>().await;
    }
}

fn head(status: u16, headers: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status.try_into().unwrap();
    *response.headers_mut() = headers;
    response
}

/// What a caller of the Echo service got.
#[derive(Clone, Debug, PartialEq)]
pub struct Got {
    pub messages: Vec<String>,
    pub end: End,
}

/// How a call ended for its caller.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// Well, with these trailers.
    Ok(HeaderMap),
    /// With a status: its code, message and metadata.
    Failed(tonic::Code, String, HeaderMap),
    /// The caller panicked.
    Panicked,
}

impl Got {
    /// The code the caller got.
    pub fn code(&self) -> Option<tonic::Code> {
        match &self.end {
            End::Ok(_) => Some(tonic::Code::Ok),
            End::Failed(code, ..) => Some(*code),
            End::Panicked => None,
        }
    }

    fn end(self, result: Result<HeaderMap, tonic::Status>) -> Self {
        let end = match result {
            Ok(trailers) => End::Ok(trailers),
            Err(status) => End::Failed(
                status.code(),
                status.message().to_owned(),
                status.metadata().clone().into_headers(),
            ),
        };
        Self { end, ..self }
    }
}

/// Which kind of method a caller uses.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Unary,
    ServerStreaming,
}

/// Calls a method and reads all there is to read.
pub async fn ask<S>(
    mut client: EchoClient<S>,
    kind: Kind,
    request: tonic::Request<EchoRequest>,
) -> Got
where
    S: GrpcService<tonic::body::Body>,
    S::Error: Into<StdError>,
    S::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    let mut got = Got {
        messages: Vec::new(),
        end: End::Ok(HeaderMap::new()),
    };
    let result = match kind {
        Kind::Unary => client.unary_echo(request).await.map(|response| {
            let (metadata, EchoResponse { message }, _) = response.into_parts();
            got.messages.push(message);
            metadata.into_headers()
        }),
        Kind::ServerStreaming => match client.server_streaming_echo(request).await {
            Err(status) => Err(status),
            Ok(response) => {
                let mut stream = response.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(EchoResponse { message })) => got.messages.push(message),
                        Ok(None) => {
                            let trailers = stream.trailers().await;
                            break trailers.map(|all| all.unwrap_or_default().into_headers());
                        }
                        Err(status) => break Err(status),
                    }
                }
            }
        },
    };
    got.end(result)
}

/// What became of one call of a traced client.
pub struct Met {
    /// Its record.
    pub rpc: RpcInfo,
    /// What its tracer saw.
    pub log: Vec<String>,
    /// What its caller got.
    pub got: Got,
    /// The request's body as the server got it, if the script reads it.
    pub sent: Vec<u8>,
}

/// Lets a traced tonic client meet a server that plays this script.
///
/// A client without the layer meets the same server: the callers must get the same. The traced
/// client must have finished once.
pub async fn meet(kind: Kind, script: impl Into<Arc<[Step]>>) -> Met {
    meet_with(kind, script, |endpoint| endpoint).await
}

/// As [`meet`], with clients set up in another way.
pub async fn meet_with(
    kind: Kind,
    script: impl Into<Arc<[Step]>>,
    set_up: impl Fn(Endpoint) -> Endpoint,
) -> Met {
    let request = || tonic::Request::new(say("hello"));
    meet_asking(kind, script, set_up, request).await
}

/// As [`meet_with`], with another request.
pub async fn meet_asking(
    kind: Kind,
    script: impl Into<Arc<[Step]>>,
    set_up: impl Fn(Endpoint) -> Endpoint,
    request: impl Fn() -> tonic::Request<EchoRequest>,
) -> Met {
    let server = RawServer::start(script).await;
    // A connection each: a peer may well spoil it.
    let connect = || async {
        let endpoint = Endpoint::from_shared(server.uri.clone()).unwrap();
        set_up(endpoint).connect().await.unwrap()
    };

    let plain = EchoClient::new(connect().await);
    let plain = tokio::spawn(ask(plain, kind, request()));
    let expected = got_of(plain).await;

    let recorder = RecordingTracer::new();
    let traced = EchoClient::new(traced(connect().await, &recorder));
    let traced = tokio::spawn(ask(traced, kind, request()));
    let got = got_of(traced).await;

    assert_eq!(
        got, expected,
        "what the caller gets, with and without the layer"
    );
    let [plain, traced] = &server.requests()[..] else {
        panic!("two requests in {:?}", server.requests());
    };
    assert_eq!(traced.headers(), plain.headers());
    assert_eq!(traced.uri(), plain.uri());
    assert_eq!(traced.body(), plain.body());
    assert_eq!(recorder.started().len(), 1);
    Met {
        sent: traced.body().clone(),
        rpc: recorder.only_finished(),
        log: recorder.log(),
        got,
    }
}

/// A channel with a recorder on it.
pub fn traced(
    channel: Channel,
    recorder: &RecordingTracer,
) -> tower_tracer::service::TracerService<Channel, RecordingTracer> {
    ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()))
        .service(channel)
}

async fn got_of(caller: JoinHandle<Got>) -> Got {
    match soon(caller).await {
        Ok(got) => got,
        Err(error) if error.is_panic() => Got {
            messages: Vec::new(),
            end: End::Panicked,
        },
        Err(error) => panic!("{error}"),
    }
}

/// An HTTP/2 client that sends the frames of a script.
pub struct RawClient {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

/// A request of a [`RawClient`], its stream open on both sides.
pub struct RawCall {
    response: ResponseFuture,
    pub stream: SendStream<Bytes>,
}

/// All that came back on one stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Without `date`.
    pub headers: HeaderMap,
    pub data: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// The reason of the reset or GOAWAY that ended it.
    pub reason: Option<Reason>,
}

impl RawClient {
    pub async fn connect(uri: &str) -> Self {
        let address = uri.strip_prefix("http://").unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let (requests, connection) = h2::client::Builder::new()
            .max_header_list_size(4 << 20)
            .max_concurrent_reset_streams(1000)
            .handshake(socket)
            .await
            .unwrap();
        let connection = tokio::spawn(async move {
            // Its errors show on its streams.
            let _ = connection.await;
        });
        Self {
            requests,
            connection,
        }
    }

    /// Opens a stream with a gRPC request to a path.
    pub async fn open(&mut self, path: &str, more: &[(&str, &str)]) -> RawCall {
        self.try_open(path, more).await.unwrap()
    }

    /// As [`open`](Self::open), on a connection that the server may have closed.
    pub async fn try_open(
        &mut self,
        path: &str,
        more: &[(&str, &str)],
    ) -> Result<RawCall, h2::Error> {
        let mut headers = map(&[("content-type", "application/grpc"), ("te", "trailers")]);
        headers.extend(map(more));
        self.open_with(Method::POST, path, headers).await
    }

    /// Opens a stream with these request headers and no others.
    pub async fn open_with(
        &mut self,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<RawCall, h2::Error> {
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = http::Uri::builder()
            .scheme("http")
            .authority("localhost")
            .path_and_query(path)
            .build()
            .unwrap();
        *request.headers_mut() = headers;
        poll_fn(|cx| self.requests.poll_ready(cx)).await?;
        let (response, stream) = self.requests.send_request(request, false)?;
        Ok(RawCall { response, stream })
    }

    /// A complete unary request, and its response.
    pub async fn ask(&mut self, path: &str, more: &[(&str, &str)], body: Bytes) -> Answer {
        let mut call = self.open(path, more).await;
        call.stream.send_data(body, true).unwrap();
        soon(call.answer()).await
    }

    /// Closes the TCP connection without a word.
    pub async fn vanish(self) {
        self.connection.abort();
        let _ = self.connection.await;
    }
}

impl RawCall {
    pub fn data(&mut self, data: impl Into<Bytes>) {
        self.stream.send_data(data.into(), false).unwrap();
    }

    /// Ends the request.
    pub fn end(&mut self) {
        self.stream.send_data(Bytes::new(), true).unwrap();
    }

    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// The response's headers, and the stream that the rest comes on.
    pub async fn headers(&mut self) -> Response<RecvStream> {
        soon(&mut self.response).await.unwrap()
    }

    /// Reads all that comes.
    pub async fn answer(self) -> Answer {
        let mut answer = Answer::default();
        if let Err(error) = answer.read(self.response).await {
            answer.reason = error.reason();
        }
        answer
    }
}

impl Answer {
    async fn read(&mut self, response: ResponseFuture) -> Result<(), h2::Error> {
        let (head, mut body) = response.await?.into_parts();
        self.status = head.status.as_u16();
        self.headers = head.headers;
        self.headers.remove("date");
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            self.data.extend(data);
        }
        self.trailers = body.trailers().await?;
        Ok(())
    }

    /// `grpc-status` as it came, in the trailers or else the headers.
    pub fn grpc_status(&self) -> Option<&[u8]> {
        let of = |headers: &'_ HeaderMap| headers.get("grpc-status").is_some();
        let headers = match &self.trailers {
            Some(trailers) if of(trailers) => trailers,
            _ => &self.headers,
        };
        headers.get("grpc-status").map(HeaderValue::as_bytes)
    }
}

/// Starts a tonic server whose handler answers every request with a script; it reads the request to
/// its end first. Traced if there is a recorder.
///
/// Of the steps, those a handler can take are played: headers, data, trailers, and to stop there.
pub async fn serve_script(
    recorder: Option<&RecordingTracer>,
    script: impl Into<Arc<[Step]>>,
) -> String {
    let script: Arc<[Step]> = script.into();
    let answer = move |request: axum::extract::Request| {
        let script = Arc::clone(&script);
        async move {
            let _ = http_body_util::BodyExt::collect(request.into_body()).await;
            answer(&script)
        }
    };
    serve_routes(
        recorder.map(|recorder| TracerLayer::new(recorder.clone())),
        Server::builder(),
        Routes::from(axum::Router::new().fallback(answer)),
    )
    .await
}

/// Starts a tonic server, with this layer if there is one.
pub async fn serve_routes(
    layer: Option<TracerLayer<RecordingTracer>>,
    server: Server,
    routes: Routes,
) -> String {
    let (incoming, uri) = super::tcp::echo::listen().await.unwrap();
    let mut server = server.http2_max_header_list_size(4 << 20);
    match layer {
        None => {
            let server = server.add_routes(routes).serve_with_incoming(incoming);
            tokio::spawn(server);
        }
        Some(layer) => {
            let server = server
                .layer(layer)
                .add_routes(routes)
                .serve_with_incoming(incoming);
            tokio::spawn(server);
        }
    }
    uri
}

/// A script as the response of a handler.
fn answer(script: &[Step]) -> Response<axum::body::Body> {
    let (mut status, mut headers, mut frames) = (200, HeaderMap::new(), Vec::new());
    let mut forever = false;
    for step in script {
        match step.clone() {
            Step::Headers(code, map) => (status, headers) = (code, map),
            Step::HeadersOnly(code, map) => {
                return head(code, map).map(|()| axum::body::Body::empty());
            }
            Step::Data(data) => frames.push(Ok::<_, std::convert::Infallible>(Frame::data(data))),
            Step::Trailers(trailers) => frames.push(Ok(Frame::trailers(trailers))),
            Step::End => {}
            Step::Forever => forever = true,
            step => panic!("a handler cannot play {step:?}"),
        }
    }
    let frames = tokio_stream::iter(frames);
    let body = match forever {
        true => axum::body::Body::new(StreamBody::new(frames.chain(stream::pending()))),
        false => axum::body::Body::new(StreamBody::new(frames)),
    };
    head(status, headers).map(|()| body)
}

/// What became of one request to a traced server.
pub struct Served {
    /// Its record.
    pub rpc: RpcInfo,
    /// What its tracer saw.
    pub log: Vec<String>,
    /// What its client got.
    pub answer: Answer,
}

/// Lets a raw client call a traced tonic server whose handler plays this script.
///
/// The same server without the layer must give it the same answer.
pub async fn serve(script: impl Into<Arc<[Step]>>) -> Served {
    let script: Arc<[Step]> = script.into();
    let path = "/echo.Echo/UnaryEcho";
    let body = framed(0, &encoded("hello"));

    let plain = serve_script(None, Arc::clone(&script)).await;
    let mut client = RawClient::connect(&plain).await;
    let expected = client.ask(path, &[], body.clone()).await;

    let recorder = RecordingTracer::new();
    let traced = serve_script(Some(&recorder), script).await;
    let mut client = RawClient::connect(&traced).await;
    let answer = client.ask(path, &[], body).await;

    assert_eq!(
        answer, expected,
        "what the client gets, with and without the layer"
    );
    soon(recorder.wait_finished(1)).await;
    assert_eq!(recorder.started().len(), 1);
    Served {
        rpc: recorder.only_finished(),
        log: recorder.log(),
        answer,
    }
}

/// Waits until a recorder's log has this line this many times.
pub async fn saw(recorder: &RecordingTracer, line: &str, times: usize) {
    // A recorder wakes whoever waits at everything it sees.
    let mut more = pin!(recorder.wait_finished(usize::MAX));
    let found = poll_fn(|cx| {
        let _ = Pin::new(&mut more).poll(cx);
        let log = recorder.log();
        match log.iter().filter(|seen| *seen == line).count() >= times {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    });
    if tokio::time::timeout(std::time::Duration::from_secs(30), found)
        .await
        .is_err()
    {
        panic!("{line:?} {times} times in {:#?}", recorder.log());
    }
}
