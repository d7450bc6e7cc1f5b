use std::fmt;

/// A gRPC status code, spelled as in [`tonic::Code`](https://docs.rs/tonic/latest/tonic/enum.Code.html).
///
/// The numbers and meanings are those of gRPC's
/// [status codes](https://grpc.io/docs/guides/status-codes/).
///
/// ```
/// use tower_tracer::Code;
///
/// assert_eq!(Code::from_header(b"5"), Some(Code::NotFound));
/// assert_eq!(Code::from_header(b"banana"), None);
/// assert_eq!(Code::DeadlineExceeded.as_str(), "DEADLINE_EXCEEDED");
/// assert_eq!(Code::DeadlineExceeded as u8, 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(
    missing_docs,
    reason = "gRPC's own names, described by gRPC's document"
)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// All seventeen codes, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code with this number; `None` if gRPC does not define it.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Reads the value of a `grpc-status` header or trailer: decimal digits without leading zeros,
    /// `None` for anything else.
    #[must_use]
    pub fn from_header(value: &[u8]) -> Option<Self> {
        let number = match *value {
            [digit @ b'0'..=b'9'] => digit - b'0',
            [b'1', digit @ b'0'..=b'9'] => 10 + (digit - b'0'),
            _ => return None,
        };
        Self::from_number(number.into())
    }

    /// The code's name in gRPC's spelling, such as `DEADLINE_EXCEEDED`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl From<tonic::Code> for Code {
    fn from(code: tonic::Code) -> Self {
        u32::try_from(i32::from(code))
            .ok()
            .and_then(Self::from_number)
            .unwrap_or(Self::Unknown)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl From<Code> for tonic::Code {
    fn from(code: Code) -> Self {
        Self::from_i32(code as i32)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl PartialEq<tonic::Code> for Code {
    fn eq(&self, code: &tonic::Code) -> bool {
        *self == Self::from(*code)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl PartialEq<Code> for tonic::Code {
    fn eq(&self, code: &Code) -> bool {
        code == self
    }
}

/// The outcome of an RPC as its protocol states it.
///
/// ```
/// use tower_tracer::{Code, Status};
///
/// assert!(Status::Grpc(Code::Ok).is_ok());
/// assert!(!Status::Http(404).is_ok());
/// assert!(Status::Grpc(Code::NotFound) == Code::NotFound);
/// assert_eq!(Status::Grpc(Code::NotFound).to_string(), "NOT_FOUND");
/// assert_eq!(Status::Http(404).to_string(), "404");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// A gRPC code; also for gRPC-Web and Connect, which use the same codes.
    Grpc(Code),
    /// The HTTP status of a plain HTTP exchange.
    Http(u16),
}

impl Status {
    /// The gRPC code OK.
    pub const OK: Self = Self::Grpc(Code::Ok);

    /// Whether this is a success: the code OK, or an HTTP status below 400.
    #[must_use]
    pub const fn is_ok(self) -> bool {
        match self {
            Self::Grpc(code) => matches!(code, Code::Ok),
            Self::Http(status) => status < 400,
        }
    }

    /// The gRPC code, `None` for an HTTP status.
    #[must_use]
    pub const fn code(self) -> Option<Code> {
        match self {
            Self::Grpc(code) => Some(code),
            Self::Http(_) => None,
        }
    }

    /// Into one word for an atomic; 0 means none.
    pub(crate) const fn pack(status: Option<Self>) -> u32 {
        match status {
            None => 0,
            Some(Self::Grpc(code)) => 0x1_0000 | code as u32,
            Some(Self::Http(status)) => 0x2_0000 | status as u32,
        }
    }

    pub(crate) fn unpack(word: u32) -> Option<Self> {
        let value = word & 0xffff;
        match word >> 16 {
            1 => Code::from_number(value).map(Self::Grpc),
            2 => u16::try_from(value).ok().map(Self::Http),
            _ => None,
        }
    }
}

impl From<Code> for Status {
    fn from(code: Code) -> Self {
        Self::Grpc(code)
    }
}

/// Whether it is this gRPC code.
impl PartialEq<Code> for Status {
    fn eq(&self, code: &Code) -> bool {
        self.code() == Some(*code)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl From<tonic::Code> for Status {
    fn from(code: tonic::Code) -> Self {
        Self::Grpc(code.into())
    }
}

/// Whether it is this gRPC code.
#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl PartialEq<tonic::Code> for Status {
    fn eq(&self, code: &tonic::Code) -> bool {
        *self == Code::from(*code)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl PartialEq<Status> for tonic::Code {
    fn eq(&self, status: &Status) -> bool {
        status == self
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grpc(code) => code.fmt(f),
            Self::Http(status) => status.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Status};

    #[test]
    fn numbers_names_and_header_values_agree() {
        for (number, code) in (0u32..).zip(Code::ALL) {
            assert_eq!(code as u32, number);
            assert_eq!(Code::from_number(number), Some(code));
            assert_eq!(Code::from_header(number.to_string().as_bytes()), Some(code));
            assert_eq!(
                Status::unpack(Status::pack(Some(code.into()))),
                Some(code.into())
            );
        }
        assert_eq!(Code::from_number(17), None);
        assert_eq!(Status::unpack(Status::pack(None)), None);
        assert_eq!(
            Status::unpack(Status::pack(Some(Status::Http(503)))),
            Some(Status::Http(503))
        );
    }

    #[test]
    fn anything_but_plain_decimal_is_not_a_code() {
        let long = [b'1'; 4096];
        for value in [
            &b""[..],
            b"00",
            b"05",
            b"17",
            b"99",
            b"-1",
            b"+1",
            b" 1",
            b"1 ",
            b"banana",
            b"1.0",
            b"\xff",
            &long,
        ] {
            assert_eq!(Code::from_header(value), None, "{value:?}");
        }
    }
}
