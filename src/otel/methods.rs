//! Which methods are known, and what is prebuilt for each.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::series::{Key, Series, UNDECIDED};
use crate::{
    RpcInfo,
    method_names::{Learned, OTHER},
    methods::KnownMethods,
    name_hasher::BuildNameHasher,
};

/// How many series one tracer keeps, which is also where the SDK stops: methods by sides, protocols
/// and addresses.
const MOST: usize = 2000;

/// The methods of one tracer.
#[derive(Debug, Default)]
pub(super) struct Methods {
    /// Where there is a list, no other method is known, but for those of generated clients.
    listed: Option<KnownMethods>,
    learned: Learned<()>,
    table: RwLock<Table>,
}

/// By method; of each, one for each side, protocol and address it was seen with.
#[derive(Debug, Default)]
struct Table {
    series: HashMap<&'static str, Vec<Arc<Series>>, BuildNameHasher>,
    count: usize,
}

impl Table {
    fn find(&self, name: &str, key: &Key<'_>) -> Option<Arc<Series>> {
        let series = self.series.get(name)?.iter().find(|s| s.is_for(key))?;
        Some(Arc::clone(series))
    }

    /// Under which name and key a series is kept that is not there yet: where the table is full, one
    /// for each side and protocol takes the rest.
    fn place<'a>(&self, name: &'a str, key: Key<'a>) -> (&'a str, Key<'a>) {
        match self.count < MOST {
            true => (name, key),
            false => (OTHER, key.without_address()),
        }
    }
}

impl Methods {
    pub(super) fn list(&mut self, known: KnownMethods) {
        self.listed = Some(known);
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The series of an RPC that starts; `generated` is the method as generated code names it.
    pub(super) fn of<'a>(
        &self,
        rpc: &'a RpcInfo,
        generated: impl FnOnce() -> Option<&'a str>,
        key: Key<'_>,
        make: &dyn Fn(&'static str, Key<'_>) -> Series,
    ) -> Arc<Series> {
        // What is in the table is the name of a method, so the path's form need not be looked
        // at first.
        let name = rpc
            .path()
            .strip_prefix('/')
            .filter(|name| *name != UNDECIDED);
        let known = name.and_then(|name| {
            let table = self.read();
            let (known, series) = table.series.get_key_value(name)?;
            let series = series.iter().find(|series| series.is_for(&key));
            Some((*known, series.map(Arc::clone)))
        });
        let name = match known {
            Some((_, Some(series))) => return series,
            Some((known, None)) => known,
            None => match (generated(), &self.listed) {
                (Some(method), _) => method,
                (None, Some(listed)) => listed.find(rpc.path()).unwrap_or(OTHER),
                (None, None) if rpc.full_method().is_some() => UNDECIDED,
                (None, None) => OTHER,
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
        let known = method.filter(|method| answered && self.learned.learn(method).is_some());
        self.series(known.unwrap_or(OTHER), key, make)
    }

    fn series(
        &self,
        name: &str,
        key: Key<'_>,
        make: &dyn Fn(&'static str, Key<'_>) -> Series,
    ) -> Arc<Series> {
        let table = self.read();
        let (place, its_key) = table.place(name, key);
        let found = table.find(name, &key);
        if let Some(series) = found.or_else(|| table.find(place, &its_key)) {
            return series;
        }
        drop(table);
        let mut table = self.write();
        let (name, key) = table.place(name, key);
        if let Some(series) = table.find(name, &key) {
            return series;
        }
        let name = intern(name);
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
