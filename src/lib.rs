#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
//! Traces every RPC of a tower service to its real end.
//!
//! A [`Tracer`] of yours is told when an RPC starts and when it is over: exactly once each, however
//! it ends. In between the layer keeps a record of it: which method, how long, how many messages
//! and bytes each way, with which status, and how it ended.
//!
//! ```
//! use {http::{Request, Response}, std::convert::Infallible, tower::{ServiceBuilder, ServiceExt as _}};
//! use tower_tracer::{Ending, RpcInfo, Status, TracerLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Infallible> {
//! let handler = async |_: Request<String>| Ok::<_, Infallible>(Response::new(String::new()));
//! let service = ServiceBuilder::new().layer(TracerLayer::new(()).tell_caller()).service_fn(handler);
//! let response = service.oneshot(Request::new("hello".to_owned())).await?;
//! let stats = response.extensions().get::<RpcInfo>().unwrap().stats();
//! assert_eq!((stats.status(), stats.ending()), (Some(Status::Http(200)), Some(Ending::HeadersOnly)));
//! # Ok(()) }
//! ```
//!
//! # Overview
//!
//! [`TracerLayer`] is the primary type: `.layer(TracerLayer::new(my_tracer))` goes unchanged onto a
//! tonic client, a tonic server, an axum router, and any other tower service. What it is given is a
//! [`Tracer`], which needs two methods: [`start`](Tracer::start) and [`finish`](Tracer::finish). What
//! both are given is an [`RpcInfo`], the record of the RPC, and its [`Stats`].
//!
//! ```
//! use {http::{Request, Response}, tower::{ServiceBuilder, ServiceExt as _}};
//! use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
//! use tower_tracer::{RequestParts, RpcInfo, Tracer, TracerLayer};
//!
//! /// How many RPCs failed, and how long these took together.
//! #[derive(Default)]
//! struct Failures {
//!     rpcs: AtomicU64,
//!     nanos: AtomicU64,
//! }
//!
//! impl Tracer for Failures {
//!     type State = ();
//!
//!     fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}
//!
//!     fn finish(&self, (): (), rpc: &RpcInfo) {
//!         if rpc.stats().failed() {
//!             let cost = rpc.stats().cost().unwrap_or_default();
//!             self.rpcs.fetch_add(1, Relaxed);
//!             self.nanos.fetch_add(cost.as_nanos() as u64, Relaxed);
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), http::Error> {
//! let failures = Arc::new(Failures::default());
//! let service = ServiceBuilder::new()
//!     .layer(TracerLayer::new(failures.clone()))
//!     .service_fn(async |_: Request<String>| Response::builder().status(503).body(String::new()));
//!
//! service.oneshot(Request::new("hello".to_owned())).await?;
//! assert_eq!(failures.rpcs.load(Relaxed), 1);
//! # Ok(()) }
//! ```
//!
//! # When an RPC is over
//!
//! At the first of: the response's trailers; the end of its body; the response itself where it has
//! no body, or headers that carry the status; an error; the drop of the future or the body; a panic.
//! Which it was is [`Stats::ending`], and the outcome is [`Stats::status`]. For gRPC that is the code
//! of the trailers, or of such headers, not the HTTP status.
//!
//! # The rest
//!
//! * **What a record tells:** [`Stats`] with [`Traffic`] each way, [`Event`]s and their times,
//!   [`Status`] and [`Code`], [`Ending`]; [`Role`], [`Protocol`], [`EndpointRef`].
//! * **How much is recorded:** [`Level`], of a layer ([`TracerLayer::level`]), of a request
//!   ([`TracerLayer::level_of`]), or of a tracer ([`Tracer::level`]).
//! * **Where code finds its record:** a handler in the request's extensions, code below it by
//!   [`RpcInfo::current`], a caller in the response's extensions ([`TracerLayer::tell_caller`]). It
//!   can add [tags](RpcInfo::set_tag) and [events](RpcInfo::record).
//! * **More for a tracer:** each message and header as it passes ([`Tracer::event`], [`WireEvent`]);
//!   something that is current wherever code of the RPC runs ([`Scope`]); RPCs to leave out
//!   ([`Tracer::try_start`], [`Candidate`]).
//! * **Several tracers:** a tuple, a `Vec`, an `Option`, an `Arc` or `Box` of tracers is one tracer.
//!   Layers stack too, and the inner record's [`parent`](RpcInfo::parent) is the outer one.
//! * **The time of one part**, such as the handler: [`MarkLayer`].
//! * **Services that are not HTTP:** implement [`TracedRequest`] and [`TracedResponse`].
//! * **One tracer made of another:** [`Tracer::filter`], [`sample`](Tracer::sample),
//!   [`slow`](Tracer::slow), [`failed`](Tracer::failed), [`reload`](Tracer::reload),
//!   [`boxed`](Tracer::boxed); one made of a closure: [`on_finish`].
//! * **Tracers that come with the crate:** [`tracers`], a feature each.
//! * **Guides:** [`guide`].
//!
//! # Features
//!
//! `transport` (default) and `tonic` see into tonic's bodies and errors, `axum` into axum's bodies;
//! requests over HTTP with other bodies have unknown sizes. `quanta` (default) reads times from the
//! processor's time-stamp counter where that is safe. `connect` understands Connect, which is
//! plain HTTP without it, and the compressed trailers of gRPC-Web. `tracing`, `otel`, `metrics` and
//! `testing` bring the [`tracers`] of these names, `otel-bound` an experiment of OpenTelemetry's that
//! makes metrics cheaper.
//!
//! # What is not provided
//!
//! * An exporter, a metrics store, an endpoint to scrape: a tracer hands its figures to the one you
//!   have.
//! * What happens below the layer: connections, HTTP/2 frames, the time in the kernel's buffers. A
//!   byte is counted when it passes the layer.
//! * The contents of messages. They are counted, not looked at, and never changed.
//! * Retries, timeouts and limits: tower has them. A record says which attempt it is.
//! * Containment where a panic aborts (`panic = "abort"`).

pub mod guide;
mod protocol;
mod rpc;
mod service;
mod tracer;
pub mod tracers;

pub use rpc::{
    Address, Code, Ending, Endpoint, EndpointRef, Event, EventStatus, Level, MethodPath, Protocol,
    Recorded, Role, RpcInfo, Scope, Stats, Status, Traffic,
};
pub use service::{
    LevelHandle, MarkFuture, MarkLayer, MarkService, OpenRpc, ResponseBody, ResponseFuture,
    TracedResponse, TracerLayer, TracerService,
};
pub use tracer::{
    BoxTracer, Candidate, Message, RequestObserver, RequestParts, TracedRequest, Tracer, WireEvent,
    WireEventKind, combine, contained_panics, on_finish,
};

// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
