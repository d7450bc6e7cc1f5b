//! What a reverse proxy says of the request that it received.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use http::{HeaderMap, HeaderName, header::FORWARDED, uri::Authority};

use super::address::HOST_NAME;

static PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How many parameters of `Forwarded` are looked at.
const PARAMETERS: usize = 64;

/// The request as the outermost proxy received it, as far as the headers say and what they say is
/// valid.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Forwarded {
    /// `http` or `https`.
    pub(super) scheme: Option<&'static str>,
    pub(super) host: Option<Authority>,
    pub(super) client: Option<IpAddr>,
}

impl Forwarded {
    /// Each of the three is looked up on its own, in `Forwarded` first.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let [proto, host, client] = parameters(headers).map(|value| value.and_then(unquoted));
        let or_header = |name| first(headers, name);
        Self {
            scheme: proto
                .and_then(|proto| scheme(&proto))
                .or_else(|| scheme(or_header(&PROTO)?)),
            host: host
                .and_then(|host| authority(&host))
                .or_else(|| authority(or_header(&HOST)?)),
            client: client
                .and_then(|client| address(&client))
                .or_else(|| address(or_header(&FOR)?)),
        }
    }
}

/// The first member of a list in a header.
fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let list = headers.get(name)?.to_str().ok()?;
    list.split(',').next().map(str::trim)
}

/// The first `proto`, `host` and `for` in the `Forwarded` headers ([RFC 7239]), as they are written.
/// Each proxy adds its element at the end, so the first is of the proxy nearest to the client.
///
/// [RFC 7239]: https://www.rfc-editor.org/rfc/rfc7239#section-4
fn parameters(headers: &HeaderMap) -> [Option<&str>; 3] {
    let mut found = [None; 3];
    let [proto, host, client] = &mut found;
    let lists = headers.get_all(FORWARDED).iter();
    let lists = lists.map_while(|list| list.to_str().ok());
    for pair in lists.flat_map(pairs).take(PARAMETERS) {
        let Some((name, value)) = pair.split_once('=') else {
            continue;
        };
        let name = name.trim();
        let place = match name.len() {
            5 if name.eq_ignore_ascii_case("proto") => &mut *proto,
            4 if name.eq_ignore_ascii_case("host") => &mut *host,
            3 if name.eq_ignore_ascii_case("for") => &mut *client,
            _ => continue,
        };
        place.get_or_insert(value.trim());
    }
    found
}

/// The pairs of all elements of a list: what `,` and `;` separate outside of quotes.
fn pairs(list: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    list.split(move |character| {
        if escaped {
            escaped = false;
            return false;
        }
        match character {
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' | ';' => return !quoted,
            _ => {}
        }
        false
    })
}

/// A token, or what a quoted string says.
fn unquoted(value: &str) -> Option<Cow<'_, str>> {
    let Some(rest) = value.strip_prefix('"') else {
        return Some(value.into());
    };
    let inner = rest.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(inner.into());
    }
    let mut characters = inner.chars();
    let mut text = String::new();
    // Longer than any value that is valid.
    while let Some(character) = characters.next().filter(|_| text.len() <= LONGEST) {
        match character {
            '\\' => text.push(characters.next()?),
            other => text.push(other),
        }
    }
    Some(text.into())
}

/// A host's name and its port.
const LONGEST: usize = HOST_NAME + ":65535".len();

fn scheme(text: &str) -> Option<&'static str> {
    let known = ["http", "https"];
    known.into_iter().find(|s| text.eq_ignore_ascii_case(s))
}

/// A host as a name or an address, with or without a port.
fn authority(text: &str) -> Option<Authority> {
    if text.len() > LONGEST {
        return None;
    }
    let authority = Authority::try_from(text).ok()?;
    let host = authority.host();
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
        None => {
            let fits = (1..=HOST_NAME).contains(&host.len());
            let is_of_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            fits && host.bytes().all(is_of_name)
        }
    };
    // A user before the host, and a port that is no number, are not.
    let has_no_more = match authority.as_str().strip_prefix(host)? {
        "" => true,
        _ => authority.port_u16().is_some(),
    };
    (is_host && has_no_more).then_some(authority)
}

/// The address of a node: with or without a port, and that of IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (address, rest) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            (address.parse::<Ipv6Addr>().ok()?.into(), rest)
        }
        None => {
            let (address, _) = text.split_once(':')?;
            let rest = text.strip_prefix(address)?;
            (address.parse::<Ipv4Addr>().ok()?.into(), rest)
        }
    };
    let is_of_port = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    // The port may have a made-up name.
    let is_whole = match rest.strip_prefix(':') {
        Some(port) => !port.is_empty() && port.bytes().all(is_of_port),
        None => rest.is_empty(),
    };
    is_whole.then_some(address)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::Forwarded;

    /// Scheme, host and client.
    fn read(headers: &[(&'static str, &str)]) -> [Option<String>; 3] {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            map.append(HeaderName::from_static(name), value);
        }
        let forwarded = Forwarded::read(&map);
        [
            forwarded.scheme.map(str::to_owned),
            forwarded.host.map(|host| host.to_string()),
            forwarded.client.map(|client| client.to_string()),
        ]
    }

    fn some(found: [&str; 3]) -> [Option<String>; 3] {
        found.map(|text| (!text.is_empty()).then(|| text.to_owned()))
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_says() {
        for (value, expected) in [
            (
                "for=192.0.2.60;proto=https;by=203.0.113.43;host=shop.example",
                ["https", "shop.example", "192.0.2.60"],
            ),
            (
                "For=\"[2001:db8:cafe::17]:4711\"",
                ["", "", "2001:db8:cafe::17"],
            ),
            ("for=\"[2001:db8::1]\"", ["", "", "2001:db8::1"]),
            ("for=\"192.0.2.1:_gazonk\"", ["", "", "192.0.2.1"]),
            (
                "PROTO=HTTPS;Host=\"shop.example:8443\"",
                ["https", "shop.example:8443", ""],
            ),
            ("host=\"[2001:db8::1]:80\"", ["", "[2001:db8::1]:80", ""]),
            // The first element that has it.
            (
                "for=192.0.2.43, for=198.51.100.17;proto=http;host=a, proto=https;host=b",
                ["http", "a", "192.0.2.43"],
            ),
            // What is quoted separates nothing.
            (
                "by=\"a,for=1.1.1.1;\\\"proto=http\";proto=https",
                ["https", "", ""],
            ),
            ("host=\"sh\\op.example\"", ["", "shop.example", ""]),
            (
                " for = 192.0.2.1 ; proto = https ",
                ["https", "", "192.0.2.1"],
            ),
            (",;,;proto=https", ["https", "", ""]),
            // What is not valid.
            ("for=unknown;proto=ws;host=\"a b\"", ["", "", ""]),
            ("for=_hidden;proto=;host=", ["", "", ""]),
            ("for=unknown, for=192.0.2.1", ["", "", ""]),
            ("for=\"192.0.2.1", ["", "", ""]),
            ("for=\"", ["", "", ""]),
            ("host=\"a\\", ["", "", ""]),
            ("host=user:secret@shop.example", ["", "", ""]),
            ("host=shop.example:port", ["", "", ""]),
            ("host=shop.example:99999", ["", "", ""]),
            ("host=\"shop.example/path?x\"", ["", "", ""]),
            ("host=\"[::1\"", ["", "", ""]),
            ("host=\":80\"", ["", "", ""]),
            ("host=\"<script>\"", ["", "", ""]),
            ("for=1.2.3;proto=httpss", ["", "", ""]),
            ("for=\"[192.0.2.1]\"", ["", "", ""]),
            ("for=\"[::1]x\"", ["", "", ""]),
            ("for=\"192.0.2.1:\"", ["", "", ""]),
            ("proto", ["", "", ""]),
            ("", ["", "", ""]),
            ("proto=https;é", ["", "", ""]),
        ] {
            assert_eq!(read(&[("forwarded", value)]), some(expected), "{value}");
        }
    }

    #[test]
    fn x_forwarded_headers_are_read_where_forwarded_does_not_say() {
        let proxied = [
            ("x-forwarded-proto", "https, http"),
            ("x-forwarded-host", "shop.example, inner.example"),
            ("x-forwarded-for", "2001:db8::1, 10.0.0.1"),
        ];
        assert_eq!(
            read(&proxied),
            some(["https", "shop.example", "2001:db8::1"])
        );
        let both = |forwarded| {
            let mut all = proxied.to_vec();
            all.push(("forwarded", forwarded));
            read(&all)
        };
        assert_eq!(
            both("proto=http;host=a.example;for=192.0.2.1"),
            some(["http", "a.example", "192.0.2.1"])
        );
        let rest = some(["https", "shop.example", "192.0.2.1"]);
        assert_eq!(both("for=192.0.2.1"), rest);
        assert_eq!(both("for=192.0.2.1;proto=gopher"), rest);
        for (value, client) in [
            ("192.0.2.1:4711", "192.0.2.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("unknown, 192.0.2.1", ""),
            ("fe80::1%eth0", ""),
            ("", ""),
        ] {
            assert_eq!(read(&[("x-forwarded-for", value)]), some(["", "", client]));
        }
        // The first header of several.
        let twice = [
            ("x-forwarded-proto", "http"),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(read(&twice), some(["http", "", ""]));
    }

    #[test]
    fn what_is_long_is_not_read() {
        let host = |length: usize| format!("host={}", "a".repeat(length));
        assert!(read(&[("forwarded", &host(255))])[1].is_some());
        assert_eq!(read(&[("forwarded", &host(256))]), some([""; 3]));
        assert_eq!(read(&[("forwarded", &host(60_000))]), some([""; 3]));
        let escaped = format!("host=\"{}\"", "\\a".repeat(60_000));
        assert_eq!(read(&[("forwarded", &escaped)]), some([""; 3]));
        let pairs = |n: usize| format!("{}proto=https", "by=a;".repeat(n));
        assert_eq!(read(&[("forwarded", &pairs(63))]), some(["https", "", ""]));
        assert_eq!(read(&[("forwarded", &pairs(64))]), some([""; 3]));
        assert_eq!(read(&[("forwarded", &"\"".repeat(60_001))]), some([""; 3]));
    }
}
