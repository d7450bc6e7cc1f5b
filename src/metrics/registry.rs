//! Where handles come from.

use std::sync::OnceLock;

use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, with_recorder};

use super::names::{Family, Names, Shape};
use crate::Role;

const METADATA: Metadata<'static> =
    Metadata::new("tower_tracer", Level::INFO, Some("tower_tracer"));

/// The recorder, and what is configured of the series.
#[derive(Default)]
pub(super) struct Registry {
    pub(super) names: Names,
    pub(super) prefix: String,
    /// Labels of all series.
    pub(super) constant: Vec<Label>,
    /// The whole names of families that are off.
    pub(super) off: Vec<String>,
    pub(super) recorder: Option<Box<dyn Recorder + Send + Sync>>,
    pub(super) described: OnceLock<()>,
    pub(super) installed: OnceLock<()>,
}

impl Registry {
    /// Whether there is a recorder. The facade's stand-in is a static without a size. An installed
    /// recorder without a size is in a box without memory, whose address is its alignment.
    pub(super) fn is_ready(&self) -> bool {
        if self.recorder.is_some() || self.installed.get().is_some() {
            return true;
        }
        let found = with_recorder(|recorder| {
            let address = std::ptr::from_ref(recorder).cast::<()>().addr();
            size_of_val(recorder) > 0 || address <= align_of_val(recorder)
        });
        if found {
            self.installed.get_or_init(|| ());
        }
        found
    }

    pub(super) fn counter(&self, family: Family, role: Role, labels: &[Label]) -> Counter {
        match self.key(family, role, labels) {
            Some(key) => self.with(|recorder| recorder.register_counter(&key, &METADATA)),
            None => Counter::noop(),
        }
    }

    pub(super) fn gauge(&self, family: Family, role: Role, labels: &[Label]) -> Gauge {
        match self.key(family, role, labels) {
            Some(key) => self.with(|recorder| recorder.register_gauge(&key, &METADATA)),
            None => Gauge::noop(),
        }
    }

    pub(super) fn histogram(&self, family: Family, role: Role, labels: &[Label]) -> Histogram {
        match self.key(family, role, labels) {
            Some(key) => self.with(|recorder| recorder.register_histogram(&key, &METADATA)),
            None => Histogram::noop(),
        }
    }

    /// The whole name of a family; `None` if it is off.
    pub(super) fn name(&self, family: Family, role: Role) -> Option<String> {
        let name = format!("{}{}", self.prefix, self.names.of(family, role)?);
        (!self.off.contains(&name)).then_some(name)
    }

    fn key(&self, family: Family, role: Role, labels: &[Label]) -> Option<Key> {
        let labels = [&self.constant, labels].concat();
        Some(Key::from_parts(self.name(family, role)?, labels))
    }

    fn describe(&self, recorder: &dyn Recorder) {
        let mut described = Vec::new();
        for family in Family::ALL.iter().copied() {
            for role in [Role::Client, Role::Server] {
                let Some(name) = self.name(family, role) else {
                    continue;
                };
                if described.contains(&name) {
                    continue;
                }
                described.push(name.clone());
                let (name, unit, help) = (name.into(), Some(family.unit()), family.help().into());
                match family.shape() {
                    Shape::Gauge => recorder.describe_gauge(name, unit, help),
                    Shape::Histogram => recorder.describe_histogram(name, unit, help),
                    Shape::Counter => recorder.describe_counter(name, unit, help),
                }
            }
        }
    }

    /// Runs `f` on the recorder, which has the descriptions of the metrics.
    fn with<R>(&self, f: impl FnOnce(&dyn Recorder) -> R) -> R {
        let on = |recorder: &dyn Recorder| {
            self.described.get_or_init(|| self.describe(recorder));
            f(recorder)
        };
        match &self.recorder {
            Some(recorder) => on(&**recorder),
            None => with_recorder(on),
        }
    }
}
