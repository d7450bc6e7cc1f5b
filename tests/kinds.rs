//! The four kinds of method over TCP, seen from both sides.

mod common;

use common::{echo::say, pair, soon};
use tower_tracer::{Code, Role, Status};

#[tokio::test]
async fn a_unary_call_is_seen_whole_from_both_sides() {
    let mut pair = pair().await;
    let response = pair.client.unary_echo(say("hello")).await.unwrap();
    assert_eq!(response.into_inner().message, "hello");

    let client = pair.client_side.only_finished();
    let server = soon(pair.server_side.wait_finished(1)).await.remove(0);
    for (rpc, role) in [(&client, Role::Client), (&server, Role::Server)] {
        assert_eq!(rpc.role(), role);
        assert_eq!(rpc.full_method(), Some("echo.Echo/UnaryEcho"));
        assert_eq!(rpc.stats().status(), Some(Status::Grpc(Code::Ok)));
        for traffic in [rpc.stats().request(), rpc.stats().response()] {
            assert_eq!(traffic.messages(), Some(1));
            assert_eq!(traffic.message_bytes(), Some(7));
            assert_eq!(traffic.wire_bytes(), Some(12));
        }
    }
    let expected = [
        "start",
        "request_headers",
        "request_message #0 7B",
        "half_close",
        "response_headers",
        "response_message #0 7B",
        "trailers",
        "finish trailers OK",
    ];
    assert_eq!(pair.client_side.log(), expected);
    assert_eq!(pair.server_side.log(), expected);
}
