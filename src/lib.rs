#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
//! A tower layer that records what every RPC did and hands the record to your tracer, exactly once,
//! however the RPC ends.
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//! use std::sync::Arc;
//!
//! use http::{Request, Response};
//! use tower::ServiceBuilder;
//! use tower_tracer::{Code, RequestParts, RpcInfo, Tracer, TracerLayer};
//!
//! /// Counts the RPCs that find nothing, and adds up how long they take.
//! #[derive(Default)]
//! struct NotFound {
//!     rpcs: AtomicU64,
//!     nanos: AtomicU64,
//! }
//!
//! impl Tracer for NotFound {
//!     type State = ();
//!
//!     fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}
//!
//!     fn finish(&self, (): (), rpc: &RpcInfo) {
//!         let stats = rpc.stats();
//!         println!("{rpc}"); // echo.Echo/UnaryEcho server NOT_FOUND headers_only 0.042 ms …
//!         if stats.code() == Some(Code::NotFound) {
//!             let took = stats.duration().unwrap_or_default();
//!             self.rpcs.fetch_add(1, Relaxed);
//!             self.nanos.fetch_add(took.as_nanos() as u64, Relaxed);
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), http::Error> {
//! let not_found = Arc::new(NotFound::default());
//!
//! // With tonic: `Server::builder().layer(TracerLayer::new(not_found.clone())).add_service(…)`.
//! let service = ServiceBuilder::new()
//!     .layer(TracerLayer::new(not_found.clone()))
//!     .service_fn(async |_: Request<String>| {
//!         Response::builder().header("grpc-status", "5").body(String::new())
//!     });
//!
//! let request = Request::post("/echo.Echo/UnaryEcho").header("content-type", "application/grpc");
//! service.oneshot(request.body(String::new())?).await?;
//! assert_eq!(not_found.rpcs.load(Relaxed), 1);
//! # Ok(()) }
//! ```
//!
//! # Overview
//!
//! [`TracerLayer`] is the main type. `.layer(TracerLayer::new(my_tracer))` works unchanged on a tonic
//! client, a tonic server, an axum router and any other tower service. It takes a [`Tracer`], which has
//! two methods: [`start`](Tracer::start) and [`finish`](Tracer::finish). Both get an [`RpcInfo`], the
//! record of the RPC, with its [`Stats`].
//!
//! # When an RPC is over
//!
//! At the first of these: the trailers of the response; the end of its body; the response itself, if it
//! has no body or its headers carry the status; an error; the drop of the future or the body; a panic.
//! [`Stats::ending`] says which it was, and [`Stats::status`] has the outcome. For gRPC that is the code
//! of the trailers, or of the headers if they end the response, and not the HTTP status.
//!
//! # The rest
//!
//! * **What a record has:** [`Stats`] with [`Traffic`](rpc::Traffic) each way, [`Event`]s and their times,
//!   [`Status`] and [`Code`], [`Ending`]; [`Role`], [`Protocol`](rpc::Protocol), both
//!   [ends](rpc::EndpointRef).
//! * **How much is recorded:** a [`Level`], of a layer ([`TracerLayer::level`]), of a request
//!   ([`TracerLayer::level_of`]), or of a tracer ([`Tracer::level`]).
//! * **Where code finds its record:** a handler in the request's extensions, code below it by
//!   [`RpcInfo::current`], a caller in the response's extensions
//!   ([`TracerLayer::insert_into_response`]). It can add [tags](RpcInfo::set_tag) and
//!   [events](RpcInfo::record).
//! * **More for a tracer:** each message and header as it passes
//!   ([`Tracer::on_event`], [`StreamEvent`](tracer::StreamEvent)); something that is current wherever code of
//!   the RPC runs ([`Scope`](tracer::Scope)); progress while an RPC runs
//!   ([`TracerLayer::progress_every`]); RPCs to leave out ([`Tracer::try_start`], [`Candidate`](tracer::Candidate)).
//! * **Several tracers:** a tuple, a `Vec`, an `Option`, an `Arc` or a `Box` of tracers is one tracer.
//!   Layers stack too, and the inner record's [`parent`](RpcInfo::parent) is the outer one.
//! * **One tracer made of another:** [`Tracer::filter`], [`sample`](Tracer::sample),
//!   [`slower_than`](Tracer::slower_than), [`only_failed`](Tracer::only_failed),
//!   [`reloadable`](Tracer::reloadable), [`boxed`](Tracer::boxed). One made of a closure: [`on_finish`].
//! * **The time of one part**, such as the handler: [`StageLayer`](service::StageLayer).
//! * **Connections:** [`connection`] wraps a server's incoming and a client's connector, with feature
//!   `connection`.
//! * **Services that are not HTTP:** implement [`TracedRequest`](service::TracedRequest) and
//!   [`TracedResponse`](service::TracedResponse).
//! * **Tracers that come with the crate,** a feature each: `otel`, `metrics`, `prometheus`, `tracing`,
//!   `live`, `testing`.
//! * **Guides:** [`guide`].
//!
//! # Features
//!
//! `tonic` and `transport` (default) read tonic's bodies and errors, `axum` reads axum's bodies,
//! `http-body-util` (which these bring) its own. [`TracerLayer::body_type`] says which bodies of requests
//! are counted, and names others. `reqwest` traces reqwest's client. `quanta` (default) reads times from the
//! processor's time-stamp counter if that is safe. `connect` understands Connect, which is plain HTTP
//! without it, and the compressed trailers of gRPC-Web; `connect-zstd` reads both in zstd, too. `tracing`,
//! `otel`, `metrics`, `prometheus`, `live`, `connection` and `testing` bring the modules of these names.
//! `h2-frames` reads the HTTP/2 frames of connections. `otel-bound` makes OpenTelemetry's metrics cheaper, by
//! an experiment of theirs.
//!
//! # What is not provided
//!
//! * An exporter or a metrics store: a tracer hands its figures to the one you have.
//! * What happens below the layer and the wrappers of connections, such as the time in the kernel's
//!   buffers. A byte is counted when it passes.
//! * The contents of messages. They are counted, not looked at, and never changed.
//! * Retries, timeouts and limits: tower has them. A record says which attempt it is.
//! * Containment where a panic aborts (`panic = "abort"`).

#[cfg(any(feature = "otel", feature = "tracing"))]
mod address;
#[cfg(any(feature = "metrics", feature = "otel", feature = "prometheus"))]
mod buckets;
#[cfg(any(feature = "metrics", feature = "otel"))]
mod combinations;
mod config;
#[cfg(feature = "connection")]
#[cfg_attr(docsrs, doc(cfg(feature = "connection")))]
pub mod connection;
pub mod guide;
#[cfg(any(feature = "metrics", feature = "prometheus"))]
mod labels;
mod layer;
#[cfg(feature = "live")]
#[cfg_attr(docsrs, doc(cfg(feature = "live")))]
pub mod live;
#[cfg(any(
    feature = "live",
    feature = "metrics",
    feature = "otel",
    feature = "prometheus",
    feature = "tracing"
))]
mod method_names;
pub mod methods;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod metrics;
#[cfg(any(feature = "live", feature = "metrics", feature = "otel"))]
mod name_hasher;
#[cfg(feature = "otel")]
#[cfg_attr(docsrs, doc(cfg(feature = "otel")))]
pub mod otel;
mod panics;
#[cfg(feature = "prometheus")]
#[cfg_attr(docsrs, doc(cfg(feature = "prometheus")))]
pub mod prometheus;
mod protocol;
pub mod rpc;
#[cfg(any(feature = "otel", feature = "tracing"))]
mod semconv;
pub mod service;
mod sync;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
mod text;
mod time;
#[cfg(any(feature = "live", feature = "prometheus", feature = "tracing"))]
mod trace_id;
pub mod tracer;
#[cfg(feature = "tracing")]
#[cfg_attr(docsrs, doc(cfg(feature = "tracing")))]
pub mod tracing;

pub use crate::{
    layer::TracerLayer,
    rpc::{
        ending::Ending,
        event::Event,
        info::RpcInfo,
        level::Level,
        role::Role,
        stats::Stats,
        status::{Code, Status},
    },
    tracer::{Tracer, adapters::on_finish, request::RequestParts},
};

// The code in the README compiles.
#[cfg(all(doctest, feature = "transport"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
