use std::{
    cell::Cell, collections::hash_map::RandomState, hash::BuildHasher as _, num::NonZeroU64,
};

use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

thread_local! {
    /// The draw of the declined RPC whose code runs.
    static DECLINED: Cell<Option<SampleKey>> = const { Cell::new(None) };
    /// The state of this thread's random numbers; 0 until the first is made.
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// A random number that an RPC and all RPCs under it share, for samplers: 1 to 2⁵³.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SampleKey(NonZeroU64);

impl SampleKey {
    /// The draw that code under a declined RPC inherits: such an RPC has no record to keep it.
    #[inline]
    pub(crate) fn of_declined() -> Option<Self> {
        DECLINED.try_with(Cell::get).ok().flatten()
    }

    /// A fresh one.
    pub(crate) fn new() -> Self {
        let bits = random() >> 11;
        Self(NonZeroU64::MIN.saturating_add(bits))
    }

    /// From 0 up to, and without, 1.
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits are what an f64 holds exactly"
    )]
    pub(crate) fn as_f64(self) -> f64 {
        const STEPS: f64 = (1_u64 << 53) as f64;
        (self.0.get() - 1) as f64 / STEPS
    }

    /// Runs code of a declined RPC, so that RPCs under it inherit its draw.
    pub(crate) fn enter<R>(self, f: impl FnOnce() -> R) -> R {
        let outer = DECLINED.try_with(|declined| declined.replace(Some(self)));
        let _entered = Entered(outer.ok().flatten());
        f()
    }
}

struct Entered(Option<SampleKey>);

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = DECLINED.try_with(|declined| declined.set(self.0));
    }
}

/// A draw that is made when first asked for.
#[derive(Debug, Default)]
pub(crate) struct LazySampleKey(AtomicU64);

impl LazySampleKey {
    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> SampleKey) -> SampleKey {
        let made = match NonZeroU64::new(self.0.load(Relaxed)) {
            Some(drawn) => return SampleKey(drawn),
            None => make(),
        };
        let exchanged = self.0.compare_exchange(0, made.0.get(), Relaxed, Relaxed);
        let first = exchanged.err().and_then(NonZeroU64::new);
        first.map_or(made, SampleKey)
    }
}

/// SplitMix64, which passes the usual tests of randomness; seeded by the system for each thread.
fn random() -> u64 {
    let seed = || RandomState::new().hash_one(0);
    let Ok(state) = RANDOM.try_with(|random| {
        let state = match random.get() {
            0 => seed(),
            state => state,
        };
        let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        random.set(state);
        state
    }) else {
        return seed();
    };
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::{LazySampleKey, SampleKey};

    #[test]
    #[cfg_attr(miri, ignore = "Miri would take minutes for so many bytes")]
    fn draws_fill_the_range_evenly() {
        let mut buckets = [0_u32; 10];
        for _ in 0..100_000 {
            let draw = SampleKey::new().as_f64();
            assert!((0.0..1.0).contains(&draw));
            buckets[(draw * 10.0) as usize] += 1;
        }
        // Ten standard deviations of 95 around the 10 000 expected.
        assert!(
            buckets.iter().all(|n| (9_050..=10_950).contains(n)),
            "{buckets:?}"
        );
    }

    #[test]
    fn the_first_draw_stays() {
        let lazy = LazySampleKey::default();
        let first = lazy.get_or_init(SampleKey::new);
        assert_eq!(lazy.get_or_init(|| unreachable!()), first);
    }

    #[test]
    fn a_declined_draw_is_inherited_within_and_gone_after() {
        let (outer, inner) = (SampleKey::new(), SampleKey::new());
        assert_eq!(SampleKey::of_declined(), None);
        outer.enter(|| {
            inner.enter(|| assert_eq!(SampleKey::of_declined(), Some(inner)));
            assert_eq!(SampleKey::of_declined(), Some(outer));
        });
        assert_eq!(SampleKey::of_declined(), None);
    }
}
