//! The checked-in generated code is what the proto files give.

use std::{fs, path::Path};

use prost::Message as _;

#[test]
fn the_echo_code_is_what_its_proto_file_gives() {
    compare("examples/echo/echo.proto", "echo.rs");
}

#[test]
fn the_interop_code_is_what_its_proto_file_gives() {
    compare("tests/interop/testing.proto", "grpc.testing.rs");
}

/// Generates the code of `proto` again, as the file `made`, and compares it with the `generated.rs`
/// beside the proto file.
#[track_caller]
fn compare(proto: &str, made: &str) {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(proto);
    let checked_in = proto.with_file_name("generated.rs");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"));

    let descriptors = protox::compile([&proto], proto.parent()).unwrap();
    let encoded = descriptors.encode_to_vec();
    tonic_prost_build::configure()
        .out_dir(out)
        .compile_fds(descriptors)
        .unwrap();
    let made = fs::read_to_string(out.join(made)).unwrap();

    let set = proto.with_file_name("descriptors.bin");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&checked_in, &made).unwrap();
        if set.exists() {
            fs::write(&set, &encoded).unwrap();
        }
    }
    if set.exists() {
        let set_is_same = fs::read(&set).unwrap() == encoded;
        assert!(set_is_same, "{} is out of date", set.display());
    }
    let expected = fs::read_to_string(&checked_in).unwrap();
    assert!(
        made == expected,
        "{} is out of date: run this test again with BLESS=1",
        checked_in.display()
    );
}
