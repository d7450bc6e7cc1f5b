use std::borrow::Cow;

use http::HeaderMap;

use super::grpc;
use crate::rpc::{Code, Protocol};

/// A status as the peer sent it: in headers, in trailers, or in the JSON of Connect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WireStatus<'a> {
    /// `None` if what was sent is not a code.
    pub(crate) code: Option<Code>,
    /// What was sent for a code.
    pub(crate) raw: Cow<'a, [u8]>,
    /// The text of an error.
    pub(crate) message: Option<Cow<'a, str>>,
}

impl<'a> WireStatus<'a> {
    pub(crate) const OK: Self = Self {
        code: Some(Code::Ok),
        raw: Cow::Borrowed(b"0"),
        message: None,
    };

    /// Reads the status in headers or trailers, which only gRPC has there.
    pub(crate) fn in_headers(protocol: Protocol, headers: &'a HeaderMap) -> Option<Self> {
        let raw = grpc::status(headers).filter(|_| protocol.is_grpc())?;
        let code = Code::from_header(raw.as_bytes());
        Some(Self {
            code,
            raw: Cow::Borrowed(raw.as_bytes()),
            message: (code != Some(Code::Ok))
                .then(|| grpc::message(headers))
                .flatten(),
        })
    }
}
