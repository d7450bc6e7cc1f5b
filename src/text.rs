//! Texts that a peer can shape, cut to a length.

/// At most `limit` bytes of `text`, cut where a character ends.
pub(crate) fn bounded(text: &str, limit: usize) -> Box<str> {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}
