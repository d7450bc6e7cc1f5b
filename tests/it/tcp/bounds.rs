//! The layer fits wherever a layer can go, and its types are `Send`, `Clone` and so on, as users
//! need.

use std::{
    cell::Cell,
    fmt::Debug,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use crate::support::scripted::{Course, Handler, Scripted, bare_request, run};
use crate::support::tcp::{
    echo::{EchoClient, EchoRequest, EchoServer, EchoService, listen, say},
    serve, soon,
};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tonic::{
    service::LayerExt as _,
    transport::{Channel, Server},
};
use tower::{
    BoxError, Layer as _, Service, ServiceBuilder, ServiceExt as _,
    util::{BoxCloneService, BoxCloneSyncService},
};
use tower_tracer::{
    Code, Ending, Event, Level, RequestParts, Role, RpcInfo, Stats, Status, Tracer, TracerLayer,
    rpc::{Address, Endpoint, EndpointRef, MethodPath, Protocol, RecordedEvent, Severity, Traffic},
    service::{
        RequestObserver, ResponseBody, ResponseFuture, RpcGuard, Stage, StageFuture, StageLayer,
        TracerService,
    },
    testing::RecordingTracer,
    tracer::{Candidate, Message, StreamEvent, StreamEventKind},
};

/// A tracer that is not `Clone`, nor `Debug`, with a state that is `Send` and nothing else.
struct Bare;

struct OnlySend(#[expect(dead_code, reason = "it is not Sync")] Cell<u32>);

impl Tracer for Bare {
    type State = OnlySend;

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) -> OnlySend {
        OnlySend(Cell::new(0))
    }

    fn finish(&self, _: OnlySend, _: &RpcInfo) {}
}

/// Not `Send`, `Sync`, `Clone` or `Debug`.
struct Nothing(#[expect(dead_code, reason = "it is not Send")] Rc<()>);

fn send<T: Send>() {}
fn sync<T: Sync>() {}
fn unpin<T: Unpin>() {}
fn clone<T: Clone>() {}
fn debug<T: Debug>() {}

#[test]
fn types_are_send_sync_clone_and_debug_whatever_the_tracer_is() {
    send::<TracerLayer<Bare>>();
    sync::<TracerLayer<Bare>>();
    clone::<TracerLayer<Bare>>();
    debug::<TracerLayer<Bare>>();

    send::<TracerService<Handler, Bare>>();
    sync::<TracerService<Handler, Bare>>();
    unpin::<TracerService<Handler, Bare>>();
    clone::<TracerService<Handler, Bare>>();
    debug::<TracerService<Handler, Bare>>();
    // A service can be made around anything.
    let _ = TracerLayer::new(Bare).layer(Nothing(Rc::new(())));

    type Never = std::future::Ready<Result<Response<Scripted>, BoxError>>;
    send::<ResponseFuture<Never, Bare>>();
    unpin::<ResponseFuture<Never, Bare>>();
    debug::<ResponseFuture<Never, Bare>>();
    debug::<ResponseFuture<Nothing, Bare>>();
    send::<ResponseBody<Scripted, Bare>>();
    unpin::<ResponseBody<Scripted, Bare>>();
    debug::<ResponseBody<Scripted, Bare>>();
    send::<RpcGuard<Bare>>();
    debug::<RpcGuard<Bare>>();
    send::<RequestObserver>();
    sync::<RequestObserver>();
    debug::<RequestObserver>();
    debug::<Candidate<'_>>();
    debug::<RequestParts<'_>>();

    send::<RpcInfo>();
    sync::<RpcInfo>();
    clone::<RpcInfo>();
    debug::<RpcInfo>();
    send::<Stats>();
    sync::<Stats>();
    debug::<Stats>();
    send::<Stage<Handler>>();
    sync::<Stage<Handler>>();
    clone::<Stage<Handler>>();
    debug::<Stage<Handler>>();
    debug::<StageFuture<Nothing>>();
}

#[test]
fn values_are_cheap_to_copy_to_compare_and_to_print() {
    fn all<T: Copy + Debug + Send + Sync + Eq>() {}
    all::<Address<'_>>();
    all::<Code>();
    all::<Ending>();
    all::<Event>();
    all::<Severity>();
    all::<Level>();
    all::<Message>();
    all::<Protocol>();
    all::<Role>();
    all::<Status>();
    all::<Traffic>();
    fn owned<T: Clone + Debug + Send + Sync + Eq>() {}
    owned::<Endpoint>();
    owned::<MethodPath>();
    owned::<RecordedEvent>();
    fn seen<T: Copy + Debug + Send + Sync>() {}
    seen::<EndpointRef<'_>>();
    seen::<StreamEvent<'_>>();
    seen::<StreamEventKind<'_>>();
    seen::<StageLayer>();
}

/// The log of a unary call that went well.
const UNARY: [&str; 8] = [
    "start",
    "request_headers",
    "request_message #0 7B",
    "half_close",
    "response_headers",
    "response_message #0 7B",
    "trailers",
    "finish trailers OK",
];

async fn connect(uri: &str) -> Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(uri.to_owned()).unwrap();
    endpoint.connect().await.unwrap()
}

#[tokio::test]
async fn a_client_with_an_interceptor_accepts_the_layer() {
    let (inside, outside, server) = (
        RecordingTracer::new(),
        RecordingTracer::new(),
        RecordingTracer::new(),
    );
    let uri = serve(TracerLayer::new(server.clone())).await;
    let traced = ServiceBuilder::new()
        .layer(TracerLayer::new(inside.clone()))
        .service(connect(&uri).await);
    let mut client = EchoClient::with_interceptor(traced, |mut request: tonic::Request<()>| {
        request
            .metadata_mut()
            .insert("x-intercepted", "yes".parse().unwrap());
        Ok(request)
    });
    client.unary_echo(say("hello")).await.unwrap();
    assert_eq!(inside.log(), UNARY);
    soon(server.wait_finished(1)).await;

    // An interceptor that refuses makes a default body, which belongs to no RPC.
    let traced = ServiceBuilder::new()
        .layer(TracerLayer::new(outside.clone()))
        .service(connect(&uri).await);
    let refuse = |_: tonic::Request<()>| Err(tonic::Status::permission_denied("not you"));
    let mut client = EchoClient::with_interceptor(traced, refuse);
    let error = client.unary_echo(say("hello")).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::PermissionDenied);
    assert_eq!(outside.log(), [""; 0]);

    // Around the interceptor the layer sees the refusal.
    let intercepted = tonic::service::interceptor::InterceptorLayer::new(refuse);
    let stack = ServiceBuilder::new()
        .layer(TracerLayer::new(outside.clone()))
        .layer(intercepted)
        .service(connect(&uri).await);
    assert!(
        EchoClient::new(stack)
            .unary_echo(say("hello"))
            .await
            .is_err()
    );
    assert_eq!(
        outside.log().last().unwrap(),
        "finish headers_only PERMISSION_DENIED"
    );
}

#[tokio::test]
async fn one_service_of_a_server_accepts_a_named_layer() {
    let (recorder, marked) = (RecordingTracer::new(), RecordingTracer::new());
    let layers = ServiceBuilder::new()
        .layer(TracerLayer::new(recorder.clone()).server())
        .layer(TracerLayer::new(marked.clone()))
        .layer(StageLayer::server_handle());
    let service = layers
        .into_inner()
        .named_layer(EchoServer::new(EchoService));
    let (incoming, uri) = listen().await.unwrap();
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    let mut client = EchoClient::new(connect(&uri).await);
    client.unary_echo(say("hello")).await.unwrap();
    soon(recorder.wait_finished(1)).await;
    assert_eq!(recorder.log(), UNARY);
    let rpc = marked.only_finished();
    assert!(rpc.stats().at(Event::SERVER_HANDLE_FINISH).is_some());
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn an_axum_router_accepts_the_layer_which_counts_what_its_handler_reads() {
    use axum::{Router, body::Body, routing::post};
    let recorder = RecordingTracer::new();
    let router = Router::new()
        .route("/up", post(async |body: String| body.to_uppercase()))
        .layer(TracerLayer::new(recorder.clone()).server());
    let request = Request::post("/up?loud=yes")
        .body(Body::from("hello"))
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "HELLO"
    );
    let rpc = recorder.only_finished();
    assert_eq!(rpc.protocol(), Protocol::Http);
    assert_eq!(rpc.stats().status(), Some(Status::Http(200)));
    assert_eq!(rpc.stats().request().body_bytes(), Some(5));
    assert_eq!(rpc.stats().response().body_bytes(), Some(5));
    assert_eq!(rpc.stats().request().messages(), None);

    recorder.clear();
    let request = Request::get("/down").body(Body::empty()).unwrap();
    router.oneshot(request).await.unwrap();
    let rpc = recorder.only_finished();
    assert_eq!(rpc.stats().status(), Some(Status::Http(404)));
    assert!(!rpc.stats().failed(), "it is the caller's own");
}

#[tokio::test]
async fn a_stack_whose_error_is_a_box_error_accepts_the_layer_on_both_sides() {
    let (client, server) = (RecordingTracer::new(), RecordingTracer::new());
    let layer = ServiceBuilder::new()
        .timeout(Duration::from_secs(60))
        .layer(TracerLayer::new(server.clone()))
        .concurrency_limit(8)
        .into_inner();
    let (incoming, uri) = listen().await.unwrap();
    tokio::spawn(
        Server::builder()
            .layer(layer)
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(incoming),
    );
    let stack = ServiceBuilder::new()
        .buffer(8)
        .timeout(Duration::from_secs(60))
        .layer(TracerLayer::new(client.clone()))
        .buffer(8)
        .load_shed()
        .timeout(Duration::from_secs(60))
        .service(connect(&uri).await);
    EchoClient::new(stack)
        .unary_echo(say("hello"))
        .await
        .unwrap();
    soon(server.wait_finished(1)).await;
    assert_eq!(client.log(), UNARY);
    assert_eq!(server.log(), UNARY);
}

#[test]
fn a_box_clone_service_can_be_inside_and_outside_of_the_layer() {
    let (outer, inner) = (RecordingTracer::new(), RecordingTracer::new());
    let boxed: BoxCloneService<_, _, _> = ServiceBuilder::new()
        .layer(TracerLayer::new(inner.clone()))
        .service(Handler::of(Course::OK))
        .boxed_clone();
    let around = TracerLayer::new(outer.clone()).layer(boxed);
    let boxed = BoxCloneService::new(around);
    let again = boxed.clone();
    for service in [boxed, again] {
        let response = run(service.oneshot(bare_request())).unwrap();
        run(response.into_body().collect()).unwrap();
    }
    assert_eq!(outer.finished().len(), 2);
    assert_eq!(inner.finished().len(), 2);
    for (outer, inner) in outer.finished().iter().zip(inner.finished()) {
        assert!(inner.parent().unwrap().ptr_eq(outer));
    }
    // `Sync` as well, with a tracer whose state is not.
    let service = TracerLayer::new(Bare).layer(Handler::of(Course::OK));
    run(BoxCloneSyncService::new(service).oneshot(bare_request())).unwrap();
}

// Ending 34.
#[tokio::test]
async fn two_layers_on_each_side_have_complete_records_and_parents_on_their_own_side() {
    let [a, b, c, d] = std::array::from_fn(|_| RecordingTracer::new());
    let (incoming, uri) = listen().await.unwrap();
    tokio::spawn(
        Server::builder()
            .layer(TracerLayer::new(c.clone()))
            .layer(TracerLayer::new(d.clone()))
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(incoming),
    );
    let stack = ServiceBuilder::new()
        .layer(TracerLayer::new(a.clone()))
        .layer(TracerLayer::new(b.clone()))
        .service(connect(&uri).await);
    let mut client = EchoClient::new(stack);
    client.unary_echo(say("hello")).await.unwrap();
    for (outer, inner, role) in [(&a, &b, Role::Client), (&c, &d, Role::Server)] {
        soon(outer.wait_finished(1)).await;
        assert_eq!(outer.log(), UNARY, "{role}");
        assert_eq!(inner.log(), UNARY, "{role}");
        let (outer, inner) = (outer.only_finished(), inner.only_finished());
        assert_eq!((outer.role(), inner.role()), (role, role));
        assert!(inner.parent().unwrap().ptr_eq(&outer), "{role}");
        assert!(outer.parent().is_none(), "{role}");
        assert_eq!(outer.full_method(), inner.full_method());
    }
    let error = EchoRequest { code: 5, ..say("") };
    client.unary_echo(error).await.unwrap_err();
    for recorder in [a, b, c, d] {
        let finished = soon(recorder.wait_finished(2)).await;
        assert_eq!(
            finished[1].stats().status(),
            Some(Status::Grpc(Code::NotFound))
        );
    }
}

/// A service of which only `poll_ready` takes `&mut self` for real: neither `Clone` nor `Sync`.
struct Lone(Cell<u32>);

impl Service<Request<()>> for Lone {
    type Response = Response<String>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Response<String>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        self.0.set(self.0.get() + 1);
        std::future::ready(Ok(Response::new("one".to_owned())))
    }
}

#[test]
fn a_service_that_is_neither_clone_nor_sync_is_traced_and_given_back() {
    let recorder = RecordingTracer::new();
    let mut service = TracerLayer::new(recorder.clone()).layer(Lone(Cell::new(0)));
    assert!(run(service.call(Request::new(()))).is_ok());
    assert_eq!(service.get_ref().0.get(), 1);
    service.get_mut().0.set(5);
    assert_eq!(service.into_inner().0.get(), 5);
    assert_eq!(recorder.started().len(), 1);
}

#[test]
fn one_traced_service_can_be_added_to_a_server() {
    let traced = tower::Layer::layer(
        &TracerLayer::new(()),
        crate::support::tcp::echo::EchoServer::new(crate::support::tcp::echo::EchoService),
    );
    let _ = tonic::transport::Server::builder().add_service(traced);
}
