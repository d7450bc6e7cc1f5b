//! A tower service that is not HTTP, with request and response types of its own.
//!
//! A key-value store in memory. Two small implementations make its requests and answers known to
//! the layer: how a request carries the record, and how an answer ends the RPC.
//!
//! ```sh
//! cargo run --example custom_service
//! ```

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    future::{Ready, ready},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tower::{Service, ServiceBuilder, ServiceExt as _};
use tower_tracer::{
    Code, Event, Level, RequestParts, RpcInfo, Status, Tracer, TracerLayer,
    rpc::MethodPath,
    service::{RequestObserver, RpcGuard, TracedRequest, TracedResponse},
};

/// What is asked of the store.
enum Operation {
    Get { key: String },
    Put { key: String, value: String },
}

struct StoreRequest {
    operation: Operation,
    /// Where the layer puts the record, for the store to find.
    rpc: Option<RpcInfo>,
}

/// The store's answer: the value under the key, or the one that was there before.
struct StoreResponse(Option<String>);

impl StoreRequest {
    fn get(key: &str) -> Self {
        let key = key.to_owned();
        Self {
            operation: Operation::Get { key },
            rpc: None,
        }
    }

    fn put(key: &str, value: &str) -> Self {
        let (key, value) = (key.to_owned(), value.to_owned());
        Self {
            operation: Operation::Put { key, value },
            rpc: None,
        }
    }

    fn method(&self) -> &'static str {
        match self.operation {
            Operation::Get { .. } => "/kv.Store/Get",
            Operation::Put { .. } => "/kv.Store/Put",
        }
    }
}

impl TracedRequest for StoreRequest {
    fn path(&self) -> &str {
        self.method()
    }

    // This and all below could be left out. Here: a name that need not be copied.
    fn method_path(&self) -> MethodPath {
        self.method().into()
    }

    fn set_rpc(&mut self, rpc: RpcInfo) -> Option<RpcInfo> {
        self.rpc.replace(rpc)
    }

    fn rpc(&self) -> Option<&RpcInfo> {
        self.rpc.as_ref()
    }

    fn observe(&mut self, mut observer: RequestObserver) {
        let size = match &self.operation {
            Operation::Get { key } => key.len(),
            Operation::Put { key, value } => key.len() + value.len(),
        };
        observer.message(size as u64, false);
        observer.complete();
    }
}

impl TracedResponse for StoreResponse {
    // The answer is all there, so the RPC ends with it. An answer that is a stream would be given
    // the `RpcGuard` to hold here, and finish it at its end.
    type Traced<T: Tracer> = Self;

    fn attach<T: Tracer>(self, mut open: RpcGuard<T>) -> Self {
        match &self.0 {
            Some(value) => {
                open.message(value.len() as u64, false);
                open.finish(Status::OK);
            }
            None => open.finish(Status::Grpc(Code::NotFound)),
        }
        self
    }
}

static KEY_IS_NEW: Event = Event::new("key_is_new", Level::Base);

/// The service; it does not know of any tracer, only of the record that its requests carry.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<HashMap<String, String>>>);

impl Service<StoreRequest> for Store {
    type Response = StoreResponse;
    type Error = Full;
    type Future = Ready<Result<StoreResponse, Full>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Full>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: StoreRequest) -> Self::Future {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ready(match request.operation {
            Operation::Get { key } => Ok(StoreResponse(values.get(&key).cloned())),
            Operation::Put { key, .. } if values.len() == 2 && !values.contains_key(&key) => {
                Err(Full)
            }
            Operation::Put { key, value } => {
                let old = values.insert(key, value.clone());
                if let (None, Some(rpc)) = (&old, &request.rpc) {
                    rpc.record(KEY_IS_NEW);
                }
                Ok(StoreResponse(old.or(Some(value))))
            }
        })
    }
}

/// The store holds two values and no more.
#[derive(Debug)]
struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store is full")
    }
}

impl Error for Full {}

/// Prints a line when an RPC is over.
struct Log;

impl Tracer for Log {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        let stats = rpc.stats();
        println!(
            "{:<14} {:<10} {:<14} sent {:>2} B  received {:>2} B  {}{}",
            rpc.full_method().unwrap_or("unknown"),
            stats
                .status()
                .map_or("-".into(), |status| status.to_string()),
            stats.ending().map_or("-", |ending| ending.as_str()),
            stats.sent().message_bytes().unwrap_or(0),
            stats.received().message_bytes().unwrap_or(0),
            stats.error().unwrap_or_default(),
            stats.at(KEY_IS_NEW).map_or("", |_| "(a new key)"),
        );
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A custom request does not show which side the layer is on, so name it.
    let mut store = ServiceBuilder::new()
        .layer(TracerLayer::new(Log).client())
        .service(Store::default());

    for request in [
        StoreRequest::put("colour", "blue"),
        StoreRequest::put("colour", "green"),
        StoreRequest::get("colour"),
        StoreRequest::get("shape"),
        StoreRequest::put("shape", "round"),
        StoreRequest::put("size", "large"),
    ] {
        // The last one fails, since the store is full.
        let _ = store.ready().await?.call(request).await;
    }
    Ok(())
}
