//! The query of a GET, which can be a whole call.

use percent_encoding::percent_decode_str;

/// Whether the query of a GET says that it is a call.
pub(in crate::protocol) fn is_call(query: &str) -> bool {
    query.split('&').any(|parameter| parameter == "connect=v1")
}

/// The message in the query of a call: its size, and whether it is compressed. `None` if there is
/// none, or if it cannot be decoded.
pub(in crate::protocol) fn message_in(query: &str) -> Option<(u64, bool)> {
    let parameter = |name| {
        let mut parameters = query.split('&').filter_map(|pair| pair.split_once('='));
        parameters.find_map(|(found, value)| (found == name).then_some(value))
    };
    let message = percent_decode_str(parameter("message")?);
    let size = match parameter("base64") {
        Some("1") => length_of_base64(message)?,
        _ => message.count() as u64,
    };
    let compressed =
        parameter("compression").is_some_and(|coding| !coding.eq_ignore_ascii_case("identity"));
    Some((size, compressed))
}

/// How many bytes URL-safe base64 encodes, padded or not; `None` if it is malformed.
fn length_of_base64(text: impl Iterator<Item = u8>) -> Option<u64> {
    let (mut characters, mut padding) = (0_u64, 0_u64);
    for byte in text {
        match byte {
            b'=' => padding += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' if padding == 0 => {
                characters += 1;
            }
            _ => return None,
        }
    }
    let whole = padding == 0 || (padding <= 2 && (characters + padding) % 4 == 0);
    // Four characters are three bytes. A single one is an error.
    match characters % 4 {
        0 if whole => Some(characters / 4 * 3),
        rest @ 2.. if whole => Some(characters / 4 * 3 + rest - 1),
        _ => None,
    }
}
