//! Encoded descriptor sets: what prost can decode has the same methods and kinds.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tower_tracer::methods::KnownMethods;

fuzz_target!(|data: &[u8]| {
    let known = KnownMethods::from_descriptor_set(data);
    let (Ok(known), Ok(set)) = (known, FileDescriptorSet::decode(data)) else {
        return;
    };
    let mut expected = BTreeMap::new();
    for file in &set.file {
        for service in &file.service {
            let dot = if file.package().is_empty() { "" } else { "." };
            for method in &service.method {
                let name = format!(
                    "{}{dot}{}/{}",
                    file.package(),
                    service.name(),
                    method.name()
                );
                let name = name
                    .strip_prefix('/')
                    .map(ToOwned::to_owned)
                    .unwrap_or(name);
                let streams = [method.client_streaming(), method.server_streaming()];
                expected.insert(name, streams);
            }
        }
    }
    let seen: BTreeMap<_, _> = known
        .iter()
        .map(|name| {
            let kind = known.kind(name).expect("a descriptor says it");
            (
                name.to_owned(),
                [kind.client_streams(), kind.server_streams()],
            )
        })
        .collect();
    assert_eq!(seen, expected);
});
