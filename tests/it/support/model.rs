//! What a record should say of an exchange: worked out slowly and obviously, from all that passed.
//!
//! The courses of `scripted` are few and have known ends. A plan is any two bodies with any number of polls, so what
//! is expected has to be worked out too. The test `passthrough` and the fuzz target `exchange` share it.

#![allow(dead_code, unreachable_pub)]

use std::{
    cell::RefCell,
    future,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{Arc, Mutex},
    task::Poll,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use tower::{BoxError, Layer as _, Service as _, service_fn};
use tower_tracer::{
    Code, Ending, RequestParts, Role, RpcInfo, Status, Tracer, TracerLayer,
    rpc::Traffic,
    testing::{EntryKind, RecordingTracer},
};

use super::scripted::{Polled, Scripted, Step, poll_body, quiet, run, show};

/// One direction: what its body does, and how often it is polled before it is dropped.
#[derive(Clone, Debug)]
pub struct Side {
    pub body: Vec<Step>,
    pub tells: bool,
    pub polls: usize,
}

impl Side {
    /// Whether all announced bytes have passed, so that an HTTP/1 server drops it now.
    fn is_all_of(&self, passed: &Figures) -> bool {
        let sizes = self.body.iter().map(|step| match step {
            Step::Data(data) => data.len(),
            _ => 0,
        });
        let announced: usize = sizes.sum();
        // Such a server would not have asked for more.
        self.tells && passed.bytes.len() == announced && passed.polled_at != Some(announced)
    }

    fn script(&self) -> Scripted {
        let script = Scripted::new(self.body.clone());
        if self.tells { script.telling() } else { script }
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub role: Role,
    pub request_type: &'static str,
    pub response_type: &'static str,
    pub http_status: u16,
    pub header_status: Option<&'static str>,
    pub request: Side,
    pub response: Side,
    /// Which side is polled next, as far as it is not dropped yet: the response if true.
    pub order: Vec<bool>,
    /// Whether the request's body is dropped before the response's.
    pub request_goes_first: bool,
}

pub const STATUSES: [&str; 8] = ["0", "5", "16", "17", "00", "", "banana", "-1"];

/// All that one more poll of a body shows; `None` if the poll panicked.
fn look<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> (String, Option<Polled<Bytes, B::Error>>)
where
    B::Error: std::fmt::Display,
{
    let before = format!("{:?} {}", body.size_hint(), body.is_end_stream());
    let polled = catch_unwind(AssertUnwindSafe(|| poll_body(body))).ok();
    let shown = polled.as_ref().map_or_else(|| "panic".to_owned(), show);
    let after = format!("{:?} {}", body.size_hint(), body.is_end_stream());
    (format!("{before}, {shown}, {after}"), polled)
}

/// EntryKind one direction should be known for, worked out from all bytes that passed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    pub bytes: Vec<u8>,
    pub framed: bool,
    /// How it ended; nothing counts after that.
    pub over: bool,
    pub complete: bool,
    /// After how many bytes it was polled last.
    pub polled_at: Option<usize>,
}

impl Figures {
    /// Size and flag of each message that is all there, and whether something is left over.
    fn messages(&self) -> (Vec<(u64, bool)>, bool) {
        let mut messages = Vec::new();
        let mut rest = &self.bytes[..];
        while let [flag, a, b, c, d, after @ ..] = rest {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            if after.len() < length {
                break;
            }
            // The lowest bit says it; the others mean nothing in gRPC.
            messages.push((length as u64, flag & 1 == 1));
            rest = &after[length..];
        }
        (messages, !rest.is_empty())
    }

    fn check(&self, direction: &str, traffic: &Traffic) {
        let (messages, inside) = self.messages();
        let if_framed = |figure: u64| self.framed.then_some(figure);
        let sum = messages.iter().map(|(size, _)| size).sum();
        let compressed = messages
            .iter()
            .filter(|(_, compressed)| *compressed)
            .count();
        assert_eq!(
            traffic.body_bytes(),
            Some(self.bytes.len() as u64),
            "{direction}"
        );
        assert_eq!(
            traffic.messages(),
            if_framed(messages.len() as u64),
            "{direction}"
        );
        assert_eq!(traffic.message_bytes(), if_framed(sum), "{direction}");
        assert_eq!(
            traffic.compressed_messages(),
            if_framed(compressed as u64),
            "{direction}"
        );
        let last = messages.last().map(|(size, _)| *size);
        assert_eq!(
            traffic.last_message_bytes(),
            last.filter(|_| self.framed),
            "{direction}"
        );
        assert_eq!(
            traffic.truncated(),
            self.framed && inside,
            "{direction} truncated"
        );
        assert_eq!(traffic.is_complete(), self.complete, "{direction} complete");
    }
}

/// How the RPC should end.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub ending: Ending,
    pub status: Option<Status>,
    pub wire_status: Option<Status>,
    /// The value that was sent as a status and is not one.
    pub raw_status: Option<String>,
}

impl Plan {
    fn speaks_grpc(&self) -> bool {
        self.request_type.starts_with("application/grpc")
    }

    /// By the status that the peer sent, if it sent one.
    fn by_peer(&self, ending: Ending, headers: &HeaderMap) -> End {
        let Some(sent) = headers.get("grpc-status") else {
            return self.by_http(ending);
        };
        if !self.speaks_grpc() {
            return self.by_http(ending);
        }
        let code = Code::ALL
            .into_iter()
            .find(|code| sent == &(*code as u8).to_string());
        let raw = sent.to_str().unwrap().to_owned();
        End {
            ending,
            status: Some(Status::Grpc(code.unwrap_or(Code::Unknown))),
            wire_status: code.map(Status::Grpc),
            raw_status: code.is_none().then_some(raw),
        }
    }

    /// No status was sent but maybe OK in the headers.
    fn by_http(&self, ending: Ending) -> End {
        if self.header_status == Some("0") && self.speaks_grpc() {
            return self.by_code(ending, Code::Ok, Some(Code::Ok));
        }
        let http = Some(Status::Http(self.http_status));
        if !self.speaks_grpc() {
            return End {
                wire_status: http,
                ..self.by_code(ending, Code::Unknown, None)
            };
        }
        let code = match (self.role, self.http_status) {
            (Role::Client, 404) => Code::Unimplemented,
            (Role::Client, 503) => Code::Unavailable,
            _ => Code::Unknown,
        };
        self.by_code(ending, code, None)
    }

    fn by_code(&self, ending: Ending, code: Code, wire: Option<Code>) -> End {
        let status = match self.speaks_grpc() {
            true => Status::Grpc(code),
            false => Status::Http(self.http_status),
        };
        End {
            ending,
            status: Some(status),
            wire_status: wire.filter(|_| self.speaks_grpc()).map(Status::Grpc),
            raw_status: None,
        }
    }

    fn response_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(self.response_type));
        if let Some(status) = self.header_status {
            headers.insert("grpc-status", HeaderValue::from_static(status));
        }
        headers
    }

    fn response(&self) -> Response<Scripted> {
        let mut response = Response::new(self.response.script());
        *response.status_mut() = self.http_status.try_into().unwrap();
        *response.headers_mut() = self.response_headers();
        response
    }

    fn request(&self) -> Request<tonic::body::Body> {
        Request::post("/a.B/C")
            .header("content-type", self.request_type)
            .body(tonic::body::Body::new(self.request.script()))
            .unwrap()
    }
}

/// EntryKind was the last of a body that counts.
enum Last {
    End,
    Trailers(HeaderMap),
    Error(Option<Code>),
    Panic,
}

/// Puts the result of one poll of a body without a layer into the model; `None` if it panicked.
fn pass(
    figures: &mut Figures,
    bare: &impl Body,
    polled: Option<Polled<Bytes, Option<Code>>>,
) -> Option<Last> {
    if figures.over {
        return None;
    }
    figures.polled_at = Some(figures.bytes.len());
    let last = match polled {
        None => Last::Panic,
        Some(Poll::Pending) => return None,
        Some(Poll::Ready(None)) => Last::End,
        Some(Poll::Ready(Some(Err(code)))) => Last::Error(code),
        Some(Poll::Ready(Some(Ok(frame)))) => match frame.into_data() {
            Err(frame) => Last::Trailers(frame.into_trailers().unwrap()),
            Ok(data) => {
                figures.bytes.extend(data);
                if !bare.is_end_stream() {
                    return None;
                }
                Last::End
            }
        },
    };
    figures.complete = matches!(last, Last::End | Last::Trailers(_));
    figures.over = true;
    Some(last)
}

/// Goes through the plan with the layer and, side by side, without it.
pub fn go<T: Tracer>(plan: &Plan, tracer: T, finished: impl Fn() -> Vec<RpcInfo>) -> Model {
    let taken = Rc::new(RefCell::new(None));
    let (slot, answer) = (Rc::clone(&taken), plan.clone());
    let layer = TracerLayer::new(tracer);
    let layer = match plan.role {
        Role::Client => layer.client(),
        Role::Server => layer.server(),
    };
    let mut service = layer.layer(service_fn(move |request| {
        *slot.borrow_mut() = Some(request);
        future::ready(Ok::<_, BoxError>(answer.response()))
    }));
    let response = run(service.call(plan.request())).unwrap();
    assert_eq!(response.status().as_u16(), plan.http_status);
    assert_eq!(response.headers(), &plan.response_headers());
    let mut response = response.into_body();
    let mut bare_response = plan.response().into_body();
    let request: Request<tonic::body::Body> = taken.take().expect("the request arrived");
    let mut request = request.into_body();
    let mut bare_request = plan.request().into_body();

    let mut model = Model::default();
    model.request.framed = plan.speaks_grpc();
    model.response.framed =
        plan.speaks_grpc() && plan.response_type.starts_with("application/grpc");
    if bare_request.is_end_stream() {
        (model.request.complete, model.request.over) = (true, true);
    }
    model.response.complete = bare_response.is_end_stream();
    // OK in the headers of a stream ends nothing.
    let in_headers = plan.speaks_grpc() && plan.header_status.is_some_and(|status| status != "0");
    if model.response.complete || in_headers {
        model.response.over = true;
        model.end(plan.by_peer(Ending::HeadersOnly, &plan.response_headers()));
    }

    let (mut request_polls, mut response_polls) = (plan.request.polls, plan.response.polls);
    for &is_response in &plan.order {
        let polls = if is_response {
            &mut response_polls
        } else {
            &mut request_polls
        };
        if *polls == 0 {
            continue;
        }
        *polls -= 1;
        if is_response {
            let (seen, _) = look(&mut response);
            let (expected, polled) = look(&mut bare_response);
            assert_eq!(seen, expected, "the response");
            let code_of = |e: BoxError| e.downcast_ref::<tonic::Status>().map(|s| s.code().into());
            let polled = polled.map(|polled| polled.map_err(code_of));
            *polls *= usize::from(polled.is_some());
            match pass(&mut model.response, &bare_response, polled) {
                None => {}
                Some(Last::End) => model.end(plan.by_http(Ending::BodyEnd)),
                Some(Last::Trailers(trailers)) => {
                    model.end(plan.by_peer(Ending::Trailers, &trailers));
                }
                Some(Last::Error(code)) => {
                    let known = code.unwrap_or(Code::Unknown);
                    model.end(plan.by_code(Ending::BodyError, known, code));
                }
                Some(Last::Panic) => {
                    model.end(plan.by_code(Ending::Panic, Code::Unknown, None));
                }
            }
        } else {
            let (seen, _) = look(&mut request);
            let (expected, polled) = look(&mut bare_request);
            assert_eq!(seen, expected, "the request");
            let polled = polled.map(|polled| polled.map_err(|_| None));
            *polls *= usize::from(polled.is_some());
            let _ = pass(&mut model.request, &bare_request, polled);
        }
        let ends = usize::from(model.end.is_some());
        assert_eq!(finished().len(), ends, "finished as soon as it is over");
    }
    if plan.request_goes_first {
        drop(request);
        model.drop_request(plan);
        drop(response);
        model.drop_response(plan);
    } else {
        drop(response);
        model.drop_response(plan);
        drop(request);
        model.drop_request(plan);
    }

    let mut finished = finished();
    assert_eq!(finished.len(), 1, "finished exactly once");
    let rpc = finished.remove(0);
    let stats = rpc.stats();
    model.request.check("request", &stats.request());
    model.response.check("response", &stats.response());
    let seen = End {
        ending: stats.ending().unwrap(),
        status: stats.status(),
        wire_status: stats.wire_status(),
        raw_status: stats.raw_status().map(ToOwned::to_owned),
    };
    assert_eq!(Some(&seen), model.end.as_ref());
    model
}

/// EntryKind the record and the log should say.
#[derive(Default)]
pub struct Model {
    pub request: Figures,
    pub response: Figures,
    pub end: Option<End>,
    /// The request as it was when the RPC was over: what comes later is not reported.
    pub request_at_the_end: Figures,
}

impl Model {
    fn end(&mut self, end: End) {
        assert!(self.end.is_none(), "the model ends once");
        self.end = Some(end);
        self.request_at_the_end = self.request.clone();
    }

    fn drop_request(&mut self, plan: &Plan) {
        let whole = !plan.speaks_grpc() && plan.request.is_all_of(&self.request);
        self.request.complete |= whole && !self.request.over;
    }

    fn drop_response(&mut self, plan: &Plan) {
        if self.end.is_some() {
            return;
        }
        if !plan.speaks_grpc() && plan.response.is_all_of(&self.response) {
            self.response.complete = true;
            return self.end(plan.by_http(match self.response.bytes.is_empty() {
                true => Ending::HeadersOnly,
                false => Ending::BodyEnd,
            }));
        }
        // A gRPC client drops the page that comes with an HTTP error: that error is the news.
        let is_page = plan.http_status != 200 && plan.header_status != Some("0");
        let gave_up = plan.role == Role::Client && is_page && plan.speaks_grpc();
        self.end(match gave_up {
            true => plan.by_http(Ending::Cancelled),
            false => plan.by_code(Ending::Cancelled, Code::Cancelled, None),
        });
    }
}

/// Compares what a tracer saw with the model.
pub fn check_log(recorder: &RecordingTracer, model: &Model) {
    let seen: Vec<_> = recorder
        .entries()
        .into_iter()
        .map(|entry| entry.what)
        .collect();
    assert_eq!(seen[..2], [EntryKind::Start, EntryKind::RequestHeaders]);
    let end = model.end.as_ref().unwrap();
    assert_eq!(
        seen.last(),
        Some(&EntryKind::Finish(Some(end.ending), end.status))
    );
    let count = |what: &EntryKind| seen.iter().filter(|seen| *seen == what).count();
    assert_eq!(count(&EntryKind::Start), 1);
    assert_eq!(count(&EntryKind::RequestHeaders), 1);
    assert_eq!(count(&EntryKind::ResponseHeaders), 1);
    let half_closed = model.request_at_the_end.complete;
    assert_eq!(count(&EntryKind::HalfClose), usize::from(half_closed));
    let has_trailers = end.ending == Ending::Trailers;
    assert_eq!(count(&EntryKind::Trailers), usize::from(has_trailers));
    let finishes = seen
        .iter()
        .filter(|what| matches!(what, EntryKind::Finish(..)));
    assert_eq!(finishes.count(), 1);

    let (mut requests, mut responses) = (Vec::new(), Vec::new());
    for what in &seen {
        let (messages, message) = match what {
            EntryKind::RequestMessage(message) => (&mut requests, message),
            EntryKind::ResponseMessage(message) => (&mut responses, message),
            _ => continue,
        };
        assert_eq!(message.sequence, messages.len() as u64, "numbered from 0");
        messages.push((message.size, message.compressed));
    }
    for (figures, seen) in [
        (&model.request_at_the_end, requests),
        (&model.response, responses),
    ] {
        let expected = if figures.framed {
            figures.messages().0
        } else {
            Vec::new()
        };
        assert_eq!(seen, expected);
    }
}

/// A tracer that wants neither events nor details.
#[derive(Clone, Default)]
pub struct Plain(pub Arc<Mutex<Vec<RpcInfo>>>);

impl Tracer for Plain {
    type State = ();

    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    fn finish(&self, (): (), rpc: &RpcInfo) {
        self.0.lock().unwrap().push(rpc.clone());
    }
}

/// Runs the plan under a tracer that wants nothing and under one that wants everything, and compares all
/// that the caller and the tracers see with the model.
pub fn check(plan: &Plan) {
    quiet();
    let plain = Plain::default();
    go(plan, plain.clone(), || plain.0.lock().unwrap().clone());
    let recorder = RecordingTracer::new();
    let model = go(plan, recorder.clone(), || recorder.finished());
    check_log(&recorder, &model);
}
