//! Which streams of a connection are open, in memory of a fixed size.

/// How many streams are kept that are open longer than the 128 opened after them.
const OLDER: usize = 16;

const CLIENT: u32 = 1;
const SERVER: u32 = 2;

/// The streams that a client opened and that are open.
///
/// Streams are opened in the order of their ids, so one bit a side is enough for each of the last 128. When one of
/// them is still open 128 streams later, it moves to a short list.
#[derive(Default)]
pub(super) struct Streams {
    /// The id of the last one, 0 if there is none. A client's are odd (RFC 9113 5.1.1).
    last: u32,
    /// Bit `n` is of the stream opened `n` before the last: whether the client may still send on it.
    client: u128,
    /// And whether the server may.
    server: u128,
    /// Half of the id and, in the lowest bits, which sides may still send; 0 is a free place.
    older: [u32; OLDER],
    /// Whether there were too many for the list.
    is_lost: bool,
}

impl Streams {
    /// Whether this begins a stream, which is open then.
    pub(super) fn open(&mut self, stream: u32) -> bool {
        if stream <= self.last || stream.is_multiple_of(2) {
            return false;
        }
        let by = stream.div_ceil(2) - self.last.div_ceil(2);
        self.move_out(by);
        let shift = |bits: u128| bits.checked_shl(by).unwrap_or(0) | 1;
        (self.client, self.server) = (shift(self.client), shift(self.server));
        self.last = stream;
        true
    }

    /// Moves those to the list that have no bit once the last stream is so many later.
    fn move_out(&mut self, by: u32) {
        while let Some(place) = (self.client | self.server).checked_ilog2()
            && place.saturating_add(by) >= u128::BITS
        {
            let bit = 1 << place;
            let sides = sides(self.client & bit != 0, self.server & bit != 0);
            self.client &= !bit;
            self.server &= !bit;
            let half = self.last / 2 - place;
            match self.older.iter_mut().find(|older| **older == 0) {
                Some(free) => *free = (half << 2) | sides,
                None => self.is_lost = true,
            }
        }
    }

    /// One side has said its last on a stream.
    pub(super) fn end(&mut self, stream: u32, from_client: bool) {
        self.clear(stream, sides(from_client, !from_client));
    }

    pub(super) fn reset(&mut self, stream: u32) {
        self.clear(stream, CLIENT | SERVER);
    }

    fn clear(&mut self, stream: u32, sides: u32) {
        if stream > self.last || stream.is_multiple_of(2) {
            return;
        }
        let half = stream / 2;
        if let Some(bit) = 1_u128.checked_shl(self.last / 2 - half) {
            if sides & CLIENT != 0 {
                self.client &= !bit;
            }
            if sides & SERVER != 0 {
                self.server &= !bit;
            }
        } else if let Some(older) = self
            .older
            .iter_mut()
            .find(|older| **older != 0 && **older >> 2 == half)
        {
            *older &= !sides;
            if *older & (CLIENT | SERVER) == 0 {
                *older = 0;
            }
        }
    }

    /// How many are open; `None` if there were too many old ones to know.
    pub(super) fn count(&self) -> Option<usize> {
        let older = self.older.iter().filter(|older| **older != 0).count();
        let recent = (self.client | self.server).count_ones() as usize;
        (!self.is_lost).then_some(recent + older)
    }
}

fn sides(client: bool, server: bool) -> u32 {
    let of = |can_send, side| if can_send { side } else { 0 };
    of(client, CLIENT) | of(server, SERVER)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{CLIENT, OLDER, SERVER, Streams, sides};

    /// The same with a map.
    #[derive(Default)]
    struct Model(BTreeMap<u32, u32>);

    impl Model {
        fn clear(&mut self, stream: u32, sides: u32) {
            if let Some(open) = self.0.get_mut(&stream) {
                *open &= !sides;
                if *open == 0 {
                    self.0.remove(&stream);
                }
            }
        }
    }

    #[test]
    fn streams_are_those_of_a_map() {
        let mut random = 1_u64;
        let mut next = move |below: u32| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as u32 % below
        };
        let (mut streams, mut model, mut last) = (Streams::default(), Model::default(), 0_u32);
        let mut most = 0;
        for _ in 0..200_000 {
            // Some of the oldest, which have no bit any more.
            let any = match next(4) {
                0 => model.0.keys().nth(next(OLDER as u32 + 8) as usize).copied(),
                _ => Some(last.saturating_sub(next(300))),
            };
            let any = any.unwrap_or(last);
            match next(8) {
                0..3 if model.0.len() < 40 => {
                    let oldest_kept = model.0.keys().filter(|id| **id + 250 < last).count();
                    let by = 1 + if next(50) == 0 { next(400) } else { next(2) };
                    let stream = (last + by) | 1;
                    let falls_out = model.0.keys().filter(|id| **id + 250 < stream).count();
                    if oldest_kept.max(falls_out) > OLDER || stream == last {
                        continue;
                    }
                    assert!(streams.open(stream));
                    model.0.insert(stream, CLIENT | SERVER);
                    last = stream;
                }
                0..3 => assert!(!streams.open(any), "not a new one"),
                3..7 => {
                    let from_client = next(2) == 0;
                    streams.end(any, from_client);
                    model.clear(any, sides(from_client, !from_client));
                }
                _ => {
                    streams.reset(any);
                    model.clear(any, CLIENT | SERVER);
                }
            }
            assert_eq!(streams.count(), Some(model.0.len()));
            most = most.max(model.0.len());
        }
        assert!(most > 20, "{most}");
    }

    #[test]
    fn count_is_unknown_once_too_many_outlive_those_after_them() {
        let mut streams = Streams::default();
        for place in 0..128 + OLDER as u32 {
            assert!(streams.open(2 * place + 1));
        }
        assert_eq!(streams.count(), Some(128 + OLDER));
        streams.open(2 * (128 + OLDER as u32) + 1);
        assert_eq!(streams.count(), None);
    }

    #[test]
    fn last_possible_stream_is_tracked_and_streams_of_a_server_are_not() {
        let mut streams = Streams::default();
        assert!(streams.open(1));
        assert!(!streams.open(2));
        assert!(streams.open((1 << 31) - 1));
        assert_eq!(streams.count(), Some(2));
        streams.reset(2);
        streams.reset(1);
        streams.end((1 << 31) - 1, true);
        assert_eq!(streams.count(), Some(1));
        streams.end((1 << 31) - 1, false);
        assert_eq!(streams.count(), Some(0));
    }
}
