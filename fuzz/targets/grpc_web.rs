//! gRPC-Web, binary and text: a response of any bytes, compared with a slow reader of the complete body.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use tower_tracer::{Code, Ending, Role, Status};
use tower_tracer_fuzz::{counted, end, exchange, pick, pieces, request, response};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Groups of four characters, of which any may be padded; `None` if that is not what it is.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for group in text.chunks(4) {
        let letters = group.iter().take_while(|letter| **letter != b'=').count();
        if group.len() < 4 || letters < 2 || group[letters..].iter().any(|c| *c != b'=') {
            return None;
        }
        let mut bits = 0_u32;
        for place in 0..4 {
            let value = match group[place] {
                b'=' => 0,
                letter => LETTERS.iter().position(|other| *other == letter)?,
            };
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        bytes.extend(&bits.to_be_bytes()[1..letters]);
    }
    Some(bytes)
}

/// The messages before the trailers, and the trailers, if that is all there is.
fn read(mut bytes: &[u8]) -> Option<(Vec<(u8, usize)>, &[u8])> {
    let mut messages = Vec::new();
    loop {
        let (prefix, rest) = bytes.split_first_chunk::<5>()?;
        let [flags, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        let (content, rest) = rest.split_at_checked(length)?;
        if flags & 0x80 == 0 {
            messages.push((flags, length));
            bytes = rest;
        } else {
            return (flags & 1 == 0 && rest.is_empty()).then_some((messages, content));
        }
    }
}

/// The first status in a block of trailers.
fn status(block: &[u8]) -> Option<Vec<u8>> {
    block.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let value = http::HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        let name = line[..colon].trim_ascii();
        let is_status = name.eq_ignore_ascii_case(b"grpc-status");
        is_status.then(|| value.as_bytes().to_vec())
    })
}

fn check(data: &[u8]) -> Result<()> {
    let (choices, body) = data.split_at(data.len().min(24));
    let u = &mut Unstructured::new(choices);
    let role = pick(u, &[Role::Client, Role::Server])?;
    let content_type = pick(u, &[BINARY, TEXT])?;
    // A body of random bytes is seldom base64.
    let encode = u.arbitrary()?;
    let encoded;
    let body = match content_type == TEXT && encode {
        true => {
            encoded = encode_base64(body);
            &encoded[..]
        }
        false => body,
    };
    let body_pieces = pieces(u, body)?;
    let rpc = exchange(
        role,
        request(content_type),
        response(200, content_type, &body_pieces),
    );

    let decoded = match content_type {
        TEXT => decode(body),
        _ => Some(body.to_vec()),
    };
    let Some((messages, block)) = decoded.as_deref().and_then(read) else {
        return Ok(());
    };
    let sum = messages.iter().map(|(_, length)| *length as u64).sum();
    let compressed = messages.iter().filter(|(flags, _)| flags & 1 == 1).count();
    let expected = [
        Some(messages.len() as u64),
        Some(compressed as u64),
        Some(sum),
        messages.last().map(|(_, length)| *length as u64),
        Some(body.len() as u64),
    ];
    assert_eq!(counted(&rpc), (expected, false));
    let (ending, [status_seen, _], [_, raw]) = end(&rpc);
    assert_eq!(ending, Some(Ending::Trailers));
    let sent = status(block);
    let code = sent.as_deref().and_then(|sent| {
        let number = std::str::from_utf8(sent).ok()?;
        Code::ALL
            .into_iter()
            .find(|code| (*code as u8).to_string() == number)
    });
    assert_eq!(
        status_seen,
        Some(Status::Grpc(code.unwrap_or(Code::Unknown)))
    );
    assert_eq!(raw.is_some(), sent.is_some() && code.is_none());

    // However the body is split, it says the same.
    let body = bytes::Bytes::copy_from_slice(body);
    let whole = exchange(
        role,
        request(content_type),
        response(200, content_type, &[body]),
    );
    assert_eq!((end(&rpc), counted(&rpc)), (end(&whole), counted(&whole)));
    Ok(())
}

fn encode_base64(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for group in bytes.chunks(3) {
        let mut all = [0; 4];
        all[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(all);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place > group.len() { b'=' } else { letter });
        }
    }
    text
}

fuzz_target!(|data: &[u8]| {
    let _ = check(data);
});
