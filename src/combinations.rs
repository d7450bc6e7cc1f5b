//! Bounds on the labels that users make.

use std::{
    collections::HashSet,
    sync::{PoisonError, RwLock},
};

use crate::text::bounded;

/// How many bytes of a label's value are kept.
const VALUE: usize = 128;

/// How many combinations of values a tracer keeps apart unless configured otherwise.
const COMBINATIONS: usize = 1000;

/// The combinations of values that a tracer has seen. Only the first ones get a series.
#[derive(Debug)]
pub(crate) struct Combinations {
    most: usize,
    seen: RwLock<HashSet<Box<str>>>,
}

impl Default for Combinations {
    fn default() -> Self {
        Self::new(COMBINATIONS)
    }
}

impl Combinations {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            seen: RwLock::default(),
        }
    }

    /// Whether this combination has a series: it is one of the first.
    pub(crate) fn admits(&self, combination: &str) -> bool {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(combination) {
            return true;
        }
        if seen.len() >= self.most {
            return false;
        }
        drop(seen);
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        // Another RPC may have come first.
        if seen.len() < self.most {
            seen.insert(combination.into());
        }
        seen.contains(combination)
    }
}

/// A value as a label has it: at most 128 bytes.
pub(crate) fn value(text: &str) -> &str {
    bounded(text, VALUE)
}

#[cfg(test)]
mod tests {
    use super::{Combinations, value};

    #[test]
    fn only_the_first_combinations_get_a_series() {
        let combinations = Combinations::new(2);
        assert!(combinations.admits("a") && combinations.admits("b"));
        assert!(!combinations.admits("c"));
        assert!(combinations.admits("a") && combinations.admits("b"));
        assert!(!Combinations::new(0).admits("a"));
    }

    #[test]
    fn values_are_cut_where_a_character_ends() {
        assert_eq!(value("short"), "short");
        let long = "ü".repeat(100);
        assert_eq!(value(&long), "ü".repeat(64));
        assert_eq!(value(&format!("x{long}")).len(), 127);
    }
}
