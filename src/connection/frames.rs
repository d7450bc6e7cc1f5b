//! What a connection's HTTP/2 frames say.

use std::time::Duration;

use crate::Role;

/// Figures of HTTP/2.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct H2Figures {}

pub(super) struct Frames {}

impl Frames {
    pub(super) fn new(_: Role) -> Self {
        Self {}
    }

    pub(super) fn received(&mut self, _: &[u8], _: Option<Duration>) {}

    pub(super) fn sent(&mut self, _: &[u8], _: Option<Duration>) {}

    pub(super) fn figures(&self) -> Option<H2Figures> {
        None
    }
}
