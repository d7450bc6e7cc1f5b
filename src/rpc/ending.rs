use std::{borrow::Cow, fmt};

use super::Status;

/// Declares the endings, so that none can be left out of [`Ending::ALL`].
macro_rules! endings {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// How an RPC ended, as the layer saw it. Its status is a separate matter: see
        /// [`Stats::status`](crate::Stats::status).
        ///
        /// ```
        /// use tower_tracer::Ending;
        ///
        /// let names = Ending::ALL.map(Ending::as_str);
        /// assert!(names.contains(&"trailers") && names.contains(&"cancelled"));
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Ending {
            $($(#[$doc])* $name,)*
        }

        impl Ending {
            /// All endings, in the order of their declaration.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$name),*];

            /// A short name, such as `trailers` or `cancelled`. There is a fixed number of them, so
            /// it can be a label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

endings! {
    /// The response's trailers passed.
    Trailers = "trailers",
    /// The response had only headers. For gRPC they carry the status.
    HeadersOnly = "headers_only",
    /// The response's body ended without trailers. Over plain HTTP it can also be dropped at its end:
    /// after as many bytes as its `content-length`, or its own size hint, announced.
    BodyEnd = "body_end",
    /// The RPC was over with the response itself: a response without a body, or one of a custom type.
    Response = "response",
    /// The inner service returned an error instead of a response.
    ServiceError = "service_error",
    /// The response's body failed.
    BodyError = "body_error",
    /// The peer reset the stream.
    Reset = "reset",
    /// The response was dropped before its end: on a client by the caller, on a server because the
    /// caller cancelled or is gone.
    Cancelled = "cancelled",
    /// A timeout ended it: the error says so, or it was dropped after its deadline.
    Deadline = "deadline",
    /// The inner service panicked, in the call, in a poll of its future or of its body.
    Panic = "panic",
}

/// The names that labels have: of all endings, and one more.
#[cfg(feature = "live")]
pub(crate) const LABELS: [&str; Ending::ALL.len() + 1] = {
    let mut labels = [WITH_PARENT; Ending::ALL.len() + 1];
    let mut at = 0;
    while at < Ending::ALL.len() {
        labels[at] = Ending::ALL[at].as_str();
        at += 1;
    }
    labels
};

/// The label of a call that was cancelled with its parent.
#[cfg(any(
    feature = "live",
    feature = "metrics",
    feature = "prometheus",
    feature = "tracing"
))]
pub(crate) const WITH_PARENT: &str = "cancelled_with_parent";

impl Ending {
    /// Into one byte for an atomic. 0 means none.
    #[inline]
    pub(super) const fn pack(self) -> u8 {
        self as u8 + 1
    }

    pub(super) fn unpack(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte).checked_sub(1)?).copied()
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
