use std::{borrow::Cow, fmt};

use super::Status;

/// How an RPC came to its end, as the layer saw it. What its status was is another matter: see
/// [`Stats::status`](crate::Stats::status).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Ending {
    /// The response's trailers passed.
    Trailers = 1,
    /// The response had headers only, which for gRPC carry the status.
    HeadersOnly,
    /// The response's body came to its end without trailers. Over plain HTTP it may also be dropped
    /// there: after as many bytes as its header told of, or its own size hint.
    BodyEnd,
    /// The layer was told that the RPC is over with the response itself: a response without a
    /// body, or one of a type of the user's own.
    Response,
    /// The inner service returned an error instead of a response.
    ServiceError,
    /// The response's body failed.
    BodyError,
    /// The peer reset the stream.
    Reset,
    /// The response was dropped before its end: on a client by the caller, on a server because the
    /// caller cancelled or is gone.
    Cancelled,
    /// A timeout ended it: the error says so, or it was dropped when its deadline had passed.
    Deadline,
    /// The inner service panicked, in the call, in a poll of its future or of its body.
    Panic,
}

impl Ending {
    const ALL: [Self; 10] = [
        Self::Trailers,
        Self::HeadersOnly,
        Self::BodyEnd,
        Self::Response,
        Self::ServiceError,
        Self::BodyError,
        Self::Reset,
        Self::Cancelled,
        Self::Deadline,
        Self::Panic,
    ];

    /// A short name, such as `trailers` or `cancelled`; one of ten, so fit for a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trailers => "trailers",
            Self::HeadersOnly => "headers_only",
            Self::BodyEnd => "body_end",
            Self::Response => "response",
            Self::ServiceError => "service_error",
            Self::BodyError => "body_error",
            Self::Reset => "reset",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
            Self::Panic => "panic",
        }
    }

    pub(super) fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value).checked_sub(1)?).copied()
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How an RPC ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome<'a> {
    pub(crate) ending: Ending,
    pub(crate) status: Option<Status>,
    pub(crate) wire_status: Option<Status>,
    /// A status that is not a code.
    pub(crate) raw_status: Option<Cow<'a, [u8]>>,
    pub(crate) error: Option<Cow<'a, str>>,
    pub(crate) panic: Option<&'a str>,
}

impl Outcome<'_> {
    pub(crate) fn new(ending: Ending) -> Self {
        Self {
            ending,
            status: None,
            wire_status: None,
            raw_status: None,
            error: None,
            panic: None,
        }
    }
}
