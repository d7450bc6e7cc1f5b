//! Which methods are known, and what is prebuilt for each.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::series::{Key, Series};
use crate::{
    RpcInfo,
    tracers::{
        KnownMethods,
        known::{LEARNED, OTHER},
        name_hasher::BuildNameHasher,
    },
};

/// Of a method that may turn out to be known when its RPC ends.
pub(super) const UNDECIDED: &str = "";

/// How many series one tracer keeps, which is also where the SDK stops: methods by sides, protocols
/// and addresses.
const MOST: usize = 2000;

/// The methods of one tracer.
#[derive(Debug, Default)]
pub(super) struct Methods {
    /// Where there is a list, no other method is known, but for those of generated clients.
    listed: Option<KnownMethods>,
    table: RwLock<Table>,
    learned: AtomicUsize,
}

/// By method; of each, one for each side, protocol and address it was seen with.
#[derive(Debug, Default)]
struct Table {
    series: HashMap<&'static str, Vec<Arc<Series>>, BuildNameHasher>,
    count: usize,
}

impl Methods {
    pub(super) fn list(&mut self, known: KnownMethods) {
        self.listed = Some(known);
    }

    /// The series of an RPC that starts; `generated` where generated code named the method.
    pub(super) fn of(
        &self,
        rpc: &RpcInfo,
        generated: impl FnOnce() -> bool,
        key: Key<'_>,
        make: &dyn Fn(&'static str, Key<'_>) -> Series,
    ) -> Arc<Series> {
        // What stands in the table is the name of a method, so the path's form need not be looked
        // at first.
        let name = rpc
            .path()
            .strip_prefix('/')
            .filter(|name| *name != UNDECIDED);
        let known = name.and_then(|name| {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            let (known, series) = table.series.get_key_value(name)?;
            let series = series.iter().find(|series| series.is_for(&key));
            Some((*known, series.map(Arc::clone)))
        });
        let name = match known {
            Some((_, Some(series))) => return series,
            Some((known, None)) => known,
            None => match (rpc.full_method(), &self.listed) {
                (None, _) => OTHER,
                (Some(method), _) if generated() => intern(method),
                (Some(method), Some(listed)) if listed.contains(method) => intern(method),
                (Some(_), Some(_)) => OTHER,
                (Some(_), None) => UNDECIDED,
            },
        };
        self.series(name, key, make)
    }

    /// The series of an RPC whose method was undecided, once it has ended: `answered` where
    /// something answered that cannot have done so for a method that does not exist.
    pub(super) fn decide(
        &self,
        method: Option<&str>,
        answered: bool,
        key: Key<'_>,
        make: &dyn Fn(&'static str, Key<'_>) -> Series,
    ) -> Arc<Series> {
        let Some(method) = method.filter(|_| answered) else {
            return self.series(OTHER, key, make);
        };
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let known = table.series.contains_key(method);
        drop(table);
        if !known && self.learned.fetch_add(1, Ordering::Relaxed) >= LEARNED {
            // Back, so that it does not wrap.
            self.learned.store(LEARNED, Ordering::Relaxed);
            return self.series(OTHER, key, make);
        }
        self.series(intern(method), key, make)
    }

    fn series(
        &self,
        name: &'static str,
        key: Key<'_>,
        make: &dyn Fn(&'static str, Key<'_>) -> Series,
    ) -> Arc<Series> {
        let found = |table: &Table, name, key: &Key<'_>| {
            let series = table.series.get(name)?.iter().find(|s| s.is_for(key))?;
            Some(Arc::clone(series))
        };
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = found(&table, name, &key) {
            return series;
        }
        drop(table);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let (name, key) = if table.count < MOST {
            (name, key)
        } else {
            // Full: from here on one series for each side and protocol takes the rest.
            (OTHER, key.without_address())
        };
        if let Some(series) = found(&table, name, &key) {
            return series;
        }
        let series = Arc::new(make(name, key));
        table.count += 1;
        let of_name = table.series.entry(name).or_default();
        of_name.push(Arc::clone(&series));
        series
    }
}

/// The same text for as long as the process runs, so that names and attributes are copied without
/// an allocation. Only names of known methods come here, a bounded number in each tracer.
fn intern(name: &str) -> &'static str {
    static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_default();
    if let Some(known) = names.get(name) {
        return known;
    }
    let name: &'static str = Box::leak(name.into());
    names.insert(name);
    name
}
