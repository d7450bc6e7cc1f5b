//! Which conventions and which metrics of gRPC are followed.

use std::env;

/// Which of OpenTelemetry's conventions for RPC are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Conventions {
    /// Version 1.45.0, in which those for RPC became stable: `rpc.system.name`, `rpc.status_code`,
    /// `rpc.{client,server}.call.duration` in seconds.
    #[default]
    New,
    /// Those before 1.38: `rpc.system`, `rpc.service`, `rpc.grpc.status_code`,
    /// `rpc.{client,server}.duration` in milliseconds.
    Legacy,
    /// Both. `rpc.method`, which has two meanings, has the new one on spans.
    Both,
}

impl Conventions {
    pub(super) fn from_env() -> Self {
        let asked = env::var("OTEL_SEMCONV_STABILITY_OPT_IN").unwrap_or_default();
        match asked
            .split(',')
            .any(|category| category.trim() == "rpc/dup")
        {
            true => Self::Both,
            false => Self::New,
        }
    }

    /// The version that a backend can translate other versions to; `None` for a mixture.
    pub(super) fn schema_url(self) -> Option<&'static str> {
        (self == Self::New).then_some("https://opentelemetry.io/schemas/1.45.0")
    }

    pub(super) fn has_new(self) -> bool {
        !matches!(self, Self::Legacy)
    }

    pub(super) fn has_old(self) -> bool {
        !matches!(self, Self::New)
    }
}

/// What a client's layer counts in gRPC's own metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrpcMetrics {
    /// Each RPC is a call and its one attempt: for a client without a retry layer.
    CallsAndAttempts,
    /// Each RPC is a call: for the layer outside of a retry layer. It knows the retries where there
    /// is a layer inside, too, with a tracer of its own for the [attempts](Self::Attempts).
    Calls,
    /// Each RPC is an attempt: for the layer inside of a retry layer. It measures no
    /// `rpc.client.call.duration`, which is the call's; its spans are children of the call's, of the
    /// kind that [`attempt_span_kind`](super::OtelTracer::attempt_span_kind) sets.
    Attempts,
}

impl GrpcMetrics {
    pub(super) fn calls(self) -> bool {
        !matches!(self, Self::Attempts)
    }

    pub(super) fn attempts(self) -> bool {
        !matches!(self, Self::Calls)
    }
}
