//! gRPC-Web: the trailers are the last frame of the body.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The flag of the frame that holds the trailers.
pub(crate) const TRAILERS: u8 = 0x80;

/// How many trailers are read; there are a few.
const MOST: usize = 64;

/// Reads a block of trailers, lines of `name: value`; what is no such line is left out.
pub(crate) fn trailers(block: &[u8]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for line in block.split(|byte| *byte == b'\n').take(MOST) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.trim_ascii()),
            HeaderValue::from_bytes(value),
        ) {
            trailers.append(name, value);
        }
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::trailers;

    #[test]
    fn a_block_of_trailers_is_read_as_far_as_it_can_be() {
        let read = trailers(b"grpc-status: 5\r\ngrpc-message:gone\r\nx\r\n\xff: 1\r\n: 2\r\n");
        assert_eq!(read.len(), 2);
        assert_eq!(read["grpc-status"], "5");
        assert_eq!(read["grpc-message"], "gone");
        assert!(trailers(b"").is_empty());
    }
}
