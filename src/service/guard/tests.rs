//! A custom response, through its guard.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use tower_layer::Layer as _;
use tower_service::Service;

use super::RpcGuard;
use crate::{
    Ending, RpcInfo, Status, TracerLayer, on_finish,
    service::{TracedRequest, TracedResponse},
    tracer::Tracer,
};

struct Lookup;

impl TracedRequest for Lookup {
    fn path(&self) -> &str {
        "/kv.Store/Get"
    }
}

struct Found;

impl TracedResponse for Found {
    type Traced<T: Tracer> = Self;

    fn attach<T: Tracer>(self, mut open: RpcGuard<T>) -> Self {
        open.message(7, true);
        open.message(5, false);
        open.finish(Status::OK);
        self
    }
}

struct Store;

impl Service<Lookup> for Store {
    type Response = Found;
    type Error = Infallible;
    type Future = Ready<Result<Found, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Lookup) -> Self::Future {
        ready(Ok(Found))
    }
}

#[test]
fn a_custom_response_reports_its_messages_and_its_status() {
    let records = Arc::new(Mutex::new(Vec::<RpcInfo>::new()));
    let seen = Arc::clone(&records);
    let tracer = on_finish(move |rpc: &RpcInfo| seen.lock().unwrap().push(rpc.clone()));
    let mut service = TracerLayer::new(tracer).layer(Store);
    let response = pin!(service.call(Lookup));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(response.poll(&mut cx).is_ready());
    let records = records.lock().unwrap();
    let [rpc] = &records[..] else {
        panic!("{records:?}");
    };
    let (stats, response) = (rpc.stats(), rpc.stats().response());
    assert_eq!(stats.ending(), Some(Ending::Response));
    assert_eq!(stats.wire_status(), Some(Status::OK));
    assert_eq!(
        (response.messages(), response.message_bytes()),
        (Some(2), Some(12))
    );
    assert_eq!(response.compressed_messages(), Some(1));
    assert!(response.is_complete());
}
