//! One HTTP exchange in process, with scripted bodies, through the layer.
//!
//! `scripted` has a handler that says how a gRPC call ends. Here a test chooses headers, status and bytes, both
//! bodies come to their end, each frame has to pass unchanged, and client and server see the same exchange.

#![allow(dead_code, unreachable_pub)]

use std::{
    fmt::Display,
    future::Future,
    sync::{Arc, Mutex},
    task::Poll,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{BoxError, Layer as _, service_fn};
use tower_tracer::{Role, RpcInfo, TracerLayer, testing::RecordingTracer};

use super::scripted::{Scripted, Step, poll_body, run, show};

/// What both sides send.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Of a GET; else it is a POST.
    pub query: Option<String>,
    pub request_headers: Vec<(&'static str, &'static str)>,
    pub request: Vec<Step>,
    pub status: u16,
    pub response_headers: Vec<(&'static str, &'static str)>,
    pub response: Vec<Step>,
}

impl Exchange {
    /// Both sides say this content type, and the response is 200.
    pub fn new(content_type: &'static str) -> Self {
        Self {
            query: None,
            request_headers: vec![("content-type", content_type)],
            request: Vec::new(),
            status: 200,
            response_headers: vec![("content-type", content_type)],
            response: Vec::new(),
        }
    }

    /// Makes it a GET with this query, without a content type.
    pub fn get(mut self, query: impl Into<String>) -> Self {
        self.query = Some(query.into());
        self.request_headers.clear();
        self
    }

    pub fn request(self, steps: impl IntoIterator<Item = Step>) -> Self {
        let request = steps.into_iter().collect();
        Self { request, ..self }
    }

    pub fn response(self, steps: impl IntoIterator<Item = Step>) -> Self {
        let response = steps.into_iter().collect();
        Self { response, ..self }
    }

    pub fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub fn request_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.request_headers.push((name, value));
        self
    }

    pub fn response_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.response_headers.retain(|(other, _)| *other != name);
        self.response_headers.push((name, value));
        self
    }

    /// Goes through a layer on each side to the end of both bodies, which pass unchanged, and gives
    /// what was recorded: the client's, then the server's.
    #[track_caller]
    pub fn both(&self) -> [RpcInfo; 2] {
        [self.on(Role::Client), self.on(Role::Server)]
    }

    /// The same on one side.
    #[track_caller]
    pub fn on(&self, role: Role) -> RpcInfo {
        let recorder = RecordingTracer::new();
        self.log(role, &recorder);
        recorder.only_finished()
    }

    /// The same, with this recorder; gives its log.
    #[track_caller]
    pub fn log(&self, role: Role, recorder: &RecordingTracer) -> Vec<String> {
        let layer = TracerLayer::new(recorder.clone());
        let layer = match role {
            Role::Client => layer.client(),
            Role::Server => layer.server(),
        };
        let received = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&received);
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.response_headers {
            response = response.header(*name, *value);
        }
        let mut response = Some(response.body(Scripted::new(self.response.clone())).unwrap());
        let service = layer.layer(service_fn(move |request: Request<tonic::body::Body>| {
            let (seen, response) = (Arc::clone(&seen), response.take().unwrap());
            async move {
                let frames = frames(request.into_body()).await;
                *seen.lock().unwrap() = frames;
                Ok::<_, BoxError>(response)
            }
        }));
        let mut request = match &self.query {
            None => Request::post("/echo.Echo/UnaryEcho"),
            Some(query) => Request::get(format!("/echo.Echo/UnaryEcho?{query}")),
        };
        for (name, value) in &self.request_headers {
            request = request.header(*name, *value);
        }
        let body = tonic::body::Body::new(Scripted::new(self.request.clone()));
        let response = run(service.oneshot(request.body(body).unwrap())).unwrap();
        let returned = run(frames(response.into_body()));

        assert_eq!(*received.lock().unwrap(), shown(&self.request), "request");
        assert_eq!(returned, shown(&self.response), "response");
        recorder.log()
    }
}

fn shown(steps: &[Step]) -> Vec<String> {
    run(frames(Scripted::new(steps.to_vec())))
}

/// A line for each frame of a body, until it is at its end.
fn frames<B>(body: B) -> impl Future<Output = Vec<String>>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    let mut body = Box::pin(body);
    let mut frames = Vec::new();
    std::future::poll_fn(move |_| {
        loop {
            let polled = poll_body(&mut body);
            match &polled {
                Poll::Pending => {}
                Poll::Ready(Some(_)) => frames.push(show(&polled)),
                Poll::Ready(None) => return Poll::Ready(std::mem::take(&mut frames)),
            }
        }
    })
}

/// Data of these bytes, in pieces of `step` bytes.
pub fn pieces(bytes: &[u8], step: usize) -> Vec<Step> {
    let pieces = bytes.chunks(step);
    pieces
        .map(|piece| Step::Data(Bytes::copy_from_slice(piece)))
        .collect()
}

/// A frame with this flag and content.
pub fn frame(flag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    let mut frame = vec![flag];
    frame.extend(length.to_be_bytes());
    frame.extend(content);
    frame
}
