//! OpenTracing: a tracer for the client and one for the server, on `rustracing` and Jaeger's
//! implementation of it.
//!
//! ```text
//! cargo run -p examples --example opentracing --features opentracing
//! ```
//!
//! `start` opens a span, `finish` finishes it; the span's context crosses the wire in a header, and
//! the handler's span is a child of the caller's.

#[path = "echo/mod.rs"]
mod echo;
#[path = "load/mod.rs"]
mod load;

use std::{error::Error, time::Duration};

use echo::{EchoClient, EchoRequest, say};
use http::{HeaderMap, HeaderName, HeaderValue};
use rustracing::{
    carrier::{IterHttpHeaderFields, SetHttpHeaderField},
    sampler::AllSampler,
    tag::Tag,
};
use rustracing_jaeger::{
    Span,
    span::{FinishedSpan, SpanContext},
};
use tower_tracer::{RequestParts, RpcInfo, Tracer, TracerLayer};

/// Opens a span "RPC call" per call, and sends its context along.
struct ClientTracer(rustracing_jaeger::Tracer);

impl Tracer for ClientTracer {
    type State = Span;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Span {
        let span = self.0.span("RPC call").tag(method(rpc)).start();
        if let (Some(context), Some(headers)) = (span.context(), request.headers_mut()) {
            // A context that does not fit a header is not sent; the call continues.
            let _ = context.inject_to_http_header(&mut Outgoing(headers));
        }
        span
    }

    fn finish(&self, mut span: Span, rpc: &RpcInfo) {
        conclude(&mut span, rpc);
    }
}

/// Opens a span "RPC handle" per call that is served, a child of the caller's.
struct ServerTracer(rustracing_jaeger::Tracer);

impl Tracer for ServerTracer {
    type State = Span;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Span {
        // An invalid context from a peer is ignored: the span is then a root.
        let caller = SpanContext::extract_from_http_header(&Incoming(request.headers()));
        self.0
            .span("RPC handle")
            .tag(method(rpc))
            .child_of(&caller.ok().flatten())
            .start()
    }

    fn finish(&self, mut span: Span, rpc: &RpcInfo) {
        conclude(&mut span, rpc);
    }
}

fn method(rpc: &RpcInfo) -> Tag {
    Tag::new(
        "rpc.method",
        rpc.full_method().unwrap_or("_OTHER").to_owned(),
    )
}

/// Tells how the RPC ended; the span is finished when it is dropped after this.
fn conclude(span: &mut Span, rpc: &RpcInfo) {
    let stats = rpc.stats();
    if let Some(status) = stats.status() {
        span.set_tag(|| Tag::new("rpc.status", status.to_string()));
    }
    if stats.failed() {
        span.set_tag(|| Tag::new("error", true));
    }
}

struct Outgoing<'a>(&'a mut HeaderMap);

impl SetHttpHeaderField for Outgoing<'_> {
    fn set_http_header_field(&mut self, name: &str, value: &str) -> rustracing::Result<()> {
        let name = HeaderName::try_from(name);
        let value = HeaderValue::try_from(value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(rustracing::ErrorKind::InvalidInput.into());
        };
        // Replaces what an earlier attempt of the same request has put there.
        self.0.insert(name, value);
        Ok(())
    }
}

struct Incoming<'a>(&'a HeaderMap);

impl<'a> IterHttpHeaderFields<'a> for Incoming<'_> {
    type Fields = Box<dyn Iterator<Item = (&'a str, &'a [u8])> + 'a>;

    fn fields(&'a self) -> Self::Fields {
        let fields = self.0.iter();
        Box::new(fields.map(|(name, value)| (name.as_str(), value.as_bytes())))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (caller, calls) = rustracing_jaeger::Tracer::new(AllSampler);
    let (handler, handles) = rustracing_jaeger::Tracer::new(AllSampler);
    let server = load::serve(TracerLayer::new(ServerTracer(handler)).server()).await?;
    let channel =
        load::connect(&server.uri, TracerLayer::new(ClientTracer(caller)).client()).await?;

    let mut echo = EchoClient::new(channel);
    echo.unary_echo(say("hello")).await?;
    let missing = EchoRequest {
        code: tonic::Code::NotFound as u32,
        ..say("no such thing")
    };
    let _ = echo.unary_echo(missing).await;

    for _ in 0..2 {
        let call = calls.recv_timeout(Duration::from_secs(5))?;
        let handle = handles.recv_timeout(Duration::from_secs(5))?;
        print(&call);
        print(&handle);
        let parent = handle
            .references()
            .first()
            .map(|parent| parent.span().span_id());
        assert_eq!(parent, Some(call.context().state().span_id()));
        assert_eq!(
            handle.context().state().trace_id(),
            call.context().state().trace_id()
        );
    }
    Ok(())
}

fn print(span: &FinishedSpan) {
    let tags: Vec<_> = span
        .tags()
        .iter()
        .map(|tag| format!("{}={:?}", tag.name(), tag.value()))
        .collect();
    let state = span.context().state();
    println!(
        "{:<10} trace {} span {:016x} {}",
        span.operation_name(),
        state.trace_id(),
        state.span_id(),
        tags.join(" ")
    );
}
