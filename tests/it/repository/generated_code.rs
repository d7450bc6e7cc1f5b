//! The checked-in generated code is what the proto files give.

use std::{
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;

#[test]
fn the_echo_code_is_what_its_proto_file_gives() {
    compare("examples/echo/echo.proto", "echo.rs");
}

#[test]
fn the_interop_code_is_what_its_proto_file_gives() {
    compare("tests/interop/testing.proto", "grpc.testing.rs");
}

/// In a browser tonic has neither a transport nor a server.
#[test]
fn the_echo_code_for_browsers_is_what_its_proto_file_gives() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    fs::create_dir_all(&out).unwrap();
    let builder = tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false);
    compile("examples/echo/echo.proto", builder, &out);
    compare_file(&out.join("echo.rs"), "tests/foreign/wasm/generated.rs");
}

/// Generates the code of `proto` again, as the file `made`, and compares it with the `generated.rs`
/// beside the proto file.
#[track_caller]
fn compare(proto: &str, made: &str) {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let encoded = compile(proto, tonic_prost_build::configure(), out);

    let set = in_project(proto).with_file_name("descriptors.bin");
    if set.exists() {
        if std::env::var_os("BLESS").is_some() {
            fs::write(&set, &encoded).unwrap();
        }
        let set_is_same = fs::read(&set).unwrap() == encoded;
        assert!(set_is_same, "{} is out of date", set.display());
    }
    let checked_in = Path::new(proto).with_file_name("generated.rs");
    compare_file(&out.join(made), checked_in.to_str().unwrap());
}

fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Generates the code of `proto` into a folder, and gives its descriptors.
fn compile(proto: &str, builder: tonic_prost_build::Builder, out: &Path) -> Vec<u8> {
    let proto = in_project(proto);
    let descriptors = protox::compile([&proto], proto.parent()).unwrap();
    let encoded = descriptors.encode_to_vec();
    builder.out_dir(out).compile_fds(descriptors).unwrap();
    encoded
}

#[track_caller]
fn compare_file(made: &Path, checked_in: &str) {
    let made = fs::read_to_string(made).unwrap();
    let checked_in = in_project(checked_in);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&checked_in, &made).unwrap();
    }
    let expected = fs::read_to_string(&checked_in).unwrap();
    assert!(
        made == expected,
        "{} is out of date: run this test again with BLESS=1",
        checked_in.display()
    );
}
