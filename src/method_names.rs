//! Which method an RPC is named after, for the tracers that name it.

#[cfg(any(
    feature = "metrics",
    feature = "otel",
    feature = "prometheus",
    feature = "tracing"
))]
use {
    crate::{RequestParts, Role},
    std::{
        collections::BTreeMap,
        sync::{PoisonError, RwLock},
    },
};

use crate::{RpcInfo, Status};

/// The name of a method that is not known.
pub(crate) const OTHER: &str = "_OTHER";

/// How many methods a tracer learns from answers: a service that answers to any name must not
/// create names without bound.
#[cfg(any(
    feature = "metrics",
    feature = "otel",
    feature = "prometheus",
    feature = "tracing"
))]
const LEARNED: usize = 100;

/// Whether an RPC that is over shows that its method exists: a service answers an unknown method
/// neither with OK nor with a message.
pub(crate) fn is_answered(rpc: &RpcInfo) -> bool {
    let stats = rpc.stats();
    stats.status() == Some(Status::OK) || stats.response().messages().is_some_and(|n| n > 0)
}

/// The methods that a tracer has learned from answers, and what it keeps of each.
#[cfg(any(
    feature = "metrics",
    feature = "otel",
    feature = "prometheus",
    feature = "tracing"
))]
#[derive(Debug, Default)]
pub(crate) struct Learned<V>(RwLock<BTreeMap<Box<str>, V>>);

#[cfg(any(
    feature = "metrics",
    feature = "otel",
    feature = "prometheus",
    feature = "tracing"
))]
impl<V: Clone + Default> Learned<V> {
    /// What is kept of a known method.
    #[cfg(any(feature = "metrics", feature = "prometheus", feature = "tracing"))]
    pub(crate) fn get(&self, method: &str) -> Option<V> {
        let learned = self.0.read().unwrap_or_else(PoisonError::into_inner);
        learned.get(method).cloned()
    }

    /// What is kept of a method that was answered: from now on it is known, unless the limit is
    /// reached.
    pub(crate) fn learn(&self, method: &str) -> Option<V> {
        let learned = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if learned.contains_key(method) || learned.len() >= LEARNED {
            return learned.get(method).cloned();
        }
        drop(learned);
        // Another RPC may have come first.
        let mut learned = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !learned.contains_key(method) && learned.len() < LEARNED {
            learned.insert(method.into(), V::default());
        }
        learned.get(method).cloned()
    }
}

/// Service and method of a call that generated code makes: part of this program, so known.
///
/// The names live as long as the program, though the signature cannot say so.
#[cfg(any(
    feature = "metrics",
    feature = "otel",
    feature = "prometheus",
    feature = "tracing"
))]
pub(crate) fn generated<'a>(
    rpc: &RpcInfo,
    request: &'a RequestParts<'_>,
) -> Option<(&'a str, &'a str)> {
    #[cfg(feature = "tonic")]
    if rpc.role() == Role::Client {
        let method: &tonic::GrpcMethod<'static> = request.extensions()?.get()?;
        return Some((method.service(), method.method()));
    }
    let _ = (rpc, request, Role::Client);
    None
}

/// The name of the method that generated code calls, as the path has it: at its end, since a
/// client's origin can have a path too. `None` if something has replaced the path.
#[cfg(any(feature = "otel", feature = "prometheus", feature = "tracing"))]
pub(crate) fn generated_name<'a>(rpc: &'a RpcInfo, request: &RequestParts<'_>) -> Option<&'a str> {
    let (service, method) = generated(rpc, request)?;
    let path = rpc.path();
    let before = path.strip_suffix(method)?.strip_suffix('/')?;
    let origin = before.strip_suffix(service)?.strip_suffix('/')?;
    path.get(origin.len() + 1..)
}
