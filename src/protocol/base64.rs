/// Decodes the base64 of a gRPC-Web text body, piece by piece.
///
/// Each piece that a peer wrote at once may end in padding, so padding can come mid-stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Base64 {
    /// Bits not given out yet.
    bits: u32,
    /// How many characters they came from, 0 to 3, or `PADDED`.
    characters: u8,
}

/// Two characters and the first `=`. Their byte is given out with the second one, so that no byte of the body
/// follows the end that it may hold.
const PADDED: u8 = 4;

/// The input is not base64.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotBase64;

impl Base64 {
    /// Takes the next characters and hands on the bytes that they complete.
    pub(crate) fn decode(
        &mut self,
        text: &[u8],
        mut decoded: impl FnMut(&[u8]),
    ) -> Result<(), NotBase64> {
        let mut buffer = [0; 192];
        // Four characters are three bytes, and up to three characters were left from before.
        for piece in text.chunks(buffer.len() / 3 * 4 - 4) {
            let mut length = 0;
            let mut put = |byte: u32| {
                if let Some(place) = buffer.get_mut(length) {
                    *place = byte.to_le_bytes()[0];
                    length += 1;
                }
            };
            for character in piece {
                if *character == b'=' {
                    match self.characters {
                        // One too many.
                        0 => {}
                        2 => {
                            self.characters = PADDED;
                            continue;
                        }
                        PADDED => put(self.bits >> 4),
                        3 => {
                            put(self.bits >> 10);
                            put(self.bits >> 2);
                        }
                        _ => return Err(NotBase64),
                    }
                    *self = Self::default();
                    continue;
                }
                if self.characters == PADDED {
                    return Err(NotBase64);
                }
                let value = value_of(*character).ok_or(NotBase64)?;
                self.bits = self.bits << 6 | u32::from(value);
                self.characters += 1;
                if self.characters == 4 {
                    put(self.bits >> 16);
                    put(self.bits >> 8);
                    put(self.bits);
                    *self = Self::default();
                }
            }
            decoded(buffer.get(..length).unwrap_or_default());
        }
        Ok(())
    }

    /// Whether the characters so far end inside a group.
    pub(crate) fn is_inside(&self) -> bool {
        self.characters > 0
    }
}

fn value_of(character: u8) -> Option<u8> {
    Some(match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Base64, NotBase64};

    fn decode(pieces: &[&[u8]]) -> Result<Vec<u8>, NotBase64> {
        let mut base64 = Base64::default();
        let mut bytes = Vec::new();
        for piece in pieces {
            base64.decode(piece, |decoded| bytes.extend_from_slice(decoded))?;
        }
        Ok(bytes)
    }

    #[test]
    fn pieces_and_padding_in_between_decode_to_the_same_bytes() {
        assert_eq!(decode(&[b"Zm9vYmFy"]).unwrap(), b"foobar");
        assert_eq!(decode(&[b"Zg==", b"Zm8=", b"Zm9v"]).unwrap(), b"ffofoo");
        assert_eq!(decode(&[b"Zg==Zm8=Zm9v"]).unwrap(), b"ffofoo");
        for cut in 0..8 {
            let (left, right) = b"Zm9vYmE=".split_at(cut);
            assert_eq!(decode(&[left, right]).unwrap(), b"fooba");
        }
        // Miri takes a minute for more.
        let count = if cfg!(miri) { 100 } else { 1000 };
        let long = b"QUJD".repeat(count);
        assert_eq!(decode(&[&long]).unwrap(), b"ABC".repeat(count));
        for step in [1, 7, 100, 255, 256, 257] {
            let pieces: Vec<_> = long.chunks(step).collect();
            assert_eq!(decode(&pieces).unwrap(), b"ABC".repeat(count));
        }
    }

    #[test]
    fn each_character_of_the_alphabet_has_its_value() {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for (value, character) in (0_u8..).zip(alphabet) {
            // It is the last of four, so its six bits are the lowest of three bytes.
            let bytes = decode(&[b"AAA", &[*character]]).unwrap();
            assert_eq!(bytes, [0, 0, value]);
        }
    }

    #[test]
    fn padding_that_nothing_needs_is_passed_over() {
        assert_eq!(decode(&[b"=Zg===Zm9v="]).unwrap(), b"ffoo");
    }

    #[test]
    fn a_byte_is_given_out_with_the_last_of_its_padding() {
        let mut base64 = Base64::default();
        let mut given = Vec::new();
        for character in b"Zg==Zm8=Zm9v" {
            let mut count = 0;
            let decoded = base64.decode(&[*character], |bytes| count += bytes.len());
            assert_eq!(decoded, Ok(()));
            given.push(count);
        }
        assert_eq!(given, [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]);
        assert_eq!(decode(&[b"Zg=", b"Zg=="]), Err(NotBase64));
    }

    #[test]
    fn what_is_no_base64_is_said_to_be_none() {
        assert_eq!(decode(&[b"Zm9v!"]), Err(NotBase64));
        assert_eq!(decode(&[b"Z=="]), Err(NotBase64));
    }
}
