//! Reads the methods in an encoded `google.protobuf.FileDescriptorSet`.

/// All methods of all services, each as `pkg.Svc/Method`; `None` if the bytes are malformed.
pub(super) fn methods(encoded: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for file in fields(encoded) {
        let (1, file) = file? else { continue };
        let package = text(file, 2)?.unwrap_or_default();
        for service in fields(file) {
            let (6, service) = service? else { continue };
            let name = text(service, 1)?.unwrap_or_default();
            let dot = if package.is_empty() { "" } else { "." };
            for method in fields(service) {
                let (2, method) = method? else { continue };
                let method = text(method, 1)?.unwrap_or_default();
                names.push(format!("{package}{dot}{name}/{method}"));
            }
        }
    }
    Some(names)
}

/// The fields of an encoded message that hold bytes, with their numbers; an item is `None` if the
/// message is cut off or malformed.
fn fields(message: &[u8]) -> impl Iterator<Item = Option<(u64, &[u8])>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            match field(&mut rest) {
                Some((number, Some(bytes))) => return Some(Some((number, bytes))),
                Some((_, None)) => {}
                None => {
                    rest = &[];
                    return Some(None);
                }
            }
        }
        None
    })
}

/// Takes the next field: its number, and its bytes if it has some.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let tag = varint(rest)?;
    let length = match tag & 7 {
        0 => {
            varint(rest)?;
            return Some((tag >> 3, None));
        }
        1 => 8,
        2 => usize::try_from(varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((tag >> 3, (tag & 7 == 2).then_some(bytes)))
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

/// The text of a field; `Some(None)` if it is missing.
fn text(message: &[u8], number: u64) -> Option<Option<&str>> {
    for field in fields(message) {
        let (found, bytes) = field?;
        if found == number {
            return Some(Some(std::str::from_utf8(bytes).ok()?));
        }
    }
    Some(None)
}
