//! Decides how an RPC ended. It writes nothing: [`RpcGuard`](super::RpcGuard) does.

use std::borrow::Cow;

use super::errors::ErrorInfo;
use crate::{
    protocol::{BodyEnd, WireStatus, grpc},
    rpc::{Code, Direction, Ending, Outcome, Protocol, Role, RpcInfo, Status},
};

/// What ended an RPC.
#[derive(Debug)]
pub(super) enum Cause<'a> {
    /// A response that ends with its headers, and the status in them.
    Headers(Option<WireStatus<'a>>),
    /// The end of the response's body.
    BodyEnd(BodyEnd<'a>),
    /// A custom response said so, maybe with a status.
    Explicit(Option<Status>),
    /// The inner service's error.
    ServiceError(ErrorInfo),
    /// The response body's error.
    BodyError(ErrorInfo),
    /// The guard was dropped. `after_ok`: the headers of the response had the status OK.
    Dropped { after_ok: bool },
    /// The inner service panicked, with this text.
    Panic(&'a str),
}

/// What else decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) protocol: Protocol,
    pub(super) role: Role,
    /// `None` if there was no response.
    pub(super) http_status: Option<u16>,
    /// The stream failed while a server read the request: the handler's answer cannot reach the
    /// caller.
    pub(super) lost_caller: bool,
}

impl Facts {
    pub(super) fn of(rpc: &RpcInfo) -> Self {
        let stats = rpc.stats();
        Self {
            protocol: rpc.protocol(),
            role: rpc.role(),
            http_status: stats.http_status(),
            lost_caller: rpc.role() == Role::Server && stats.cell(Direction::Request).is_lost(),
        }
    }
}

/// Decides how an RPC ended.
pub(super) fn decide<'a>(
    facts: Facts,
    cause: Cause<'a>,
    deadline_passed: impl FnOnce() -> bool,
) -> Outcome<'a> {
    let outcome = match cause {
        Cause::Headers(_) | Cause::BodyEnd(_) if facts.lost_caller => outcome_of_drop(facts, false),
        Cause::Headers(status) => by_status(facts, Ending::HeadersOnly, status),
        Cause::BodyEnd(end) => match end.has_trailers {
            true => by_status(facts, Ending::Trailers, end.status),
            false => by_status(facts, Ending::BodyEnd, end.status),
        },
        Cause::Explicit(Some(status)) => on_wire(Ending::Response, Some(status)),
        Cause::Explicit(None) => without_status(facts, Ending::Response),
        Cause::ServiceError(error) => of_error(facts, Ending::ServiceError, error),
        Cause::BodyError(error) => of_error(facts, Ending::BodyError, error),
        Cause::Dropped { after_ok } => outcome_of_drop(facts, after_ok),
        // "Server application throws an exception" is UNKNOWN in gRPC's list of statuses.
        Cause::Panic(text) => Outcome {
            panic: Some(text),
            ..infer(facts, Ending::Panic, Code::Unknown)
        },
    };
    apply_deadline(outcome, deadline_passed)
}

/// The peer sent this status, if it sent one.
fn by_status<'a>(facts: Facts, ending: Ending, status: Option<WireStatus<'a>>) -> Outcome<'a> {
    let Some(WireStatus { code, raw, message }) = status else {
        return without_status(facts, ending);
    };
    Outcome {
        status: Some(code.unwrap_or(Code::Unknown).into()),
        wire_status: code.map(Status::Grpc),
        raw_status: code.is_none().then_some(raw),
        error: message,
        ..Outcome::new(ending)
    }
}

/// The peer sent no status of its own: the HTTP status decides.
fn without_status(facts: Facts, ending: Ending) -> Outcome<'static> {
    if facts.protocol == Protocol::Http {
        return on_wire(ending, facts.http_status.map(Status::Http));
    }
    let code = match (facts.protocol, facts.role, facts.http_status) {
        // A unary call of Connect that succeeds has no status but HTTP's.
        (Protocol::ConnectUnary, _, Some(200..=299)) => return on_wire(ending, Some(Status::OK)),
        (Protocol::ConnectUnary, _, Some(http)) | (_, Role::Client, Some(http)) => {
            grpc::code_of_http(http)
        }
        _ => Code::Unknown,
    };
    infer(facts, ending, code)
}

fn of_error(facts: Facts, ending: Ending, error: ErrorInfo) -> Outcome<'static> {
    let ending = match error.ending {
        // A failure of a server's own stream drops the handler's response and fails nothing in it. So
        // this reset came from a service that the handler calls.
        Some(Ending::Reset) if facts.role == Role::Server && !facts.lost_caller => ending,
        found => found.unwrap_or(ending),
    };
    let mut outcome = infer(facts, ending, error.code.unwrap_or(Code::Unknown));
    if facts.protocol != Protocol::Http {
        outcome.wire_status = error.code.map(Status::Grpc);
    }
    outcome.error = Some(Cow::Owned(error.text));
    outcome
}

/// A dropped RPC is CANCELLED, also if its task unwinds: that panic was not in the inner service.
fn outcome_of_drop(facts: Facts, after_ok: bool) -> Outcome<'static> {
    let code = match (facts.role, facts.http_status) {
        // A gRPC client drops the page that comes with an HTTP error.
        (Role::Client, Some(http)) if http != 200 && !after_ok => grpc::code_of_http(http),
        _ => Code::Cancelled,
    };
    infer(facts, Ending::Cancelled, code)
}

/// The peer sent this status.
fn on_wire(ending: Ending, status: Option<Status>) -> Outcome<'static> {
    Outcome {
        status,
        wire_status: status,
        ..Outcome::new(ending)
    }
}

/// The peer did not send it: an inferred code, or for plain HTTP the status of the headers, if they came.
fn infer(facts: Facts, ending: Ending, code: Code) -> Outcome<'static> {
    Outcome {
        status: match facts.protocol {
            Protocol::Http => facts.http_status.map(Status::Http),
            _ => Some(Status::Grpc(code)),
        },
        ..Outcome::new(ending)
    }
}

/// A cancellation after the deadline is DEADLINE_EXCEEDED.
fn apply_deadline(mut outcome: Outcome<'_>, deadline_passed: impl FnOnce() -> bool) -> Outcome<'_> {
    let has_code = outcome.status == Some(Status::Grpc(Code::Cancelled));
    let cancelled = has_code || outcome.ending == Ending::Cancelled;
    if outcome.ending == Ending::Deadline || (cancelled && deadline_passed()) {
        if has_code {
            outcome.status = Some(Status::Grpc(Code::DeadlineExceeded));
        }
        if matches!(outcome.ending, Ending::Cancelled | Ending::Reset) {
            outcome.ending = Ending::Deadline;
        }
    }
    outcome
}

#[cfg(test)]
mod tests;
