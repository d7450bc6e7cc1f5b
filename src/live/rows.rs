use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use http::Method;

use crate::{
    Role, RpcInfo, live::format::visible, method_names::OTHER, name_hasher::NameHasher,
    rpc::Protocol,
};

/// How many rows the table has: a method on one side is a row.
pub(super) const ROWS: usize = 256;

/// How many of them may belong to methods that were never answered. A peer that sends other names all
/// the time fills these and no more.
const UNANSWERED: usize = ROWS / 2;

/// Places of the table, four for each row, and how many of them are tried for a name.
const PLACES: usize = 4 * ROWS;
const TRIES: usize = 32;

/// Longer paths name no row.
const LONGEST: usize = 257;

/// A method on one side.
#[derive(Debug)]
pub(super) struct Row {
    index: u32,
    pub(super) role: Role,
    /// Of plain HTTP, which has no method names.
    verb: Option<Method>,
    path: Box<str>,
    pub(super) name: Box<str>,
    answered: AtomicBool,
}

impl Row {
    /// Whether the name holds a path of plain HTTP, which may have secrets in it.
    pub(super) fn is_http(&self) -> bool {
        self.verb.is_some()
    }

    /// The name for a reader who may see figures and no more.
    pub(super) fn public_name(&self) -> &str {
        match &self.verb {
            Some(verb) => verb.as_str(),
            None => &self.name,
        }
    }

    fn is(&self, role: Role, verb: Option<&Method>, path: &str) -> bool {
        let same_verb = match (&self.verb, verb) {
            (None, None) => true,
            (known, verb) => known.as_ref() == verb,
        };
        self.role == role && *self.path == *path && same_verb
    }
}

/// The rows by name. Finding one takes no lock; rows are added and never removed.
pub(super) struct Rows {
    seed: u64,
    places: Box<[OnceLock<Arc<Row>>]>,
    rows: Box<[OnceLock<Arc<Row>>]>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    rows: usize,
    unanswered: usize,
}

impl Rows {
    pub(super) fn new() -> Self {
        let all = Self {
            seed: RandomState::new().build_hasher().finish(),
            places: (0..PLACES).map(|_| OnceLock::new()).collect(),
            rows: (0..ROWS).map(|_| OnceLock::new()).collect(),
            counts: Mutex::default(),
        };
        for role in [Role::Client, Role::Server] {
            all.add(role, None, "", OTHER, true);
        }
        all
    }

    pub(super) fn get(&self, index: u32) -> Option<&Row> {
        self.rows.get(index as usize)?.get().map(|row| &**row)
    }

    /// The row of an RPC that starts. That of all other methods, if there is no more room.
    #[inline]
    pub(super) fn of(&self, rpc: &RpcInfo) -> u32 {
        let (role, path) = (rpc.role(), rpc.path());
        let verb = match rpc.protocol() {
            Protocol::Http => rpc.http_method(),
            _ => None,
        };
        self.find(role, verb, path)
            .or_else(|| self.make(rpc, verb, false))
            .unwrap_or(Self::other(role))
    }

    /// The RPC was answered with OK or a message, so its method exists: it gets a row even where names that were
    /// never answered have used up theirs.
    #[inline]
    pub(super) fn answered(&self, row: u32, rpc: &RpcInfo) {
        if let Some(row) = self.get(row)
            && !row.answered.load(Relaxed)
        {
            self.set_answered(row);
        } else if row == Self::other(rpc.role()) && rpc.protocol() != Protocol::Http {
            let _ = self.make(rpc, None, true);
        }
    }

    fn other(role: Role) -> u32 {
        match role {
            Role::Client => 0,
            Role::Server => 1,
        }
    }

    #[inline]
    fn find(&self, role: Role, verb: Option<&Method>, path: &str) -> Option<u32> {
        if path.len() > LONGEST {
            return None;
        }
        for place in self.places_of(role, path) {
            let row = place.get()?;
            if row.is(role, verb, path) {
                return Some(row.index);
            }
        }
        None
    }

    #[inline]
    fn places_of(&self, role: Role, path: &str) -> impl Iterator<Item = &OnceLock<Arc<Row>>> {
        let mut hasher = NameHasher::default();
        hasher.mix(self.seed ^ role as u64);
        hasher.write(path.as_bytes());
        let first = hasher.finish() as usize;
        let tries = (0..TRIES).map(move |step| first.wrapping_add(step) % PLACES);
        tries.filter_map(|place| self.places.get(place))
    }

    #[cold]
    fn make(&self, rpc: &RpcInfo, verb: Option<&Method>, answered: bool) -> Option<u32> {
        let path = rpc.path();
        if path.len() > LONGEST {
            return None;
        }
        let name = match verb {
            Some(verb) => format!("{verb:.16} {}", visible(path, 120)),
            None => rpc.full_method()?.to_owned(),
        };
        self.add(rpc.role(), verb, path, &name, answered)
    }

    fn add(
        &self,
        role: Role,
        verb: Option<&Method>,
        path: &str,
        name: &str,
        answered: bool,
    ) -> Option<u32> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // Another RPC may have come first.
        if let Some(index) = self.find(role, verb, path) {
            return Some(index);
        }
        if counts.rows >= ROWS || (!answered && counts.unanswered >= UNANSWERED) {
            return None;
        }
        let place = self.places_of(role, path).find(|p| p.get().is_none())?;
        let index = u32::try_from(counts.rows).ok()?;
        let row = Arc::new(Row {
            index,
            role,
            verb: verb.cloned(),
            path: path.into(),
            name: name.into(),
            answered: answered.into(),
        });
        self.rows.get(counts.rows)?.get_or_init(|| Arc::clone(&row));
        place.get_or_init(|| row);
        counts.rows += 1;
        counts.unanswered += usize::from(!answered);
        Some(index)
    }

    #[cold]
    fn set_answered(&self, row: &Row) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // Paths of plain HTTP have numbers and names in them: they never use up the rows of methods.
        if !row.answered.swap(true, Relaxed) && !row.is_http() {
            counts.unanswered = counts.unanswered.saturating_sub(1);
        }
    }
}
