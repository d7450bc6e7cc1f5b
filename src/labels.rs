//! What the tracers of metrics have in common: the label of the code.

use std::borrow::Cow;

use http::StatusCode;

use crate::{Status, method_names::OTHER};

/// The code of an RPC that is over, as a label has it.
pub(crate) fn code(status: Option<Status>) -> Cow<'static, str> {
    match status {
        Some(Status::Grpc(code)) => code.as_str().into(),
        Some(Status::Http(status)) if registered(status) => status.to_string().into(),
        Some(Status::Http(_)) => OTHER.into(),
        None => "none".into(),
    }
}

/// Whether an HTTP status is one that is registered, and no peer's invention.
pub(crate) fn registered(status: u16) -> bool {
    let status = StatusCode::from_u16(status);
    status.is_ok_and(|status| status.canonical_reason().is_some())
}
