//! The Echo service's generated code is what its proto file gives.

use std::{fs, path::Path};

#[test]
fn the_checked_in_code_is_what_the_proto_file_gives() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = root.join("examples/echo/echo.proto");
    let checked_in = root.join("examples/echo/generated.rs");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"));

    let descriptors = protox::compile([&proto], [root.join("examples/echo")]).unwrap();
    tonic_prost_build::configure()
        .out_dir(out)
        .compile_fds(descriptors)
        .unwrap();
    let made = fs::read_to_string(out.join("echo.rs")).unwrap();

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
