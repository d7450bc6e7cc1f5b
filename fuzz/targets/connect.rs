//! Connect: errors in the body, end frames of streams, and the query of a GET. An end that is too long to
//! keep is read by another reader, which has to find the same.
#![no_main]

use bytes::Bytes;
use http::Request;
use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use tower_tracer::{Role, rpc::Protocol};
use tower_tracer_fuzz::{counted, end, exchange, pieces, request, response};

const STREAM: &str = "application/connect+json";

/// The end of a stream with this JSON.
fn end_frame(json: &[u8]) -> Vec<u8> {
    let mut frame = vec![2];
    frame.extend(
        u32::try_from(json.len())
            .expect("it is short")
            .to_be_bytes(),
    );
    frame.extend(json);
    frame
}

fn check_stream(u: &mut Unstructured<'_>, role: Role, json: &[u8]) -> Result<()> {
    let frame = end_frame(json);
    let split = pieces(u, &frame)?;
    let one = exchange(role, request(STREAM), response(200, STREAM, &split));
    let whole = exchange(
        role,
        request(STREAM),
        response(200, STREAM, &[frame.into()]),
    );
    assert_eq!((end(&one), counted(&one)), (end(&whole), counted(&whole)));
    if is_plain(json) {
        let long = end_frame(&[&[b' '; 9_000][..], json].concat());
        let long = exchange(role, request(STREAM), response(200, STREAM, &[long.into()]));
        assert_eq!(end(&one), end(&long), "an end that is long says the same");
    }
    Ok(())
}

fn check_unary(u: &mut Unstructured<'_>, role: Role, json: &[u8]) -> Result<()> {
    let asked = || {
        let mut request = request("application/json");
        let version = http::HeaderValue::from_static("1");
        request
            .headers_mut()
            .insert("connect-protocol-version", version);
        request
    };
    let split = pieces(u, json)?;
    let one = exchange(role, asked(), response(404, "application/json", &split));
    let whole = Bytes::copy_from_slice(json);
    let whole = exchange(role, asked(), response(404, "application/json", &[whole]));
    assert_eq!((end(&one), counted(&one)), (end(&whole), counted(&whole)));
    if is_plain(json) {
        let long = [&[b' '; 9_000][..], json].concat();
        let long = exchange(
            role,
            asked(),
            response(404, "application/json", &[long.into()]),
        );
        assert_eq!(end(&one), end(&long), "an error that is long says the same");
    }
    Ok(())
}

/// An object that both readers take for the same: valid, without a member twice and without an escape, which
/// the reader of long ends does not look into.
fn is_plain(json: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(json) else {
        return false;
    };
    if !value.is_object() || json.contains(&b'\\') {
        return false;
    }
    let names = |name: &str| {
        json.windows(name.len())
            .filter(|w| *w == name.as_bytes())
            .count()
    };
    let is_text = |object: &serde_json::Value| {
        object.get("code").is_none_or(serde_json::Value::is_string)
            && object
                .get("message")
                .is_none_or(serde_json::Value::is_string)
    };
    ["code", "error", "message"]
        .iter()
        .all(|name| names(name) <= 1)
        && is_text(&value)
        && value
            .get("error")
            .is_none_or(|error| error.is_object() && is_text(error) && error.get("code").is_some())
}

fn check_get(role: Role, query: &[u8]) {
    let mut query = query.to_vec();
    query.retain(|byte| byte.is_ascii_graphic() && !b"#<>\"`{}\\^|".contains(byte));
    let Ok(query) = String::from_utf8(query) else {
        return;
    };
    let Ok(request) = Request::get(format!("/echo.Echo/UnaryEcho?connect=v1&{query}"))
        .body(tonic::body::Body::empty())
    else {
        return;
    };
    let rpc = exchange(role, request, response(200, "application/proto", &[]));
    assert_eq!(rpc.protocol(), Protocol::ConnectUnary);
    let traffic = rpc.stats().request();
    let message = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(name, value)| (name == "message").then_some(value));
    // A message is no longer than its text.
    let most = message.map_or(0, str::len) as u64;
    assert!(traffic.message_bytes().unwrap_or_default() <= most);
}

fuzz_target!(|data: &[u8]| {
    let (choices, body) = data.split_at(data.len().min(24));
    let u = &mut Unstructured::new(choices);
    let (Ok(is_client), Ok(which)) = (u.arbitrary(), u.int_in_range(0..=2)) else {
        return;
    };
    let role = if is_client {
        Role::Client
    } else {
        Role::Server
    };
    let _ = match which {
        0 => check_stream(u, role, body),
        1 => check_unary(u, role, body),
        _ => {
            check_get(role, body);
            Ok(())
        }
    };
});
