//! What is reported of each status a peer can send, in trailers and in headers, on both sides; and
//! that a caller gets what it gets without the layer.

use crate::support::raw_peer::{
    Kind::{ServerStreaming, Unary},
    Step, headers, headers_only, map, meet, meet_with, message, ok, serve, trailers,
};
use tower_tracer::{Code, Ending, RpcInfo, Status};

/// Values of `grpc-status` that are not codes.
const UNKNOWN: [&str; 9] = [
    "banana",
    "00",
    "05",
    "17",
    "99",
    "-1",
    "4294967296",
    "0 1",
    "",
];

#[track_caller]
fn reports(rpc: &RpcInfo, ending: Ending, code: Code, wire: Option<Code>) {
    let stats = rpc.stats();
    assert_eq!(stats.ending(), Some(ending), "{rpc:?}");
    assert_eq!(stats.status(), Some(Status::Grpc(code)), "{rpc:?}");
    assert_eq!(stats.wire_status(), wire.map(Status::Grpc), "{rpc:?}");
}

#[tokio::test]
async fn each_code_in_the_trailers_is_reported_on_a_client() {
    for code in Code::ALL {
        let status = (code as u8).to_string();
        let met = meet(
            ServerStreaming,
            [
                ok(),
                message("one"),
                trailers(&[("grpc-status", &status), ("grpc-message", "what%20now")]),
            ],
        )
        .await;
        reports(&met.rpc, Ending::Trailers, code, Some(code));
        assert_eq!(met.rpc.stats().raw_status(), None);
        let error = (code != Code::Ok).then_some("what now");
        assert_eq!(met.rpc.stats().error(), error);
        assert_eq!(met.rpc.stats().response().messages(), Some(1));
        assert_eq!(met.got.messages, ["one"]);
        assert_eq!(met.got.code(), Some(code.into()));
    }
}

// Ending 8.
#[tokio::test]
async fn each_code_in_the_headers_is_reported_on_a_client() {
    for code in Code::ALL {
        let status = (code as u8).to_string();
        let fields = [("grpc-status", &*status), ("grpc-message", "what%20now")];
        let mut scripts = vec![headers_only(&fields)];
        if code != Code::Ok {
            // The stream stays open, and the body is not polled; at OK tonic would poll it.
            scripts.push(headers(&fields));
        }
        for (script, kind) in scripts.into_iter().zip([Unary, ServerStreaming]) {
            let met = meet(kind, [script]).await;
            reports(&met.rpc, Ending::HeadersOnly, code, Some(code));
            if code != Code::Ok {
                assert_eq!(met.rpc.stats().error(), Some("what now"));
                assert_eq!(met.got.code(), Some(code.into()));
            }
            assert_eq!(
                met.log,
                [
                    "start",
                    "request_headers",
                    "request_message #0 7B",
                    "half_close",
                    "response_headers",
                    &format!("finish headers_only {code}"),
                ]
            );
        }
    }
}

// Ending 11.
#[tokio::test]
async fn an_invalid_status_is_unknown_on_a_client_and_its_raw_value_is_kept() {
    for value in UNKNOWN {
        let field = [("grpc-status", value), ("grpc-message", "m")];
        for (ending, script) in [
            (Ending::Trailers, vec![ok(), message("x"), trailers(&field)]),
            (Ending::HeadersOnly, vec![headers_only(&field)]),
        ] {
            let met = meet(ServerStreaming, script).await;
            reports(&met.rpc, ending, Code::Unknown, None);
            assert_eq!(met.rpc.stats().raw_status(), Some(value));
            assert_eq!(met.got.code(), Some(tonic::Code::Unknown));
        }
    }
}

// Ending 11.
#[tokio::test]
async fn an_invalid_status_is_kept_bounded_and_escaped() {
    let long = "é".repeat(4000);
    let met = meet(
        Unary,
        [ok(), message("x"), trailers(&[("grpc-status", &long)])],
    )
    .await;
    reports(&met.rpc, Ending::Trailers, Code::Unknown, None);
    let kept = r"\xc3\xa9".repeat(32);
    assert_eq!(met.rpc.stats().raw_status(), Some(&*kept));
}

// Ending 12.
#[tokio::test]
async fn the_first_of_two_statuses_counts() {
    for (first, second, code) in [("5", "0", Code::NotFound), ("0", "5", Code::Ok)] {
        let both = [("grpc-status", first), ("grpc-status", second)];
        for (ending, script) in [
            (Ending::Trailers, vec![ok(), message("x"), trailers(&both)]),
            (Ending::HeadersOnly, vec![headers_only(&both)]),
        ] {
            let met = meet(ServerStreaming, script.clone()).await;
            reports(&met.rpc, ending, code, Some(code));
            assert_eq!(met.got.code(), Some(code.into()));
            let served = serve(script).await;
            reports(&served.rpc, ending, code, Some(code));
            assert_eq!(served.answer.grpc_status(), Some(first.as_bytes()));
        }
    }
}

// Ending 13.
#[tokio::test]
async fn an_error_in_the_headers_goes_before_a_status_in_the_trailers() {
    let script = [
        headers(&[("grpc-status", "5")]),
        message("x"),
        trailers(&[("grpc-status", "0")]),
    ];
    let (code, wire) = (Code::NotFound, Some(Code::NotFound));
    let met = meet(ServerStreaming, script.clone()).await;
    reports(&met.rpc, Ending::HeadersOnly, code, wire);
    // tonic agrees.
    assert_eq!(met.got.code(), Some(code.into()));
    let served = serve(script).await;
    reports(&served.rpc, Ending::HeadersOnly, code, wire);
    assert_eq!(served.answer.trailers.unwrap()["grpc-status"], "0");
}

// Ending 50.
#[tokio::test]
async fn ok_in_the_headers_of_a_stream_ends_nothing() {
    let trailers = |name, value| trailers(&[(name, value)]);
    let begin = || headers(&[("grpc-status", "0")]);
    for (script, ending, code, messages) in [
        (
            vec![begin(), message("x"), trailers("grpc-status", "13")],
            Ending::Trailers,
            Code::Internal,
            1,
        ),
        (
            vec![
                begin(),
                message("x"),
                message("y"),
                trailers("x-other", "1"),
            ],
            Ending::Trailers,
            Code::Ok,
            2,
        ),
        (
            vec![begin(), message("x"), Step::End],
            Ending::BodyEnd,
            Code::Ok,
            1,
        ),
        (vec![begin(), Step::End], Ending::BodyEnd, Code::Ok, 0),
    ] {
        // tonic takes OK in the headers as final, and does not look at the trailers.
        let met = meet(ServerStreaming, script.clone()).await;
        reports(&met.rpc, ending, code, Some(code));
        assert_eq!(met.rpc.stats().response().messages(), Some(messages));
        let served = serve(script).await;
        reports(&served.rpc, ending, code, Some(code));
        assert_eq!(served.rpc.stats().response().messages(), Some(messages));
    }
    let reset = vec![
        begin(),
        message("x"),
        Step::Reset(h2::Reason::INTERNAL_ERROR),
    ];
    let met = meet(ServerStreaming, reset).await;
    assert_eq!(met.rpc.stats().status(), Some(Status::Grpc(Code::Internal)));
}

// Ending 9.
#[tokio::test]
async fn a_missing_status_is_unknown_never_ok() {
    for (ending, script) in [
        (Ending::BodyEnd, vec![ok(), message("x"), Step::End]),
        (Ending::BodyEnd, vec![ok(), Step::End]),
        (
            Ending::Trailers,
            vec![ok(), message("x"), trailers(&[("x-other", "1")])],
        ),
        (Ending::HeadersOnly, vec![headers_only(&[])]),
    ] {
        let met = meet(ServerStreaming, script.clone()).await;
        reports(&met.rpc, ending, Code::Unknown, None);
        assert_eq!(met.got.code(), Some(tonic::Code::Unknown));
        let served = serve(script).await;
        reports(&served.rpc, ending, Code::Unknown, None);
        assert_eq!(served.answer.grpc_status(), None);
    }
}

// Ending 10.
#[tokio::test]
async fn an_http_status_without_a_grpc_status_is_mapped_on_a_client_only() {
    for (http, code) in [
        (200, Code::Unknown),
        (204, Code::Unknown),
        (302, Code::Unknown),
        (400, Code::Internal),
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::Unimplemented),
        (418, Code::Unknown),
        (429, Code::Unavailable),
        (431, Code::Internal),
        (500, Code::Unknown),
        (502, Code::Unavailable),
        (503, Code::Unavailable),
        (504, Code::Unavailable),
    ] {
        let html = map(&[("content-type", "text/html")]);
        let script = [Step::HeadersOnly(http, html)];
        let met = meet(ServerStreaming, script.clone()).await;
        reports(&met.rpc, Ending::HeadersOnly, code, None);
        assert_eq!(met.rpc.stats().http_status(), Some(http));
        // tonic takes 431 for UNKNOWN, gRPC's document for INTERNAL.
        let caller = if http == 431 { Code::Unknown } else { code };
        assert_eq!(met.got.code(), Some(caller.into()), "{http}");

        let served = serve(script).await;
        reports(&served.rpc, Ending::HeadersOnly, Code::Unknown, None);
        assert_eq!(served.rpc.stats().http_status(), Some(http));
        assert_eq!(served.answer.status, http);
    }
}

// Ending 10.
#[tokio::test]
async fn an_error_page_of_a_proxy_has_the_code_of_its_http_status_though_the_caller_gives_up_on_it()
{
    let html = map(&[("content-type", "text/html")]);
    let met = meet(
        ServerStreaming,
        [
            Step::Headers(503, html),
            crate::support::raw_peer::data(b"<html>no backend</html>"),
            Step::End,
        ],
    )
    .await;
    // tonic takes '<' for the flag of a message, and drops the body.
    assert_eq!(met.got.code(), Some(tonic::Code::Internal));
    reports(&met.rpc, Ending::Cancelled, Code::Unavailable, None);
    assert_eq!(met.rpc.stats().http_status(), Some(503));
    assert_eq!(met.rpc.stats().response().messages(), None);
    assert_eq!(met.rpc.stats().response().body_bytes(), Some(23));
}

// Ending 14.
#[tokio::test]
async fn details_that_are_not_base64_do_not_touch_the_layer() {
    let fields = [
        ("grpc-status", "5"),
        ("grpc-message", "gone"),
        ("grpc-status-details-bin", "no base64!"),
    ];
    for (ending, script) in [
        (
            Ending::Trailers,
            vec![ok(), message("x"), trailers(&fields)],
        ),
        (Ending::HeadersOnly, vec![headers_only(&fields)]),
    ] {
        // tonic panics in the caller's task, with and without the layer.
        let met = meet(ServerStreaming, script.clone()).await;
        assert_eq!(met.got.end, crate::support::raw_peer::End::Panicked);
        reports(&met.rpc, ending, Code::NotFound, Some(Code::NotFound));
        assert_eq!(met.rpc.stats().error(), Some("gone"));
        assert_eq!(met.rpc.stats().panic(), None);

        let served = serve(script).await;
        reports(&served.rpc, ending, Code::NotFound, Some(Code::NotFound));
    }
}

// Ending 15.
#[tokio::test]
async fn a_message_that_is_not_utf8_is_kept_as_far_as_it_can_be() {
    for (sent, kept) in [
        ("%FF%FE", "\u{fffd}\u{fffd}"),
        ("a%FFb", "a\u{fffd}b"),
        ("%", "%"),
        ("%4", "%4"),
        ("%zz", "%zz"),
        ("\u{e9}", "\u{e9}"),
        ("%1B%5B31mred%0D%0Anext", "\u{1b}[31mred\r\nnext"),
        ("tab\there", "tab\there"),
    ] {
        let fields = [("grpc-status", "9"), ("grpc-message", sent)];
        for (ending, script) in [
            (
                Ending::Trailers,
                vec![ok(), message("x"), trailers(&fields)],
            ),
            (Ending::HeadersOnly, vec![headers_only(&fields)]),
        ] {
            // tonic itself turns a message that is not UTF-8 into UNKNOWN.
            let met = meet(ServerStreaming, script.clone()).await;
            let served = serve(script).await;
            for rpc in [&met.rpc, &served.rpc] {
                let code = Code::FailedPrecondition;
                reports(rpc, ending, code, Some(code));
                assert_eq!(rpc.stats().error(), Some(kept));
                let printed = format!("{rpc:?} {:?}", rpc.stats());
                assert!(!printed.contains(char::is_control), "{printed}");
            }
        }
    }
}

// Ending 15.
#[tokio::test]
async fn a_message_of_a_megabyte_is_cut_for_the_record_only() {
    let long = "x".repeat(1 << 20);
    let escaped = "%C3%A9".repeat((1 << 20) / 6);
    let field = |sent| [("grpc-status", "9"), ("grpc-message", sent)];
    for (ending, sent, kept, characters, script) in [
        (
            Ending::Trailers,
            &long,
            "x".repeat(1024),
            1 << 20,
            vec![ok(), message("x"), trailers(&field(&long))],
        ),
        (
            Ending::HeadersOnly,
            &escaped,
            "\u{e9}".repeat(512),
            (1 << 20) / 6,
            vec![headers_only(&field(&escaped))],
        ),
    ] {
        let met = meet_with(ServerStreaming, script.clone(), |endpoint| {
            endpoint.http2_max_header_list_size(4 << 20)
        })
        .await;
        let served = serve(script).await;
        for rpc in [&met.rpc, &served.rpc] {
            let code = Code::FailedPrecondition;
            reports(rpc, ending, code, Some(code));
            assert_eq!(rpc.stats().error(), Some(&*kept));
        }
        let crate::support::raw_peer::End::Failed(_, message, _) = met.got.end else {
            panic!("{:?}", met.got)
        };
        assert_eq!(message.chars().count(), characters);
        let headers = match &served.answer.trailers {
            Some(trailers) => trailers,
            None => &served.answer.headers,
        };
        assert_eq!(headers["grpc-message"], **sent);
    }
}

// Ending 15.
#[tokio::test]
async fn a_message_too_long_for_the_client_fails_the_call_as_without_the_layer() {
    let long = "x".repeat(1 << 20);
    let fields = [("grpc-status", "9"), ("grpc-message", &*long)];
    for script in [
        vec![ok(), message("x"), trailers(&fields)],
        vec![headers_only(&fields)],
    ] {
        // h2 refuses such headers: the stream or the connection fails.
        let met = meet(ServerStreaming, script).await;
        let code = met.got.code().unwrap();
        assert_ne!(code, tonic::Code::Ok);
        assert_eq!(met.rpc.stats().status(), Some(Status::Grpc(code.into())));
    }
}

#[tokio::test]
async fn each_code_of_a_handler_is_reported_on_a_server() {
    for code in Code::ALL {
        let status = (code as u8).to_string();
        let fields = [("grpc-status", &*status), ("grpc-message", "what%20now")];
        for (ending, script) in [
            (
                Ending::Trailers,
                vec![ok(), message("x"), trailers(&fields)],
            ),
            (Ending::HeadersOnly, vec![headers_only(&fields)]),
        ] {
            let served = serve(script).await;
            reports(&served.rpc, ending, code, Some(code));
            let error = (code != Code::Ok).then_some("what now");
            assert_eq!(served.rpc.stats().error(), error);
            assert_eq!(served.answer.grpc_status(), Some(status.as_bytes()));
            assert_eq!(served.log.last(), Some(&format!("finish {ending} {code}")));
        }
    }
}

// Ending 11.
#[tokio::test]
async fn an_invalid_status_is_unknown_on_a_server_and_passes_unchanged() {
    for value in UNKNOWN {
        let field = [("grpc-status", value)];
        for (ending, script) in [
            (Ending::Trailers, vec![ok(), message("x"), trailers(&field)]),
            (Ending::HeadersOnly, vec![headers_only(&field)]),
        ] {
            let served = serve(script).await;
            reports(&served.rpc, ending, Code::Unknown, None);
            assert_eq!(served.rpc.stats().raw_status(), Some(value));
            assert_eq!(served.answer.grpc_status(), Some(value.as_bytes()));
        }
    }
}
