//! gRPC-Web: the trailers are the last frame of the body.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::grpc;

/// The flag of the frame that holds the trailers.
pub(crate) const TRAILERS: u8 = 0x80;

/// How many trailers are read; there are a few.
const MOST: usize = 64;

/// Reads a block of trailers, lines of `name: value`; what is not such a line is left out.
pub(crate) fn trailers(block: &[u8]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let lines = block.split(|byte| *byte == b'\n').enumerate();
    for (name, value) in lines.filter_map(|(number, line)| {
        let (name, value) = trailer(line)?;
        // A peer may send any number of others, and the status last.
        (number < MOST || is_status(&name)).then_some((name, value))
    }) {
        if !is_status(&name) || !trailers.contains_key(&name) {
            trailers.append(name, value);
        }
    }
    trailers
}

/// Reads one line.
fn trailer(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    let name = HeaderName::from_bytes(name.trim_ascii()).ok()?;
    Some((name, HeaderValue::from_bytes(value).ok()?))
}

/// Whether a trailer is the status or its message, of which the first one counts.
fn is_status(name: &HeaderName) -> bool {
    name == grpc::STATUS || name == grpc::MESSAGE
}

/// Looks for the status in a block of trailers of any length, of which it holds one line.
#[derive(Debug, Default)]
pub(crate) struct StatusSearch {
    line: Vec<u8>,
    found: HeaderMap,
}

/// How much of a line is read. A message is no longer than that in the record.
const LONGEST: usize = 4 * 1024;

impl StatusSearch {
    /// The next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        if let Some(rest) = lines.next() {
            self.extend_line(rest);
        }
        for line in lines {
            self.end_line();
            self.extend_line(line);
        }
    }

    /// Adds the status to trailers that lack it.
    pub(crate) fn add_to(&self, trailers: &mut HeaderMap) {
        let last = trailer(&self.line).filter(|(name, _)| is_status(name));
        let found = self
            .found
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()));
        for (name, value) in found.chain(last) {
            trailers.entry(name).or_insert(value);
        }
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        let room = LONGEST.saturating_sub(self.line.len());
        let bytes = bytes.get(..room).unwrap_or(bytes);
        self.line.extend_from_slice(bytes);
    }

    fn end_line(&mut self) {
        if let Some((name, value)) = trailer(&self.line)
            && is_status(&name)
        {
            self.found.entry(name).or_insert(value);
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{StatusSearch, trailers};

    #[test]
    fn a_block_of_trailers_is_read_as_far_as_it_can_be() {
        let read = trailers(b"grpc-status: 5\r\ngrpc-message:gone\r\nx\r\n\xff: 1\r\n: 2\r\n");
        assert_eq!(read.len(), 2);
        assert_eq!(read["grpc-status"], "5");
        assert_eq!(read["grpc-message"], "gone");
        assert!(trailers(b"").is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri would take minutes for so many bytes")]
    fn a_status_behind_any_number_of_trailers_is_found() {
        let mut block = "x: 1\r\n".repeat(10_000);
        block.push_str("Grpc-Status: 5\r\ngrpc-message: gone\r\ngrpc-status: 0\r\n");
        let read = trailers(block.as_bytes());
        assert_eq!(read["grpc-status"], "5");
        assert!(read.len() <= 66);
        for step in [1, 7, 1000, block.len()] {
            for block in [&block[..], block.trim_end()] {
                let mut search = StatusSearch::default();
                for piece in block.as_bytes().chunks(step) {
                    search.push(piece);
                }
                let mut found = http::HeaderMap::new();
                search.add_to(&mut found);
                assert_eq!(found["grpc-status"], "5");
                assert_eq!(found["grpc-message"], "gone");
                assert_eq!(found.len(), 2);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri would take minutes for so many bytes")]
    fn a_line_of_a_megabyte_is_held_in_part() {
        let mut search = StatusSearch::default();
        search.push(b"grpc-message: ");
        search.push(&[b'x'; 1_000_000]);
        assert!(search.line.len() <= super::LONGEST);
        search.push(b"\ngrpc-status: 5");
        let mut found = http::HeaderMap::new();
        search.add_to(&mut found);
        assert_eq!(found["grpc-status"], "5");
        assert!(found["grpc-message"].len() > 4_000);
    }
}
