//! Finds the error in JSON that is too long to keep.

use super::{Error, WireStatus};

/// Looks for the error in JSON of any length, which it neither keeps nor checks.
#[derive(Debug)]
pub(in crate::protocol) struct ErrorSearch {
    /// At which depth the members of the error are.
    error_depth: u32,
    depth: u32,
    in_error: bool,
    has_error: bool,
    is_object: bool,
    in_string: bool,
    escaped: bool,
    /// Behind the colon of a member.
    is_value: bool,
    /// The last key.
    key: Vec<u8>,
    /// The last string, as it is written.
    string: Vec<u8>,
    code: Option<Vec<u8>>,
    message: Option<Vec<u8>>,
}

/// How much of a string is kept.
const LONGEST: usize = 8 * 1024;

impl ErrorSearch {
    /// In the last frame of a stream, `{"error": {"code": …}}`.
    pub(in crate::protocol) fn in_stream() -> Self {
        Self::at_depth(2)
    }

    /// In the body of a unary response, `{"code": …}`.
    pub(in crate::protocol) fn in_unary() -> Self {
        Self::at_depth(1)
    }

    fn at_depth(error_depth: u32) -> Self {
        Self {
            error_depth,
            depth: 0,
            in_error: false,
            has_error: false,
            is_object: false,
            in_string: false,
            escaped: false,
            is_value: false,
            key: Vec::new(),
            string: Vec::new(),
            code: None,
            message: None,
        }
    }

    /// The next bytes.
    pub(in crate::protocol) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                _ if self.in_string => self.push_to_string(byte),
                b'"' => {
                    self.in_string = true;
                    self.string.clear();
                }
                b'{' | b'[' => self.open(byte),
                b'}' | b']' => self.close(),
                b':' => self.is_value = true,
                b',' => self.is_value = false,
                _ => {}
            }
        }
    }

    fn push_to_string(&mut self, byte: u8) {
        if byte == b'"' && !self.escaped {
            self.in_string = false;
            return self.end_string();
        }
        self.escaped = byte == b'\\' && !self.escaped;
        if self.string.len() < LONGEST {
            self.string.push(byte);
        }
    }

    fn end_string(&mut self) {
        if !self.is_value {
            std::mem::swap(&mut self.key, &mut self.string);
        } else if self.in_error && self.depth == self.error_depth {
            let member = match &self.key[..] {
                b"code" => &mut self.code,
                b"message" => &mut self.message,
                _ => return,
            };
            member.get_or_insert_with(|| std::mem::take(&mut self.string));
        }
    }

    fn open(&mut self, bracket: u8) {
        let is_error = self.error_depth == 1 || (self.is_value && self.key == b"error");
        self.depth = self.depth.saturating_add(1);
        if self.depth == 1 {
            self.is_object = bracket == b'{';
        }
        if self.depth == self.error_depth && is_error && self.is_object && bracket == b'{' {
            self.in_error = true;
            self.has_error = true;
        }
        self.is_value = false;
    }

    fn close(&mut self) {
        if self.depth == self.error_depth {
            self.in_error = false;
        }
        self.depth = self.depth.saturating_sub(1);
        self.is_value = false;
    }

    /// The error, if there was one with a code.
    pub(in crate::protocol) fn error(&self) -> Option<WireStatus<'static>> {
        let error = Error {
            code: unescaped(self.code.as_ref()?),
            message: self.message.as_deref().map(unescaped).unwrap_or_default(),
        };
        Some(error.into())
    }

    /// The error, or else OK; `None` if this is not the JSON that it should be.
    pub(in crate::protocol) fn end_of_stream(&self) -> Option<WireStatus<'static>> {
        let is_ok = self.is_object && self.depth == 0 && !self.has_error;
        self.error().or_else(|| is_ok.then_some(WireStatus::OK))
    }
}

/// The text of a JSON string, whose end may be missing.
fn unescaped(string: &[u8]) -> String {
    // The two halves of a character that is escaped take twelve bytes.
    let ends = (0..=12).filter_map(|missing| string.len().checked_sub(missing));
    ends.filter_map(|end| string.get(..end))
        .find_map(|string| serde_json::from_slice(&[b"\"", string, b"\""].concat()).ok())
        .unwrap_or_default()
}
