use super::RpcGuard;
use crate::{rpc::RpcInfo, tracer::Tracer};

/// Says how a response ends its RPC. One of the two traits that make
/// [`TracerLayer`](crate::TracerLayer) fit a tower service; the other is
/// [`TracedRequest`](crate::service::TracedRequest).
///
/// It is implemented for [`http::Response`], whose body ends the RPC, and with feature `reqwest` for
/// reqwest's. For a custom response that is complete when it is returned:
///
/// ```
/// use tower_tracer::{Status, Tracer, service::{RpcGuard, TracedResponse}};
///
/// struct Found(Option<String>);
///
/// impl TracedResponse for Found {
///     type Traced<T: Tracer> = Self;
///
///     fn attach<T: Tracer>(self, mut open: RpcGuard<T>) -> Self {
///         if let Found(Some(value)) = &self {
///             open.message(value.len() as u64, false);
///         }
///         open.finish(Status::OK);
///         self
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`TracerLayer` does not know how a `{Self}` ends its RPC",
    label = "the response type of the traced service",
    note = "`http::Response<B>` is traced for every body `B: http_body::Body + 'static` whose error \
            is `Display + 'static`",
    note = "for a response type of your own, implement `tower_tracer::service::TracedResponse`"
)]
pub trait TracedResponse: Sized {
    /// What the caller gets: `Self`, or `Self` with something in it that holds the guard until the
    /// RPC is over.
    type Traced<T: Tracer>;

    /// Called once, when the inner service's future resolves to this response.
    ///
    /// Call [`RpcGuard::finish`] here or later. A guard that is dropped instead finishes the RPC as
    /// cancelled.
    fn attach<T: Tracer>(self, open: RpcGuard<T>) -> Self::Traced<T>;

    /// Hands the record to the response, for the caller, if the layer is configured with
    /// [`insert_into_response`](crate::TracerLayer::insert_into_response).
    fn set_rpc(&mut self, rpc: &RpcInfo) {
        let _ = rpc;
    }
}
