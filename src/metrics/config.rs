//! The settings of a `MetricsTracer`.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use ::metrics::{Label, Recorder};

use super::{
    BothRoles, Generated, OfRole,
    labels::Labels,
    names::{Family, Names},
    registry::Registry,
};
use crate::{
    Role, RpcInfo, method_names::Learned, methods::KnownMethods, name_hasher::BuildNameHasher,
};

/// Counts and measures RPCs; see the [module](super).
pub struct MetricsTracer {
    pub(super) registry: Registry,
    /// By name; given by the user.
    pub(super) known: HashMap<Box<str>, BothRoles, BuildNameHasher>,
    /// If there is a list, no other method is known, but for those of generated clients.
    pub(super) listed: Option<KnownMethods>,
    pub(super) learned: Learned<Arc<BothRoles>>,
    /// Whether the listed methods have their series.
    pub(super) prepared: OfRole<OnceLock<()>>,
    pub(super) unknown: BothRoles,
    /// Made when the first of them is called.
    pub(super) generated: OnceLock<Box<[OnceLock<Generated>]>>,
    pub(super) labels: Option<Labels>,
}

impl MetricsTracer {
    /// A tracer on the recorder that is installed globally. It knows the methods of generated clients,
    /// and learns up to 100 others when they are first answered, with OK or a message; until then a
    /// call is in flight as `_OTHER`, and is counted as started when it is over.
    #[must_use]
    pub fn new() -> Self {
        Self {
            registry: Registry::default(),
            known: HashMap::default(),
            listed: None,
            learned: Learned::default(),
            prepared: OfRole::default(),
            unknown: BothRoles::default(),
            generated: OnceLock::new(),
            labels: None,
        }
    }

    /// Records to this recorder instead of the global one.
    #[must_use]
    pub fn recorder(mut self, recorder: impl Recorder + Send + Sync + 'static) -> Self {
        self.registry.recorder = Some(Box::new(recorder));
        self.restart().prepare_server()
    }

    /// The methods to name besides those of generated clients: on a server, those it serves. Then no
    /// others are learned.
    ///
    /// Their counters exist at 0 before the first call, since `increase()` in Prometheus does not see
    /// the first event of a series that begins with it: those of a server as soon as there is a
    /// recorder, those of a client at its first RPC. `rpc_handled_total` has every code with the
    /// endings `trailers` and `headers_only`, and `cancelled`, `deadline` and `panic` with their codes.
    /// With [labels of your own](Self::labels), `rpc_handled_total` starts with its first RPC.
    ///
    /// Set names, prefix and labels before: these series have what is configured by then.
    #[must_use]
    pub fn methods(mut self, known: KnownMethods) -> Self {
        self.listed = Some(known);
        self.restart().prepare_server()
    }

    /// Chooses the names of families and labels.
    ///
    /// ```
    /// use tower_tracer::metrics::{MetricsTracer, Names};
    ///
    /// // For boards that were made for go-grpc-prometheus.
    /// let tracer = MetricsTracer::new().names(Names::GrpcPrometheus);
    /// assert_eq!(tracer.duration_names(), ["grpc_client_handling_seconds", "grpc_server_handling_seconds"]);
    /// ```
    #[must_use]
    pub fn names(mut self, names: Names) -> Self {
        self.registry.names = names;
        self.restart()
    }

    /// Puts this before the name of each family, such as `shop_`.
    ///
    /// # Panics
    ///
    /// If it has characters that Prometheus does not allow: it takes letters, digits, `_` and `:`, and no
    /// digit first.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        assert!(
            is_name(prefix, ":"),
            "{prefix:?} cannot begin a metric's name: letters, digits, `_` and `:`, no digit first"
        );
        prefix.clone_into(&mut self.registry.prefix);
        self.restart()
    }

    /// Labels that all series have, such as the region.
    ///
    /// # Panics
    ///
    /// If a name has characters that Prometheus does not allow: it takes letters, digits and `_`, and no
    /// digit first.
    ///
    /// ```
    /// use tower_tracer::metrics::MetricsTracer;
    ///
    /// let tracer = MetricsTracer::new().constant_labels([("region", "eu-1")]);
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn constant_labels<'a>(
        mut self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        for (name, value) in labels {
            assert_label(name);
            let label = Label::new(name.to_owned(), value.to_owned());
            self.registry.constant.push(label);
        }
        self.restart()
    }

    /// Leaves families out, by their names, with the prefix. Set names and prefix first.
    ///
    /// # Panics
    ///
    /// If there is no family of this name.
    ///
    /// ```
    /// use tower_tracer::metrics::MetricsTracer;
    ///
    /// let tracer = MetricsTracer::new()
    ///     .without(["rpc_sent_message_bytes_total", "rpc_received_message_bytes_total"]);
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn without<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let all = self.family_names(Family::ALL);
        for name in names {
            assert!(
                all.iter().any(|known| known == name),
                "{name:?} is not a family of this tracer, which has {all:?}"
            );
            self.registry.off.push(name.to_owned());
        }
        self.restart()
    }

    /// Adds labels of your own to the families of RPCs that are over: all but `rpc_started_total` and
    /// `rpc_in_flight`. The function gets the record at the end, and says a value for each name; what it
    /// leaves out is empty.
    ///
    /// Each combination of values is a time series, so a value that a caller chooses lets the caller make
    /// series. They are bounded: a value is cut to 128 bytes, and after 1000 combinations
    /// ([or as many as you say](Self::label_combinations)) all values of a further one are `_OTHER`. A
    /// panic of the function is contained and counted.
    ///
    /// # Panics
    ///
    /// If a name has characters that Prometheus does not allow: it takes letters, digits and `_`, and no
    /// digit first.
    ///
    /// ```
    /// use tower_tracer::metrics::MetricsTracer;
    ///
    /// let tracer = MetricsTracer::new()
    ///     .labels(["retried"], |rpc| [(rpc.attempt() > 1).to_string()]);
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn labels<V: IntoIterator<Item = String>>(
        mut self,
        names: impl IntoIterator<Item = &'static str>,
        values: impl Fn(&RpcInfo) -> V + Send + Sync + 'static,
    ) -> Self {
        let names: Vec<_> = names.into_iter().collect();
        names.iter().for_each(|name| assert_label(name));
        self.labels.get_or_insert_default().add(names, values);
        self
    }

    /// Adds these [tags](RpcInfo::set_tag) of the record as labels, bounded in the same way. A tag that an
    /// RPC does not have is empty.
    ///
    /// # Panics
    ///
    /// If a name has characters that Prometheus does not allow.
    ///
    /// ```
    /// use tower_tracer::{RpcInfo, metrics::MetricsTracer};
    ///
    /// let tracer = MetricsTracer::new().tag_labels(["tenant"]);
    /// // In a handler:
    /// if let Some(rpc) = RpcInfo::current() {
    ///     rpc.set_tag("tenant", "blue");
    /// }
    /// # let _ = tracer;
    /// ```
    #[must_use]
    pub fn tag_labels(self, tags: impl IntoIterator<Item = &'static str>) -> Self {
        let tags: Vec<_> = tags.into_iter().collect();
        let names = tags.clone();
        self.labels(names, move |rpc| {
            let value = |tag: &&'static str| rpc.tag(tag).unwrap_or_default().into_owned();
            tags.iter().map(value).collect::<Vec<_>>()
        })
    }

    /// How many combinations of the values of [`labels`](Self::labels) and
    /// [`tag_labels`](Self::tag_labels) have series of their own: 1000 by default.
    #[must_use]
    pub fn label_combinations(mut self, most: usize) -> Self {
        self.labels.get_or_insert_default().limit(most);
        self
    }

    /// The names of the histograms of durations, for an exporter that is to have
    /// [buckets](super::DURATION_BUCKETS) for them; see the [module](super#buckets).
    #[must_use]
    pub fn duration_names(&self) -> Vec<String> {
        self.family_names(&[Family::Duration])
    }

    fn family_names(&self, families: &[Family]) -> Vec<String> {
        let sides = [Role::Client, Role::Server];
        let mut names: Vec<_> = families
            .iter()
            .flat_map(|family| sides.map(|role| self.registry.name(*family, role)))
            .flatten()
            .collect();
        names.dedup();
        names
    }

    fn prepare_server(self) -> Self {
        if self.listed.is_some() && self.registry.is_ready() {
            self.prepare(Role::Server);
        }
        self
    }

    /// Forgets the handles that were made before a setting: they have other names.
    fn restart(mut self) -> Self {
        let methods = self.listed.iter().flat_map(KnownMethods::iter);
        self.known = methods
            .map(|name| (name.into(), BothRoles::default()))
            .collect();
        self.registry.described = OnceLock::new();
        self.registry.installed = OnceLock::new();
        self.prepared = OfRole::default();
        self.unknown = BothRoles::default();
        self.generated = OnceLock::new();
        self
    }
}

fn assert_label(name: &str) {
    assert!(
        is_name(name, "") && !name.starts_with("__"),
        "{name:?} is not the name of a label: letters, digits and `_`, no digit first"
    );
}

/// Whether Prometheus takes a text in a name, which may have these characters too.
fn is_name(text: &str, more: &str) -> bool {
    let may_have = |c: char| c.is_ascii_alphanumeric() || c == '_' || more.contains(c);
    !text.is_empty()
        && text.chars().all(may_have)
        && !text.starts_with(|c: char| c.is_ascii_digit())
}

impl Default for MetricsTracer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MetricsTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsTracer")
            .field("names", &self.registry.names)
            .field("prefix", &self.registry.prefix)
            .field("methods", &self.known.keys())
            .finish_non_exhaustive()
    }
}
