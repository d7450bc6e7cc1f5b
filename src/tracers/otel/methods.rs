//! Which methods are known, and what is prebuilt for each.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::series::{Key, Series};

/// The label of a method that is not known.
pub(super) const OTHER: &str = "_OTHER";
/// Of a method that may turn out to be known when its RPC ends.
pub(super) const UNDECIDED: &str = "";

/// How many series one tracer keeps, which is also where the SDK stops: methods by sides, protocols
/// and addresses.
const MOST: usize = 2000;

/// How many methods become known by being answered: a service that answers to any name must not
/// take the SDK's room, since each of them has a series for each code.
const LEARNED: usize = 100;

/// The methods of one tracer.
#[derive(Debug, Default)]
pub(super) struct Methods {
    /// Where there is a list, no other method is known, but for those of generated clients.
    listed: Option<HashSet<Box<str>>>,
    table: RwLock<Table>,
    learned: AtomicUsize,
}

/// By method; of each, one for each side, protocol and address it was seen with.
#[derive(Debug, Default)]
struct Table {
    series: HashMap<&'static str, Vec<Arc<Series>>>,
    count: usize,
}

impl Methods {
    pub(super) fn list(&mut self, methods: impl IntoIterator<Item: Into<String>>) {
        let listed = self.listed.get_or_insert_default();
        for method in methods {
            let method: String = method.into();
            let method = method.strip_prefix('/').unwrap_or(&method);
            listed.insert(method.into());
        }
    }

    /// The series of an RPC that starts; `generated` where generated code named the method.
    pub(super) fn of(
        &self,
        method: Option<&str>,
        generated: bool,
        key: Key<'_>,
        make: &dyn Fn(&'static str, Key<'_>) -> Series,
    ) -> Arc<Series> {
        let Some(method) = method else {
            return self.series(OTHER, key, make);
        };
        let known = {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            match table.series.get_key_value(method) {
                None => None,
                Some((known, series)) => match series.iter().find(|s| s.is_for(&key)) {
                    Some(series) => return Arc::clone(series),
                    None => Some(*known),
                },
            }
        };
        let name = match (known, &self.listed) {
            (Some(known), _) => known,
            (None, _) if generated => intern(method),
            (None, Some(listed)) if listed.contains(method) => intern(method),
            (None, Some(_)) => OTHER,
            (None, None) => UNDECIDED,
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

/// The bytes given as a `FileDescriptorSet` are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidDescriptorSet(());

impl fmt::Display for InvalidDescriptorSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an encoded google.protobuf.FileDescriptorSet")
    }
}

impl std::error::Error for InvalidDescriptorSet {}

/// All methods of an encoded `FileDescriptorSet`, as `pkg.Svc/Method`.
pub(super) fn methods_of_descriptor_set(set: &[u8]) -> Result<Vec<String>, InvalidDescriptorSet> {
    // Field numbers of google/protobuf/descriptor.proto.
    let mut methods = Vec::new();
    for file in fields(set, 1)? {
        let package = text(file, 2)?;
        for service in fields(file, 6)? {
            let name = text(service, 1)?;
            let service_name = match &*package {
                "" => name,
                package => Cow::Owned(format!("{package}.{name}")),
            };
            for method in fields(service, 2)? {
                methods.push(format!("{service_name}/{}", text(method, 1)?));
            }
        }
    }
    Ok(methods)
}

/// The last value of a text field, empty where there is none.
fn text(message: &[u8], field: u64) -> Result<Cow<'_, str>, InvalidDescriptorSet> {
    let value = fields(message, field)?.pop().unwrap_or_default();
    let text = std::str::from_utf8(value).map_err(|_| InvalidDescriptorSet(()))?;
    Ok(Cow::Borrowed(text))
}

/// The values of one length-delimited field of a message.
fn fields(mut message: &[u8], field: u64) -> Result<Vec<&[u8]>, InvalidDescriptorSet> {
    let invalid = InvalidDescriptorSet(());
    let mut values = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message).ok_or(invalid)?;
        let length = match tag & 7 {
            0 => {
                varint(&mut message).ok_or(invalid)?;
                continue;
            }
            1 => 8,
            2 => varint(&mut message).ok_or(invalid)?,
            5 => 4,
            _ => return Err(invalid),
        };
        let length = usize::try_from(length).map_err(|_| invalid)?;
        let (value, rest) = message.split_at_checked(length).ok_or(invalid)?;
        if tag & 7 == 2 && tag >> 3 == field {
            values.push(value);
        }
        message = rest;
    }
    Ok(values)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::methods_of_descriptor_set;

    #[test]
    fn no_bytes_make_the_descriptor_reader_panic() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/echo");
        let set = protox::compile(["echo.proto"], [root]).unwrap();
        let set = prost::Message::encode_to_vec(&set);
        let methods = methods_of_descriptor_set(&set).unwrap();
        assert_eq!(methods.len(), 4, "{methods:?}");
        assert_eq!(methods[0], "echo.Echo/UnaryEcho");
        for end in 0..set.len() {
            let _ = methods_of_descriptor_set(&set[..end]);
        }
        for at in 0..set.len() {
            for byte in [0, 0x7f, 0x80, 0xff] {
                let mut garbled = set.clone();
                garbled[at] = byte;
                let _ = methods_of_descriptor_set(&garbled);
            }
        }
        assert!(
            methods_of_descriptor_set(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").is_err()
        );
        assert!(methods_of_descriptor_set(b"<html>").is_err());
        assert_eq!(methods_of_descriptor_set(b""), Ok(Vec::new()));
    }
}
