use http::Method;

/// The HTTP method of a request in a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HttpMethod(u8);

static STANDARD: [Method; 9] = [
    Method::POST,
    Method::GET,
    Method::HEAD,
    Method::PUT,
    Method::DELETE,
    Method::OPTIONS,
    Method::PATCH,
    Method::CONNECT,
    Method::TRACE,
];

impl HttpMethod {
    /// A custom method, which is kept in the rare fields.
    pub(crate) const OWN: Self = Self(u8::MAX);

    #[inline]
    pub(crate) fn new(method: &Method) -> Self {
        match *method {
            Method::POST => Self(0),
            Method::GET => Self(1),
            Method::HEAD => Self(2),
            Method::PUT => Self(3),
            Method::DELETE => Self(4),
            Method::OPTIONS => Self(5),
            Method::PATCH => Self(6),
            Method::CONNECT => Self(7),
            Method::TRACE => Self(8),
            _ => Self::OWN,
        }
    }

    /// The standard method.
    #[inline]
    pub(crate) fn get(self) -> Option<&'static Method> {
        STANDARD.get(usize::from(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::{HttpMethod, Method, STANDARD};

    #[test]
    fn standard_methods_are_distinct() {
        for method in &STANDARD {
            assert_eq!(HttpMethod::new(method).get(), Some(method));
        }
        let own = Method::from_bytes(b"PURGE").unwrap();
        assert_eq!(HttpMethod::new(&own), HttpMethod::OWN);
        assert_eq!(HttpMethod::OWN.get(), None);
    }
}
