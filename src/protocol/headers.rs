//! Finds headers, and compares media types.

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};

/// Finds the content type, and the first value of each of some other headers; the names in lower case,
/// and none of them among those that HTTP knows.
///
/// Most header maps of an RPC have a few entries: to compare each is cheaper than to hash each
/// name. A large map is a peer's doing, and is not walked.
#[inline(always)]
pub(super) fn find<'a, const N: usize>(
    headers: &'a HeaderMap,
    names: [&'static str; N],
) -> (Option<&'a HeaderValue>, [Option<&'a HeaderValue>; N]) {
    if headers.len() > 12 {
        let found = names.map(|name| headers.get(name));
        return (headers.get(CONTENT_TYPE), found);
    }
    let mut content_type = None;
    let mut found = [None; N];
    for (name, value) in headers {
        // A header with several values is met once for each, the first one first.
        if *name == CONTENT_TYPE {
            content_type.get_or_insert(value);
            continue;
        }
        // With names that are constants this is a comparison of lengths and then of a few words.
        let name = name.as_str().as_bytes();
        for (found, wanted) in found.iter_mut().zip(names) {
            if name == wanted.as_bytes() {
                found.get_or_insert(value);
                break;
            }
        }
    }
    (content_type, found)
}

/// Whether a content type is this one, with or without a suffix or parameters.
#[inline]
pub(super) fn is(content_type: &[u8], wanted: &[u8]) -> bool {
    strip(content_type, wanted).is_some_and(is_suffix)
}

/// Whether the rest of a media type is a suffix or parameters, which optional white space may precede.
#[inline]
pub(super) fn is_suffix(rest: &[u8]) -> bool {
    matches!(rest, [] | [b'+' | b';' | b' ' | b'\t', ..])
}

/// What follows the beginning of a media type, which is the same in any letter case (RFC 9110, 8.3.1).
#[inline]
pub(super) fn strip<'a>(content_type: &'a [u8], beginning: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = content_type.split_at_checked(beginning.len())?;
    // Almost every peer writes lower case, and that comparison is the cheaper one.
    (found == beginning || found.eq_ignore_ascii_case(beginning)).then_some(rest)
}

/// A content type, without white space before it; empty if there is none.
#[inline]
pub(super) fn bytes_of(content_type: Option<&HeaderValue>) -> &[u8] {
    match content_type.map_or(&b""[..], HeaderValue::as_bytes) {
        spaced @ [b' ' | b'\t', ..] => spaced.trim_ascii_start(),
        bytes => bytes,
    }
}
