//! Labels that a user adds.

use ::metrics::Label;

use super::MetricsTracer;
use crate::{
    RpcInfo,
    combinations::{Combinations, value},
    method_names::OTHER,
    panics::contain,
};

type Values = dyn Fn(&RpcInfo) -> Vec<String> + Send + Sync;

/// Their names, and what finds their values.
#[derive(Default)]
pub(super) struct Labels {
    all: Vec<(Vec<&'static str>, Box<Values>)>,
    combinations: Combinations,
}

impl Labels {
    pub(super) fn add<V: IntoIterator<Item = String>>(
        &mut self,
        names: Vec<&'static str>,
        values: impl Fn(&RpcInfo) -> V + Send + Sync + 'static,
    ) {
        let values: Box<Values> = Box::new(move |rpc| values(rpc).into_iter().collect());
        self.all.push((names, values));
    }

    pub(super) fn limit(&mut self, most: usize) {
        self.combinations = Combinations::new(most);
    }

    /// The labels of an RPC that is over, and one text of all their values.
    pub(super) fn of(&self, rpc: &RpcInfo) -> (String, Vec<Label>) {
        let mut labels = Vec::new();
        for (names, values) in &self.all {
            let values = contain::<MetricsTracer, _>("labels", || values(rpc));
            let mut values = values.unwrap_or_default().into_iter();
            for name in names {
                let found = values.next().unwrap_or_default();
                labels.push(Label::new(*name, value(&found).to_owned()));
            }
        }
        let combination = text_of(&labels);
        if self.combinations.admits(&combination) {
            return (combination, labels);
        }
        let others = labels
            .iter()
            .map(|label| Label::new(label.key().to_owned(), OTHER));
        let others: Vec<_> = others.collect();
        (text_of(&others), others)
    }
}

fn text_of(labels: &[Label]) -> String {
    let values: Vec<_> = labels.iter().map(Label::value).collect();
    values.join("\0")
}
