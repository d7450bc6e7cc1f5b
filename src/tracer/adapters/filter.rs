use std::{error::Error, fmt, sync::Arc};

use crate::{
    rpc::{Level, RpcInfo, Scope},
    tracer::{Candidate, RequestParts, StreamEvent, Tracer},
};

/// Takes part in some RPCs only; made by [`Tracer::filter`] and [`Tracer::sample`].
#[derive(Clone)]
pub struct Filter<T, P> {
    inner: T,
    wanted: P,
}

impl<T, P> Filter<T, P> {
    pub(in crate::tracer) fn new(inner: T, wanted: P) -> Self {
        Self { inner, wanted }
    }
}

impl<T, P> Tracer for Filter<T, P>
where
    T: Tracer,
    P: Fn(&RequestParts<'_>) -> bool + Send + Sync + 'static,
{
    type State = T::State;

    inner! { start finish rest }

    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Self::State> {
        if !(self.wanted)(candidate.request()) {
            return None;
        }
        self.inner.try_start(candidate)
    }
}

impl<T: fmt::Debug, P> fmt::Debug for Filter<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// A ratio that is not from 0 to 1, given to [`Tracer::sample`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InvalidRatio(f64);

impl InvalidRatio {
    pub(in crate::tracer) fn check(ratio: f64) -> Result<(), Self> {
        // False for NaN too.
        if (0.0..=1.0).contains(&ratio) {
            Ok(())
        } else {
            Err(Self(ratio))
        }
    }
}

impl fmt::Display for InvalidRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a sampling ratio is a number from 0 to 1, not {}",
            self.0
        )
    }
}

impl Error for InvalidRatio {}
