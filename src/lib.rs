#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
//! draft

pub mod guide;
mod protocol;
mod rpc;
mod service;
mod tracer;
pub mod tracers;

pub use rpc::{
    Address, Code, Ending, Endpoint, EndpointRef, Event, EventStatus, Level, MethodPath, Protocol,
    Recorded, Role, RpcInfo, Stats, Status, Traffic,
};
pub use service::{
    MarkFuture, MarkLayer, MarkService, OpenRpc, ResponseBody, ResponseFuture, TracedResponse,
    TracerLayer, TracerService,
};
pub use tracer::{
    BoxTracer, Candidate, Message, RequestObserver, RequestParts, Scope, TracedRequest, Tracer,
    WireEvent, WireEventKind, combine, contained_panics, on_finish,
};
