#[cfg(any(feature = "metrics", feature = "otel"))]
use std::hash::BuildHasherDefault;
use std::hash::Hasher;

/// Hashes names eight bytes at a time, for tables that hold only the program's own names: no peer
/// can cause collisions.
#[derive(Default)]
pub(crate) struct NameHasher(u64);

#[cfg(any(feature = "metrics", feature = "otel"))]
pub(crate) type BuildNameHasher = BuildHasherDefault<NameHasher>;

impl NameHasher {
    pub(crate) fn mix(&mut self, word: u64) {
        // An odd number without a pattern: the fraction of the golden ratio.
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        match bytes.last_chunk() {
            Some(last) => self.mix(u64::from_le_bytes(*last)),
            None => rest.iter().for_each(|byte| self.mix(u64::from(*byte))),
        }
    }

    fn write_u8(&mut self, _: u8) {
        // The mark that separates several texts; here is one.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
