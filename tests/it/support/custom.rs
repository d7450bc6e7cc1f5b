//! A custom request and response, without HTTP.

use tower_tracer::{
    Status, Tracer,
    service::{RpcGuard, TracedRequest, TracedResponse},
};

/// A request of any name, as no HTTP library would let it pass.
pub(crate) struct Named(pub(crate) String);

/// A response that ends its RPC with this status.
pub(crate) struct Done(pub(crate) Status);

impl TracedRequest for Named {
    fn path(&self) -> &str {
        &self.0
    }
}

impl TracedResponse for Done {
    type Traced<T: Tracer> = Self;

    fn attach<T: Tracer>(self, open: RpcGuard<T>) -> Self {
        open.finish(self.0);
        self
    }
}
