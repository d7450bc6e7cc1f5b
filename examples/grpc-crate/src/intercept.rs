//! `TracerLayer` as an interceptor of the `grpc` crate.
//!
//! An interceptor is not a tower service, but it can call one: a service of a single call, which makes the RPC
//! and returns its two streams. The layer around that service starts the tracers and opens the guard. The
//! stream to receive from keeps the guard, and finishes it at the trailers.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use bytes::Buf;
use grpc::{
    client::{
        CallOptions, InvokeOnce, RecvStream, ResponseStreamItem, SendOptions, SendStream,
        interceptor::Intercept,
    },
    core::{RecvMessage, RequestHeaders, SendMessage, Trailers},
};
use http::{HeaderMap, HeaderValue};
use tonic::metadata::MetadataMap;
use tower::{Layer as _, service_fn};
use tower_tracer::{
    Code, Role, RpcInfo, Status, Tracer, TracerLayer,
    service::{RequestObserver, RpcGuard, TracedRequest, TracedResponse},
};

/// Traces the calls of a channel: `channel.with_interceptor(Traced::new(layer))`.
///
/// Attach it before other interceptors: one below it cannot downcast messages any more, since it gets them in
/// the wrapper that counts them.
pub(crate) struct Traced<T>(TracerLayer<T>);

impl<T> Traced<T> {
    pub(crate) fn new(layer: TracerLayer<T>) -> Self {
        Self(layer)
    }
}

impl<I: InvokeOnce, T: Tracer> Intercept<I> for Traced<T> {
    type SendStream = Sent<I::SendStream>;
    type RecvStream = Received<I::RecvStream, T>;

    async fn intercept(
        &self,
        headers: RequestHeaders,
        options: CallOptions,
        next: I,
    ) -> (Self::SendStream, Self::RecvStream) {
        let mut next = Some(next);
        let service = service_fn(move |call: Call| {
            let next = next.take().expect("it is called once");
            async move {
                let (headers, options, observer) = call.into_parts();
                let (send, receive) = next.invoke_once(headers, options).await;
                let send = Sent {
                    inner: send,
                    observer,
                };
                Ok::<_, Infallible>(Streams(send, receive))
            }
        });
        let call = Call::new(headers, options);
        let Ok(Streams(send, receive)) = self.0.layer(service).oneshot(call).await;
        (send, receive)
    }
}

/// What the layer sees of a call.
struct Call {
    headers: RequestHeaders,
    options: CallOptions,
    /// The metadata as HTTP has it, for a tracer to read and to change.
    metadata: HeaderMap,
    rpc: Option<RpcInfo>,
    observer: Option<RequestObserver>,
}

/// What the transport makes a header of by itself; a tracer is to see it too.
const CONTENT_TYPE: &str = "content-type";
const TIMEOUT: &str = "grpc-timeout";

impl Call {
    fn new(headers: RequestHeaders, options: CallOptions) -> Self {
        let metadata = MetadataMap::from(headers.metadata().clone());
        let mut metadata = metadata.into_headers();
        metadata.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(deadline) = options.deadline() {
            let rest = deadline.saturating_duration_since(Instant::now());
            let millis = rest.as_millis().min(99_999_999);
            if let Ok(timeout) = format!("{millis}m").parse() {
                metadata.insert(TIMEOUT, timeout);
            }
        }
        Self {
            headers,
            options,
            metadata,
            rpc: None,
            observer: None,
        }
    }

    fn into_parts(mut self) -> (RequestHeaders, CallOptions, Option<RequestObserver>) {
        self.metadata.remove(CONTENT_TYPE);
        self.metadata.remove(TIMEOUT);
        // What is not valid as metadata is not sent, and the call goes on as it came.
        if let Ok(metadata) = MetadataMap::from_headers(self.metadata).try_into() {
            *self.headers.metadata_mut() = metadata;
        }
        (self.headers, self.options, self.observer)
    }
}

impl TracedRequest for Call {
    fn path(&self) -> &str {
        self.headers.method_name()
    }

    fn fixed_role(&self) -> Option<Role> {
        Some(Role::Client)
    }

    fn headers(&self) -> Option<&HeaderMap> {
        Some(&self.metadata)
    }

    fn headers_mut(&mut self) -> Option<&mut HeaderMap> {
        Some(&mut self.metadata)
    }

    fn set_rpc(&mut self, rpc: RpcInfo) -> Option<RpcInfo> {
        self.rpc.replace(rpc)
    }

    fn rpc(&self) -> Option<&RpcInfo> {
        self.rpc.as_ref()
    }

    fn observe(&mut self, observer: RequestObserver) {
        self.observer = Some(observer);
    }
}

/// The two streams of a call. The guard goes to the second one.
struct Streams<S, R>(S, R);

impl<S, R> TracedResponse for Streams<S, R> {
    type Traced<T: Tracer> = Streams<S, Received<R, T>>;

    fn attach<T: Tracer>(self, open: RpcGuard<T>) -> Self::Traced<T> {
        let Self(send, receive) = self;
        let receive = Received {
            inner: receive,
            guard: Some(open),
        };
        Streams(send, receive)
    }
}

/// Counts what is sent.
pub(crate) struct Sent<S> {
    inner: S,
    /// Until the last message is sent.
    observer: Option<RequestObserver>,
}

impl<S: SendStream> SendStream for Sent<S> {
    async fn send(&mut self, message: &dyn SendMessage, options: SendOptions) -> Result<(), ()> {
        let is_last = options.final_msg;
        let counted = Outgoing {
            message,
            size: AtomicU64::new(NOT_ENCODED),
        };
        self.inner.send(&counted, options).await?;
        let size = counted.size.into_inner();
        if let Some(observer) = &mut self.observer
            && size != NOT_ENCODED
        {
            observer.message(size, false);
        }
        if is_last {
            self.complete();
        }
        Ok(())
    }
}

impl<S> Sent<S> {
    fn complete(&mut self) {
        if let Some(mut observer) = self.observer.take() {
            observer.complete();
        }
    }
}

/// The drop of a stream closes it.
impl<S> Drop for Sent<S> {
    fn drop(&mut self) {
        self.complete();
    }
}

const NOT_ENCODED: u64 = u64::MAX;

/// A message whose size is recorded when the transport encodes it.
struct Outgoing<'a> {
    message: &'a dyn SendMessage,
    size: AtomicU64,
}

impl SendMessage for Outgoing<'_> {
    fn encode(&self) -> Result<Box<dyn Buf + Send + Sync>, String> {
        let bytes = self.message.encode()?;
        self.size.store(bytes.remaining() as u64, Relaxed);
        Ok(bytes)
    }
}

/// Counts what is received, and finishes the RPC at its trailers. A drop before them cancels it.
pub(crate) struct Received<R, T: Tracer> {
    inner: R,
    /// Until the trailers.
    guard: Option<RpcGuard<T>>,
}

impl<R: RecvStream, T: Tracer> RecvStream for Received<R, T> {
    async fn recv(&mut self, message: &mut dyn RecvMessage) -> ResponseStreamItem {
        let mut counted = Incoming { message, size: 0 };
        let item = self.inner.recv(&mut counted).await;
        match &item {
            ResponseStreamItem::Message => {
                if let Some(guard) = &mut self.guard {
                    guard.message(counted.size, false);
                }
            }
            ResponseStreamItem::Trailers(trailers) => {
                if let Some(guard) = self.guard.take() {
                    guard.finish(status(trailers));
                }
            }
            ResponseStreamItem::Headers(_) | ResponseStreamItem::StreamClosed => {}
        }
        item
    }
}

/// A message whose size is recorded when the transport decodes it.
struct Incoming<'a> {
    message: &'a mut dyn RecvMessage,
    size: u64,
}

impl RecvMessage for Incoming<'_> {
    fn decode(&mut self, data: &mut dyn Buf) -> Result<(), String> {
        self.size = data.remaining() as u64;
        self.message.decode(data)
    }
}

fn status(trailers: &Trailers) -> Status {
    match trailers.status() {
        Ok(()) => Status::OK,
        Err(error) => Code::from_number(error.code() as u32)
            .unwrap_or(Code::Unknown)
            .into(),
    }
}
