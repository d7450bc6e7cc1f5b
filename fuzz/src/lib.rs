//! What the fuzz targets share: scripted exchanges made of a fuzzer's bytes, and what is recorded of them.

#[path = "../../tests/it/support/model.rs"]
pub mod model;
#[path = "../../tests/it/support/scripted.rs"]
pub mod scripted;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use scripted::{Scripted, Step, run};
use tower::{BoxError, Layer as _, service_fn};
use tower_tracer::{Ending, Role, RpcInfo, Status, TracerLayer, testing::RecordingTracer, tracer};

/// The bytes in pieces that the fuzzer chose, some of them empty.
pub fn pieces(u: &mut Unstructured<'_>, bytes: &[u8]) -> Result<Vec<Bytes>> {
    let mut cuts = vec![0, bytes.len()];
    for _ in 0..u.int_in_range(0..=7)? {
        cuts.push(u.int_in_range(0..=bytes.len())?);
    }
    cuts.sort_unstable();
    let pairs = cuts.windows(2);
    Ok(pairs
        .map(|pair| Bytes::copy_from_slice(&bytes[pair[0]..pair[1]]))
        .collect())
}

/// One of these.
pub fn pick<T: Copy>(u: &mut Unstructured<'_>, of: &[T]) -> Result<T> {
    u.choose(of).copied()
}

/// A value of a header: the fuzzer's bytes as far as HTTP allows them.
pub fn value(u: &mut Unstructured<'_>, most: usize) -> Result<HeaderValue> {
    let length = u.int_in_range(0..=most)?;
    let length = length.min(u.len());
    let mut bytes = u.bytes(length)?.to_vec();
    bytes.retain(|byte| HeaderValue::from_bytes(&[*byte]).is_ok());
    Ok(HeaderValue::from_bytes(&bytes).expect("each byte is allowed"))
}

/// A response with a status, a content type and a body in these pieces.
pub fn response(status: u16, content_type: &'static str, body: &[Bytes]) -> Response<Scripted> {
    let steps = body.iter().cloned().map(Step::Data);
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(Scripted::new(steps))
        .expect("it is well-formed")
}

/// A POST of a method with this content type, without a message.
pub fn request(content_type: &'static str) -> Request<tonic::body::Body> {
    Request::post("/echo.Echo/UnaryEcho")
        .header("content-type", content_type)
        .body(tonic::body::Body::empty())
        .expect("it is well-formed")
}

/// Goes through an exchange to the end of its response, checks that its body passed unchanged, that one RPC
/// finished, and that no tracer panicked.
pub fn exchange(
    role: Role,
    request: Request<tonic::body::Body>,
    response: Response<Scripted>,
) -> RpcInfo {
    let recorder = RecordingTracer::new();
    exchange_with(recorder.clone(), role, request, response);
    assert_eq!(recorder.started().len(), 1);
    recorder.only_finished()
}

/// The same with this tracer.
pub fn exchange_with(
    tracer: impl tower_tracer::Tracer,
    role: Role,
    request: Request<tonic::body::Body>,
    response: Response<Scripted>,
) {
    let layer = TracerLayer::new(tracer);
    let layer = match role {
        Role::Client => layer.client(),
        Role::Server => layer.server(),
    };
    let expected = collect(response.body().clone());
    let mut response = Some(response);
    let service = layer.layer(service_fn(move |request: Request<tonic::body::Body>| {
        let response = response.take();
        async move {
            drop(request.into_body().collect().await?);
            response.ok_or(BoxError::from("called twice"))
        }
    }));
    let response = run(service.oneshot(request)).expect("the service does not fail");
    assert_eq!(
        collect(response.into_body()),
        expected,
        "the body passes unchanged"
    );
    assert_eq!(tracer::contained_panics(), 0, "no tracer panicked");
}

/// The data and the trailers of a body.
fn collect<B>(body: B) -> (Bytes, Option<HeaderMap>)
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let collected = run(body.collect()).expect("the body does not fail");
    let trailers = collected.trailers().cloned();
    (collected.to_bytes(), trailers)
}

/// How an RPC ended, without times.
pub fn end(rpc: &RpcInfo) -> (Option<Ending>, [Option<Status>; 2], [Option<String>; 2]) {
    let stats = rpc.stats();
    (
        stats.ending(),
        [stats.status(), stats.wire_status()],
        [stats.error(), stats.raw_status()].map(|text| text.map(ToOwned::to_owned)),
    )
}

/// What was counted of the response.
pub fn counted(rpc: &RpcInfo) -> ([Option<u64>; 5], bool) {
    let traffic = rpc.stats().response();
    (
        [
            traffic.messages(),
            traffic.compressed_messages(),
            traffic.message_bytes(),
            traffic.last_message_bytes(),
            traffic.body_bytes(),
        ],
        traffic.truncated(),
    )
}

/// A header map of these.
pub fn headers(of: impl IntoIterator<Item = (&'static str, HeaderValue)>) -> HeaderMap {
    let each = of.into_iter();
    each.map(|(name, value)| (HeaderName::from_static(name), value))
        .collect()
}
