use super::*;
use crate::rpc::{Level, MethodPath, RpcStart, Sockets, Tick};

fn facts(protocol: Protocol, role: Role, http_status: impl Into<Option<u16>>) -> Facts {
    Facts {
        protocol,
        role,
        http_status: http_status.into(),
        lost_caller: false,
    }
}

fn wire(raw: &'static str) -> Option<WireStatus<'static>> {
    Some(WireStatus {
        code: Code::from_header(raw.as_bytes()),
        raw: raw.as_bytes().into(),
        message: None,
    })
}

fn trailers(raw: &'static str) -> Cause<'static> {
    Cause::BodyEnd(BodyEnd {
        has_trailers: true,
        status: wire(raw),
    })
}

fn body_end(status: Option<WireStatus<'static>>) -> Cause<'static> {
    Cause::BodyEnd(BodyEnd {
        has_trailers: false,
        status,
    })
}

fn error(code: impl Into<Option<Code>>, ending: impl Into<Option<Ending>>) -> ErrorInfo {
    ErrorInfo {
        code: code.into(),
        ending: ending.into(),
        text: "it failed".to_owned(),
    }
}

const DROPPED: Cause<'_> = Cause::Dropped { after_ok: false };

/// Each ending of the table in `guide::endings` that is a matter of status or ending: its number,
/// what is known, what ended the RPC, whether its deadline has passed; then its ending, its status
/// and the status of the wire.
#[test]
fn each_ending_has_its_status() {
    use {
        Code::{
            Cancelled, DeadlineExceeded, Internal, NotFound, Ok, ResourceExhausted,
            Unauthenticated, Unavailable, Unimplemented, Unknown,
        },
        Protocol::{ConnectStreaming, ConnectUnary, Grpc, GrpcWeb, Http, Other},
        Role::{Client, Server},
    };
    let client = facts(Grpc, Client, 200);
    let server = facts(Grpc, Server, 200);
    let unanswered = facts(Grpc, Client, None);
    let unserved = facts(Grpc, Server, None);
    let page = |http| facts(Grpc, Client, http);
    let lost = |facts| Facts {
        lost_caller: true,
        ..facts
    };
    let web = facts(GrpcWeb, Server, 200);
    let unary = |http| facts(ConnectUnary, Server, http);
    let http = |status: Option<u16>| facts(Http, Server, status);
    let page_of_client = |status| facts(Http, Client, status);
    let grpc = |code| Some(Status::Grpc(code));
    let plain = |status| Some(Status::Http(status));
    let (in_time, late) = (false, true);
    type Row<'a> = (
        u32,
        Facts,
        Cause<'a>,
        bool,
        Ending,
        Option<Status>,
        Option<Status>,
    );
    // A row in a line.
    #[rustfmt::skip]
    let rows: Vec<Row<'_>> = vec![
        (3, unserved, Cause::Panic("oops"), in_time, Ending::Panic, grpc(Unknown), None),
        (3, http(None), Cause::Panic("oops"), in_time, Ending::Panic, None, None),
        (5, unanswered, DROPPED, in_time, Ending::Cancelled, grpc(Cancelled), None),
        (6, unserved, DROPPED, in_time, Ending::Cancelled, grpc(Cancelled), None),
        (6, unserved, DROPPED, late, Ending::Deadline, grpc(DeadlineExceeded), None),
        (6, http(None), DROPPED, in_time, Ending::Cancelled, None, None),
        (6, http(None), DROPPED, late, Ending::Deadline, None, None),
        (7, client, DROPPED, in_time, Ending::Cancelled, grpc(Cancelled), None),
        (7, http(Some(200)), DROPPED, in_time, Ending::Cancelled, plain(200), None),
        (7, page(503), DROPPED, in_time, Ending::Cancelled, grpc(Unavailable), None),
        (8, client, Cause::Headers(wire("5")), in_time, Ending::HeadersOnly, grpc(NotFound), grpc(NotFound)),
        (8, server, Cause::Headers(wire("0")), in_time, Ending::HeadersOnly, grpc(Ok), grpc(Ok)),
        (9, client, body_end(None), in_time, Ending::BodyEnd, grpc(Unknown), None),
        (9, server, body_end(None), in_time, Ending::BodyEnd, grpc(Unknown), None),
        (9, http(Some(200)), body_end(None), in_time, Ending::BodyEnd, plain(200), plain(200)),
        (10, page(503), body_end(None), in_time, Ending::BodyEnd, grpc(Unavailable), None),
        (10, page(404), Cause::Headers(None), in_time, Ending::HeadersOnly, grpc(Unimplemented), None),
        (10, page(401), body_end(None), in_time, Ending::BodyEnd, grpc(Unauthenticated), None),
        (10, page(418), body_end(None), in_time, Ending::BodyEnd, grpc(Unknown), None),
        (11, client, trailers("banana"), in_time, Ending::Trailers, grpc(Unknown), None),
        (11, client, trailers("17"), in_time, Ending::Trailers, grpc(Unknown), None),
        (13, client, Cause::Headers(wire("5")), in_time, Ending::HeadersOnly, grpc(NotFound), grpc(NotFound)),
        (16, client, Cause::BodyError(error(Internal, Ending::Reset)), in_time, Ending::Reset, grpc(Internal), grpc(Internal)),
        (16, client, Cause::BodyError(error(Cancelled, Ending::Reset)), late, Ending::Deadline, grpc(DeadlineExceeded), grpc(Cancelled)),
        (16, lost(server), Cause::BodyError(error(Cancelled, Ending::Reset)), in_time, Ending::Reset, grpc(Cancelled), grpc(Cancelled)),
        (17, client, Cause::BodyError(error(Unavailable, None)), in_time, Ending::BodyError, grpc(Unavailable), grpc(Unavailable)),
        (17, unanswered, Cause::ServiceError(error(None, None)), in_time, Ending::ServiceError, grpc(Unknown), None),
        (17, http(None), Cause::ServiceError(error(Unavailable, None)), in_time, Ending::ServiceError, None, None),
        (23, http(Some(404)), Cause::Headers(None), in_time, Ending::HeadersOnly, plain(404), plain(404)),
        (36, unanswered, Cause::ServiceError(error(Cancelled, Ending::Deadline)), in_time, Ending::Deadline, grpc(DeadlineExceeded), grpc(Cancelled)),
        (36, unanswered, Cause::ServiceError(error(Cancelled, None)), late, Ending::ServiceError, grpc(DeadlineExceeded), grpc(Cancelled)),
        (37, lost(server), trailers("0"), in_time, Ending::Cancelled, grpc(Cancelled), None),
        (37, lost(server), Cause::Headers(wire("0")), late, Ending::Deadline, grpc(DeadlineExceeded), None),
        (37, lost(http(Some(200))), body_end(None), in_time, Ending::Cancelled, plain(200), None),
        (38, client, trailers("9"), in_time, Ending::Trailers, grpc(Code::FailedPrecondition), grpc(Code::FailedPrecondition)),
        (41, unanswered, Cause::ServiceError(error(Cancelled, None)), in_time, Ending::ServiceError, grpc(Cancelled), grpc(Cancelled)),
        (45, lost(web), trailers("0"), in_time, Ending::Cancelled, grpc(Cancelled), None),
        (45, lost(unary(200)), body_end(None), in_time, Ending::Cancelled, grpc(Cancelled), None),
        (46, facts(Grpc, Server, 401), body_end(None), in_time, Ending::BodyEnd, grpc(Unknown), None),
        (50, client, body_end(wire("0")), in_time, Ending::BodyEnd, grpc(Ok), grpc(Ok)),
        (50, page(503), Cause::Dropped { after_ok: true }, in_time, Ending::Cancelled, grpc(Cancelled), None),
        (53, unanswered, Cause::ServiceError(error(ResourceExhausted, None)), in_time, Ending::ServiceError, grpc(ResourceExhausted), grpc(ResourceExhausted)),
        (54, server, Cause::BodyError(error(Unavailable, Ending::Reset)), in_time, Ending::BodyError, grpc(Unavailable), grpc(Unavailable)),
        // Connect, a custom response, and a late end that is no cancellation.
        (0, unary(200), body_end(None), in_time, Ending::BodyEnd, grpc(Ok), grpc(Ok)),
        (0, unary(404), body_end(wire("5")), in_time, Ending::BodyEnd, grpc(NotFound), grpc(NotFound)),
        (0, unary(503), body_end(None), in_time, Ending::BodyEnd, grpc(Unavailable), None),
        (0, facts(ConnectStreaming, Client, 200), trailers("x"), in_time, Ending::Trailers, grpc(Unknown), None),
        (0, facts(Other, Server, None), Cause::Explicit(grpc(Ok)), in_time, Ending::Response, grpc(Ok), grpc(Ok)),
        (0, facts(Other, Server, None), Cause::Explicit(None), in_time, Ending::Response, grpc(Unknown), None),
        (0, http(Some(302)), Cause::Explicit(None), in_time, Ending::Response, plain(302), plain(302)),
        (0, page_of_client(503), DROPPED, in_time, Ending::Cancelled, plain(503), None),
        (0, client, trailers("0"), late, Ending::Trailers, grpc(Ok), grpc(Ok)),
        (0, client, trailers("1"), late, Ending::Trailers, grpc(DeadlineExceeded), grpc(Cancelled)),
    ];
    for (number, facts, cause, late, ending, status, wire_status) in rows {
        let row = format!("{number}: {cause:?} of {facts:?}");
        let outcome = decide(facts, cause, || late);
        assert_eq!(outcome.ending, ending, "{row}");
        assert_eq!(outcome.status, status, "{row}");
        assert_eq!(outcome.wire_status, wire_status, "{row}");
    }
}

#[test]
fn texts_come_from_the_cause() {
    let client = facts(Protocol::Grpc, Role::Client, 200);
    let in_time = || false;
    let panic = decide(client, Cause::Panic("oops"), in_time);
    assert_eq!(panic.panic, Some("oops"));
    let failed = decide(client, Cause::BodyError(error(None, None)), in_time);
    assert_eq!(failed.error.as_deref(), Some("it failed"));
    let garbled = decide(client, trailers("banana"), in_time);
    assert_eq!(garbled.raw_status.as_deref(), Some(&b"banana"[..]));
    assert_eq!(decide(client, trailers("5"), in_time).raw_status, None);
    let explained = WireStatus {
        message: Some("gone".into()),
        ..wire("5").unwrap()
    };
    let explained = decide(client, Cause::Headers(Some(explained)), in_time);
    assert_eq!(explained.error.as_deref(), Some("gone"));
}

/// The clock is read only if the deadline matters.
#[test]
fn a_success_does_not_read_the_clock() {
    let client = facts(Protocol::Grpc, Role::Client, 200);
    for cause in [trailers("0"), trailers("5"), Cause::Panic("")] {
        decide(client, cause, || panic!("the clock was read"));
    }
}

fn rpc(role: Role) -> RpcInfo {
    let start = RpcStart {
        role,
        protocol: Protocol::Grpc,
        kind: None,
        path: MethodPath::from("/echo.Echo/UnaryEcho"),
        http_method: None,
        endpoints: None,
        sockets: Sockets::default(),
        timeout: None,
        deadline: None,
        attempt: None,
    };
    RpcInfo::new(start, None, Level::Base, Tick::now())
}

#[test]
fn only_a_server_whose_stream_failed_lost_its_caller() {
    for role in [Role::Client, Role::Server] {
        let rpc = rpc(role);
        assert!(!Facts::of(&rpc).lost_caller);
        rpc.stats().cell(Direction::Request).lose();
        assert_eq!(Facts::of(&rpc).lost_caller, role == Role::Server);
    }
}
