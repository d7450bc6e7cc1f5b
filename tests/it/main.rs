//! The integration tests that can share a process. A test that needs the process for itself has a binary of
//! its own beside this folder, and says why.
//!
//! The folders say what a test runs on; those of built-in tracers have the names of their modules. This is
//! the one list of the features that each file needs.

/// What tests share: scripts of exchanges, peers, and exporters in memory.
#[cfg(feature = "testing")]
mod support {
    #[cfg(all(
        feature = "transport",
        any(feature = "metrics", all(feature = "otel", feature = "tracing"))
    ))]
    pub(crate) mod custom;
    #[cfg(feature = "tonic")]
    pub(crate) mod model;
    #[cfg(feature = "transport")]
    pub(crate) mod raw_peer;
    #[cfg(feature = "tonic")]
    pub(crate) mod scripted;
    #[cfg(feature = "transport")]
    pub(crate) mod tcp;
    #[cfg(feature = "otel")]
    pub(crate) mod telemetry;
    #[cfg(feature = "tonic")]
    pub(crate) mod two_sides;
}

/// Services that are called directly, without a connection.
#[cfg(feature = "testing")]
mod in_process {
    #[cfg(feature = "transport")]
    mod beside_tower_http;
    #[cfg(all(feature = "axum", feature = "transport"))]
    mod bodies;
    #[cfg(all(
        feature = "metrics",
        feature = "otel",
        feature = "tracing",
        feature = "transport"
    ))]
    mod chains;
    #[cfg(feature = "transport")]
    mod compose;
    #[cfg(all(feature = "axum", feature = "connect-zstd", feature = "transport"))]
    mod connect;
    #[cfg(feature = "transport")]
    mod endings;
    #[cfg(feature = "transport")]
    mod mark;
    #[cfg(feature = "transport")]
    mod odd_requests;
    #[cfg(feature = "transport")]
    mod passthrough;
    #[cfg(feature = "transport")]
    mod print;
    #[cfg(feature = "tonic")]
    mod quiet;
    #[cfg(feature = "transport")]
    mod reuse;
}

/// Clients and servers that others wrote (tonic, axum, hyper, reqwest, connectrpc), over TCP.
#[cfg(all(feature = "testing", feature = "transport"))]
mod tcp {
    mod agreement;
    #[cfg(feature = "axum")]
    mod bounds;
    #[cfg(all(feature = "axum", feature = "connect"))]
    mod connectrpc;
    mod endings;
    mod events;
    #[cfg(feature = "connect")]
    mod grpc_web;
    #[cfg(feature = "axum")]
    mod http;
    #[cfg(all(feature = "axum", feature = "otel", feature = "reqwest"))]
    mod reqwest;
    mod sequences;
}

/// Peers that send exactly the frames of a script, whatever those are.
#[cfg(all(feature = "testing", feature = "transport"))]
mod raw_peer {
    #[cfg(feature = "axum")]
    mod differential;
    mod resets;
    mod status;
    #[cfg(feature = "axum")]
    mod wire;
}

#[cfg(all(
    feature = "axum",
    feature = "connection",
    feature = "metrics",
    feature = "otel",
    feature = "testing",
    feature = "transport",
))]
mod connection;

#[cfg(all(
    feature = "axum",
    feature = "live",
    feature = "testing",
    feature = "transport"
))]
mod live;

#[cfg(all(feature = "metrics", feature = "testing", feature = "transport"))]
mod metrics {
    mod calls;
    mod shape;
}

#[cfg(all(feature = "otel", feature = "testing", feature = "transport"))]
mod otel {
    mod calls;
    mod semconv;
    mod shape;
}

#[cfg(all(
    feature = "otel",
    feature = "prometheus",
    feature = "testing",
    feature = "transport"
))]
mod prometheus;

#[cfg(all(
    feature = "otel",
    feature = "testing",
    feature = "tracing",
    feature = "transport"
))]
mod tracing;

/// What holds for several built-in tracers.
#[cfg(all(
    feature = "metrics",
    feature = "otel",
    feature = "testing",
    feature = "transport"
))]
mod built_in {
    #[cfg(feature = "tracing")]
    mod failures;
    #[cfg(feature = "prometheus")]
    mod progress;
}

/// The code of examples.
#[cfg(all(feature = "testing", feature = "transport"))]
mod examples {
    mod compose;
    #[cfg(feature = "axum")]
    mod influxdb;
}

/// What is checked in: tables that name tests, and generated code.
mod repository {
    mod endings_table;
    #[cfg(feature = "testing")]
    mod generated_code;
}
