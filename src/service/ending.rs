//! Decides how an RPC ended. Everything that can end one comes through here.

use std::any::Any;

use http::HeaderMap;

use super::cause::Failure;
use crate::{
    protocol::grpc,
    rpc::{Code, Direction, Ending, Outcome, Protocol, Role, RpcInfo, Status, clock},
};

/// What ended an RPC.
pub(super) enum Cause<'a> {
    /// A response that ends with its headers.
    Headers(&'a HeaderMap),
    /// Trailers.
    Trailers(&'a HeaderMap),
    /// The end of the body, without trailers.
    BodyEnd,
    /// The end of a response whose headers had the status OK, and which has no other.
    Ok(Ending),
    /// Connect's own word, in the body: an error, or none.
    #[cfg(feature = "connect")]
    Connect(Ending, Option<crate::protocol::connect::Error>),
    /// The layer was told so, and maybe with which status.
    Told(Option<Status>),
    /// The inner service's error.
    Service(Failure<'a>),
    /// The response body's error.
    Body(Failure<'a>),
    /// Whatever held the guard was dropped.
    Dropped,
    /// The body of a response was dropped whose headers had the status OK.
    DroppedAfterOk,
    /// The inner service panicked.
    Panic(&'a (dyn Any + Send)),
}

/// Puts into the record how its RPC ended.
#[inline(always)]
pub(super) fn conclude(rpc: &RpcInfo, cause: &Cause<'_>) {
    match cause {
        // The common case, at once.
        Cause::Trailers(trailers) if says_ok(rpc, trailers) => {
            rpc.stats().conclude(&told(Ending::Trailers, Status::OK));
        }
        _ => find_out(rpc, cause),
    }
}

#[inline(always)]
fn says_ok(rpc: &RpcInfo, trailers: &HeaderMap) -> bool {
    rpc.protocol().is_grpc()
        && !has_lost_caller(rpc)
        && grpc::status(trailers).is_some_and(|status| status.as_bytes() == b"0")
}

#[inline(never)]
fn find_out(rpc: &RpcInfo, cause: &Cause<'_>) {
    let stats = rpc.stats();
    let is_told = matches!(cause, Cause::Told(_));
    if !is_told && stats.http_status().is_none() && rpc.protocol() != Protocol::Other {
        // No response came: nothing of it passed, which is known and no more unknown.
        stats
            .cell(Direction::Response)
            .observe(rpc.protocol().is_rpc());
    }
    let outcome = match cause {
        Cause::Headers(_) | Cause::Trailers(_) | Cause::BodyEnd | Cause::Ok(_)
            if has_lost_caller(rpc) =>
        {
            dropped(rpc)
        }
        Cause::Headers(headers) => from_headers(rpc, headers, Ending::HeadersOnly),
        Cause::Trailers(headers) => from_headers(rpc, headers, Ending::Trailers),
        Cause::BodyEnd => without_status(rpc, Ending::BodyEnd),
        Cause::Ok(ending) => told(*ending, Status::OK),
        #[cfg(feature = "connect")]
        Cause::Connect(..) if has_lost_caller(rpc) => dropped(rpc),
        #[cfg(feature = "connect")]
        Cause::Connect(ending, error) => from_connect(rpc, *ending, error.as_ref()),
        Cause::Told(Some(status)) => told(Ending::Response, *status),
        Cause::Told(None) => without_status(rpc, Ending::Response),
        Cause::Service(failure) => from_failure(rpc, failure, Ending::ServiceError),
        Cause::Body(failure) => from_failure(rpc, failure, Ending::BodyError),
        Cause::Dropped => dropped(rpc),
        // It is not the page of an HTTP error, whatever the HTTP status is.
        Cause::DroppedAfterOk => inferred(rpc, Ending::Cancelled, Code::Cancelled),
        Cause::Panic(payload) => {
            stats.set_panic(text_of(*payload));
            // "Server application throws an exception": UNKNOWN, says gRPC's list of statuses.
            inferred(rpc, Ending::Panic, Code::Unknown)
        }
    };
    stats.conclude(&by_the_clock(rpc, outcome));
}

/// From headers or trailers, which for gRPC hold the status.
fn from_headers(rpc: &RpcInfo, headers: &HeaderMap, ending: Ending) -> Outcome {
    if !rpc.protocol().is_grpc() {
        return without_status(rpc, ending);
    }
    let Some(raw) = grpc::status(headers) else {
        return without_status(rpc, ending);
    };
    let code = Code::from_header(raw.as_bytes());
    if code.is_none() {
        rpc.stats().set_raw_status(raw.as_bytes());
    }
    if code != Some(Code::Ok)
        && let Some(message) = grpc::message(headers)
    {
        rpc.stats().set_error(&message);
    }
    let status = Status::Grpc(code.unwrap_or(Code::Unknown));
    Outcome {
        ending,
        status: Some(status),
        wire_status: code.map(Status::Grpc),
    }
}

/// What Connect says in a body.
#[cfg(feature = "connect")]
fn from_connect(
    rpc: &RpcInfo,
    ending: Ending,
    error: Option<&crate::protocol::connect::Error>,
) -> Outcome {
    let code = match error {
        None => Some(Code::Ok),
        Some(error) => {
            rpc.stats().set_error(&error.message);
            if error.code.is_none() {
                rpc.stats().set_raw_status(error.raw_code.as_bytes());
            }
            error.code
        }
    };
    Outcome {
        ending,
        status: Some(Status::Grpc(code.unwrap_or(Code::Unknown))),
        wire_status: code.map(Status::Grpc),
    }
}

/// The peer said no status of its own: the HTTP status has to do.
fn without_status(rpc: &RpcInfo, ending: Ending) -> Outcome {
    let http = rpc.stats().http_status();
    if rpc.protocol() == Protocol::Http {
        let status = http.map(Status::Http);
        return Outcome {
            ending,
            status,
            wire_status: status,
        };
    }
    let code = match (rpc.protocol(), rpc.role(), http) {
        // Connect's unary calls have no status but HTTP's when they succeed.
        (Protocol::ConnectUnary, _, Some(200..=299)) => return told(ending, Status::OK),
        (Protocol::ConnectUnary, _, Some(http)) | (_, Role::Client, Some(http)) => {
            grpc::code_of_http(http)
        }
        _ => Code::Unknown,
    };
    inferred(rpc, ending, code)
}

fn from_failure(rpc: &RpcInfo, failure: &Failure<'_>, ending: Ending) -> Outcome {
    let verdict = failure.verdict();
    rpc.stats().set_error(&verdict.text);
    let ending = match verdict.ending {
        // A server's own stream does not fail its handler's response but drops it: this reset came
        // from what the handler calls itself.
        Some(Ending::Reset) if rpc.role() == Role::Server && !has_lost_caller(rpc) => ending,
        found => found.unwrap_or(ending),
    };
    let mut outcome = inferred(rpc, ending, verdict.code.unwrap_or(Code::Unknown));
    if rpc.protocol() != Protocol::Http {
        outcome.wire_status = verdict.code.map(Status::Grpc);
    }
    outcome
}

fn dropped(rpc: &RpcInfo) -> Outcome {
    // A task that unwinds drops its future: the panic was elsewhere in it.
    let code = match (rpc.role(), rpc.stats().http_status()) {
        // A gRPC client gives up on the page that comes with an HTTP error.
        (Role::Client, Some(http)) if http != 200 => grpc::code_of_http(http),
        _ => Code::Cancelled,
    };
    inferred(rpc, Ending::Cancelled, code)
}

/// The stream failed while a server read the request: what its handler answers goes nowhere.
#[inline]
fn has_lost_caller(rpc: &RpcInfo) -> bool {
    rpc.role() == Role::Server && rpc.stats().cell(Direction::Request).is_lost()
}

#[inline]
fn told(ending: Ending, status: Status) -> Outcome {
    Outcome {
        ending,
        status: Some(status),
        wire_status: Some(status),
    }
}

/// No peer said it: a code by inference, and for plain HTTP the status of the headers, if they came.
fn inferred(rpc: &RpcInfo, ending: Ending, code: Code) -> Outcome {
    let status = match rpc.protocol() {
        Protocol::Http => rpc.stats().http_status().map(Status::Http),
        _ => Some(Status::Grpc(code)),
    };
    Outcome {
        ending,
        status,
        wire_status: None,
    }
}

/// What was cancelled when its time was up was not cancelled by anybody.
fn by_the_clock(rpc: &RpcInfo, mut outcome: Outcome) -> Outcome {
    let cancelled = outcome.status == Some(Status::Grpc(Code::Cancelled))
        || outcome.ending == Ending::Cancelled;
    let timed_out = outcome.ending == Ending::Deadline;
    let is_past = || rpc.deadline().is_some_and(clock::is_past);
    if timed_out || (cancelled && is_past()) {
        if outcome.status == Some(Status::Grpc(Code::Cancelled)) {
            outcome.status = Some(Status::Grpc(Code::DeadlineExceeded));
        }
        if matches!(outcome.ending, Ending::Cancelled | Ending::Reset) {
            outcome.ending = Ending::Deadline;
        }
    }
    outcome
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        ""
    }
}
