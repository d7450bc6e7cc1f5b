//! Reads the methods in an encoded `google.protobuf.FileDescriptorSet`.

use crate::rpc::MethodKind;

/// All methods of all services, each as `pkg.Svc/Method`, and which sides of it stream; `None` if the bytes
/// are malformed.
pub(super) fn methods(encoded: &[u8]) -> Option<Vec<(String, Option<MethodKind>)>> {
    let mut methods = Vec::new();
    for file in fields(encoded) {
        let (1, Value::Bytes(file)) = file? else {
            continue;
        };
        let package = text(file, 2)?.unwrap_or_default();
        for service in fields(file) {
            let (6, Value::Bytes(service)) = service? else {
                continue;
            };
            let name = text(service, 1)?.unwrap_or_default();
            let dot = if package.is_empty() { "" } else { "." };
            for method in fields(service) {
                let (2, Value::Bytes(method)) = method? else {
                    continue;
                };
                let kind = MethodKind::new(is_set(method, 5)?, is_set(method, 6)?);
                let method = text(method, 1)?.unwrap_or_default();
                methods.push((format!("{package}{dot}{name}/{method}"), Some(kind)));
            }
        }
    }
    Some(methods)
}

/// What a field of an encoded message holds.
#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed length.
    Other,
}

/// The fields of an encoded message, with their numbers; an item is `None` if the message is broken off
/// or malformed there.
fn fields(message: &[u8]) -> impl Iterator<Item = Option<(u64, Value<'_>)>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field)
    })
}

/// Takes the next field: its number, and what it holds.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = varint(rest)?;
    let length = match tag & 7 {
        0 => return Some((tag >> 3, Value::Number(varint(rest)?))),
        1 => 8,
        2 => usize::try_from(varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((
        tag >> 3,
        match tag & 7 {
            2 => Value::Bytes(bytes),
            _ => Value::Other,
        },
    ))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The text of a field, the last if it is there twice; `Some(None)` if it is missing.
fn text(message: &[u8], number: u64) -> Option<Option<&str>> {
    let mut last = None;
    for field in fields(message) {
        if let (found, Value::Bytes(bytes)) = field?
            && found == number
        {
            last = Some(std::str::from_utf8(bytes).ok()?);
        }
    }
    Some(last)
}

/// Whether a flag is set; `None` if the message is malformed.
fn is_set(message: &[u8], number: u64) -> Option<bool> {
    let mut set = false;
    for field in fields(message) {
        if let (found, Value::Number(value)) = field?
            && found == number
        {
            set = value != 0;
        }
    }
    Some(set)
}
