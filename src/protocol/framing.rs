use crate::rpc::Tally;

/// Finds the messages in a stream of bytes: each has a prefix of a flag byte and a length of four
/// bytes, big-endian.
///
/// It copies nothing but the prefix, and holds a few words, whatever the length says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Framing {
    prefix: [u8; 5],
    /// How many bytes of the prefix have been seen; 5 within a message.
    seen: u8,
    /// How many bytes of the message are still to come.
    missing: u32,
}

impl Frames for Tally {
    #[inline]
    fn frame(&mut self, flags: u8, length: u32) {
        let length = u64::from(length);
        self.messages += 1;
        self.compressed_messages += u64::from(flags & 1);
        self.message_bytes += length;
        self.last_message_bytes = length;
    }
}

/// Takes what [`Framing`] finds.
pub(crate) trait Frames {
    /// Bytes of a frame with these flags.
    #[inline]
    fn content(&mut self, flags: u8, bytes: &[u8]) {
        let _ = (flags, bytes);
    }

    /// A frame is complete.
    fn frame(&mut self, flags: u8, length: u32);
}

impl Framing {
    /// Takes the next bytes and tells of the frames that they complete.
    #[inline]
    pub(crate) fn scan(&mut self, bytes: &[u8], frames: &mut impl Frames) {
        match self.whole(bytes) {
            Some((flags, content)) => {
                if !content.is_empty() {
                    frames.content(flags, content);
                }
                frames.frame(flags, u32::try_from(content.len()).unwrap_or(u32::MAX));
            }
            None => self.scan_pieces(bytes, frames),
        }
    }

    /// The flags and the content of the next bytes where they are one whole frame, the common case.
    #[inline]
    pub(crate) fn whole<'a>(&self, bytes: &'a [u8]) -> Option<(u8, &'a [u8])> {
        let (&[flags, a, b, c, d], content) = bytes.split_first_chunk::<5>()?;
        let is_whole = self.seen == 0 && content.len() == u32::from_be_bytes([a, b, c, d]) as usize;
        is_whole.then_some((flags, content))
    }

    /// Counts the messages that the next bytes complete, in one pass: many small ones may be in a frame.
    pub(crate) fn tally(&mut self, mut bytes: &[u8]) -> Tally {
        let mut tally = Tally::default();
        if self.seen > 0 {
            bytes = self.scan_one(bytes, &mut tally);
        }
        if self.seen > 0 {
            return tally;
        }
        let all = bytes.len();
        let (mut whole_messages, mut last) = (0, None);
        while let Some(&[flags, a, b, c, d]) = bytes.first_chunk::<5>() {
            let length = u32::from_be_bytes([a, b, c, d]);
            // Beyond what memory can hold, the message is not whole here.
            let whole = (length as usize).saturating_add(5);
            let Some(rest) = bytes.get(whole..) else {
                break;
            };
            bytes = rest;
            whole_messages += 1;
            tally.compressed_messages += u64::from(flags & 1);
            last = Some(length);
        }
        if let Some(length) = last {
            tally.messages += whole_messages;
            tally.message_bytes += (all - bytes.len()) as u64 - 5 * whole_messages;
            tally.last_message_bytes = u64::from(length);
        }
        self.scan_pieces(bytes, &mut tally);
        tally
    }

    fn scan_pieces(&mut self, mut bytes: &[u8], frames: &mut impl Frames) {
        while !bytes.is_empty() {
            bytes = self.scan_one(bytes, frames);
        }
    }

    /// Takes bytes up to the end of one message, and returns the rest.
    fn scan_one<'a>(&mut self, mut bytes: &'a [u8], frames: &mut impl Frames) -> &'a [u8] {
        while !bytes.is_empty() {
            if self.seen < 5 {
                if let (0, Some((prefix, rest))) = (self.seen, bytes.split_first_chunk::<5>()) {
                    self.prefix = *prefix;
                    self.seen = 5;
                    bytes = rest;
                } else if let Some((byte, rest)) = bytes.split_first() {
                    if let Some(place) = self.prefix.get_mut(usize::from(self.seen)) {
                        *place = *byte;
                    }
                    self.seen += 1;
                    bytes = rest;
                    if self.seen < 5 {
                        continue;
                    }
                }
                self.missing = self.length();
            }
            let here = usize::try_from(self.missing)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let (content, rest) = bytes.split_at_checked(here).unwrap_or((bytes, &[]));
            if !content.is_empty() {
                frames.content(self.prefix[0], content);
            }
            bytes = rest;
            self.missing -= u32::try_from(here).unwrap_or(self.missing);
            if self.missing == 0 {
                self.seen = 0;
                frames.frame(self.prefix[0], self.length());
                return bytes;
            }
        }
        bytes
    }

    /// Whether the bytes so far end inside a message or its prefix.
    pub(crate) fn is_inside(&self) -> bool {
        self.seen > 0
    }

    fn length(&self) -> u32 {
        let [_, length @ ..] = self.prefix;
        u32::from_be_bytes(length)
    }
}

#[cfg(test)]
mod tests {
    use super::{Frames, Framing, Tally};

    #[derive(Debug, PartialEq, Eq)]
    struct Scan {
        flags: u8,
        length: u32,
    }

    impl Frames for Vec<Scan> {
        fn frame(&mut self, flags: u8, length: u32) {
            self.push(Scan { flags, length });
        }
    }

    fn scan(framing: &mut Framing, bytes: &[u8]) -> Vec<Scan> {
        let mut found = Vec::new();
        framing.scan(bytes, &mut found);
        found
    }

    fn frame(flags: u8, length: u32) -> Vec<u8> {
        let mut frame = vec![flags];
        frame.extend(length.to_be_bytes());
        frame.resize(5 + length as usize, 0xaa);
        frame
    }

    #[test]
    fn joined_and_split_frames_give_the_same_messages() {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for (flags, length) in [(0, 3), (1, 0), (0, 0), (60, 300), (1, 7)] {
            bytes.extend(frame(flags, length));
            expected.push(Scan { flags, length });
        }
        for step in 1..=bytes.len() {
            let mut framing = Framing::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(step) {
                found.extend(scan(&mut framing, piece));
            }
            assert_eq!(found, expected, "in pieces of {step}");
            assert!(!framing.is_inside());
        }
    }

    /// Bytes in pieces, read in both ways.
    fn assert_same(pieces: &[&[u8]]) {
        let (mut one, mut other) = (Framing::default(), Framing::default());
        for piece in pieces {
            let mut tally = Tally::default();
            for Scan { flags, length } in scan(&mut one, piece) {
                tally.frame(flags, length);
            }
            assert_eq!(other.tally(piece), tally);
            assert_eq!(one.is_inside(), other.is_inside());
            assert_eq!(one.missing, other.missing);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri would take minutes for so many pieces")]
    fn tally_is_the_same_as_a_scan() {
        let mut bytes = Vec::new();
        for (flags, length) in [(0, 3), (1, 0), (0, 0), (60, 300), (255, 7), (0, 1), (2, 0)] {
            bytes.extend(frame(flags, length));
        }
        for step in 1..=bytes.len() {
            assert_same(&bytes.chunks(step).collect::<Vec<_>>());
        }
        // Cut anywhere in two, and once more after that.
        for first in 0..bytes.len() {
            let (head, tail) = bytes.split_at(first);
            assert_same(&[head, tail]);
            assert_same(&[head, &tail[..tail.len() / 2], &[], &tail[tail.len() / 2..]]);
        }
        // A length that is never reached.
        assert_same(&[&[0, 255, 255, 255, 255, 1, 2], &[3; 40]]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri would take minutes for so many bytes")]
    fn a_million_empty_messages_in_one_frame_are_counted() {
        let bytes = vec![0; 5_000_000];
        let mut framing = Framing::default();
        let tally = framing.tally(&bytes);
        let expected = Tally {
            messages: 1_000_000,
            ..Tally::default()
        };
        assert_eq!(tally, expected);
        assert!(!framing.is_inside());
    }

    #[test]
    fn a_length_of_four_gibibytes_is_only_a_number() {
        let mut framing = Framing::default();
        assert_eq!(scan(&mut framing, &[0, 255, 255, 255, 255, 1, 2]), []);
        assert!(framing.is_inside());
        assert_eq!(framing.missing, u32::MAX - 2);
        assert!(size_of::<Framing>() <= 16);
    }

    #[test]
    fn the_end_inside_a_prefix_or_a_message_is_visible() {
        for cut in 1..8 {
            let mut framing = Framing::default();
            assert_eq!(scan(&mut framing, &frame(0, 3)[..cut]), []);
            assert!(framing.is_inside(), "after {cut} bytes");
        }
        let mut framing = Framing::default();
        assert_eq!(scan(&mut framing, &[]), []);
        assert!(!framing.is_inside());
    }
}
