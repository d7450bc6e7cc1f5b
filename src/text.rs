//! Texts that a peer can shape: cut to a length, and escaped.

#[cfg(any(feature = "live", feature = "tracing"))]
use std::{borrow::Cow, fmt::Write as _};

/// At most `limit` bytes of `text`, cut at the end of a character.
pub(crate) fn bounded(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The text up to `longest` bytes, with what could move the cursor, end the line or turn it around
/// escaped.
#[cfg(any(feature = "live", feature = "tracing"))]
pub(crate) fn escape(text: &str, longest: usize) -> Cow<'_, str> {
    let head = bounded(text, longest);
    if !head.contains(is_unprintable) {
        return Cow::Borrowed(head);
    }
    let mut escaped = String::with_capacity(head.len() + 16);
    for c in head.chars() {
        if is_unprintable(c) {
            // Writing to a string does not fail.
            let _ = write!(escaped, "{}", c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Controls, ends of lines, and what Unicode calls ignorable, which is invisible: marks of
/// direction, joiners, fillers, selectors of variants, tags.
#[cfg(any(feature = "live", feature = "tracing"))]
#[rustfmt::skip]
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
                | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(all(test, any(feature = "live", feature = "tracing")))]
mod tests {
    use super::escape;

    #[test]
    fn characters_that_move_the_cursor_are_escaped_and_the_rest_stays() {
        for (text, expected) in [
            ("", ""),
            (
                "plain \"text\", emoji 🦀, é\\",
                "plain \"text\", emoji 🦀, é\\",
            ),
            ("a\nb\r\t\0", "a\\nb\\r\\t\\u{0}"),
            ("\u{1b}[31mred\u{9b}", "\\u{1b}[31mred\\u{9b}"),
            ("\u{2028}\u{202e}\u{2066}", "\\u{2028}\\u{202e}\\u{2066}"),
            (
                "\u{200e}\u{200f}\u{61c}\u{feff}",
                "\\u{200e}\\u{200f}\\u{61c}\\u{feff}",
            ),
            (
                "\u{ad}\u{200b}\u{2060}\u{e0041}",
                "\\u{ad}\\u{200b}\\u{2060}\\u{e0041}",
            ),
            // Marks that belong to a letter stay.
            ("e\u{301} \u{939}\u{93f}", "e\u{301} \u{939}\u{93f}"),
        ] {
            assert_eq!(escape(text, 100), expected);
        }
    }

    #[test]
    fn a_long_text_is_cut_at_the_end_of_a_character() {
        assert_eq!(escape("aé🦀b", 8), "aé🦀b");
        assert_eq!(escape("aé🦀b", 7), "aé🦀");
        assert_eq!(escape("aé🦀b", 6), "aé");
        assert_eq!(escape("aé", 0), "");
        assert_eq!(escape(&"x".repeat(60_000), 256).len(), 256);
    }
}
