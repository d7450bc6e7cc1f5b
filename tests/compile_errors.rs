//! Compile errors name the mistake. Each program in `compile_errors/` says which error it gets, where its
//! caret points, and which note helps.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

/// Checks all programs as a user's crate, with the feature that one of them needs.
fn check(root: &Path) -> Output {
    let package = root.join("target/compile_errors");
    let bins = package.join("src/bin");
    fs::create_dir_all(&bins).unwrap();
    for program in fs::read_dir(root.join("tests/compile_errors")).unwrap() {
        let program = program.unwrap();
        fs::copy(program.path(), bins.join(program.file_name())).unwrap();
    }
    let manifest = format!(
        "[package]\nname = \"compile_errors\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
         [dependencies]\nhttp = \"1\"\ntower = {{ version = \"0.5\", features = [\"util\"] }}\n\
         tower-tracer = {{ path = {root:?}, default-features = false, features = [\"otel\"] }}\n"
    );
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    // The versions that are here already, so that nothing is loaded.
    let _ = fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock"));
    Command::new(env!("CARGO"))
        .args([
            "check",
            "--bins",
            "--keep-going",
            "--message-format",
            "json",
        ])
        .current_dir(&package)
        .output()
        .unwrap()
}

/// What follows `// key: ` in the program.
fn wanted<'a>(program: &'a str, key: &str) -> &'a str {
    let mut lines = program.lines();
    let found = lines.find_map(|line| {
        line.strip_prefix("// ")?
            .strip_prefix(key)?
            .strip_prefix(": ")
    });
    found.unwrap_or_else(|| panic!("no {key} in {program}"))
}

#[test]
fn a_compile_error_points_at_the_mistake() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = check(root);
    let told = String::from_utf8_lossy(&output.stderr);
    let messages: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut programs = 0;
    for program in fs::read_dir(root.join("tests/compile_errors")).unwrap() {
        let path = program.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let program = fs::read_to_string(&path).unwrap();
        let mut errors = messages.iter().filter(|message| {
            message["target"]["name"] == name && message["message"]["level"] == "error"
        });
        let error = errors
            .next()
            .unwrap_or_else(|| panic!("{name} compiles: {told}"));
        assert!(errors.next().is_none(), "{name} has another error: {told}");
        let error = &error["message"];
        let rendered = error["rendered"].as_str().unwrap();
        for (said, key) in [(&error["message"], "error"), (&error["rendered"], "note")] {
            let wanted = wanted(&program, key);
            assert!(
                said.as_str().unwrap().contains(wanted),
                "{wanted}:\n{rendered}"
            );
        }
        let spans = error["spans"].as_array().unwrap();
        let span = spans
            .iter()
            .find(|span| span["is_primary"] == true)
            .unwrap();
        let [from, to] = ["byte_start", "byte_end"].map(|at| span[at].as_u64().unwrap() as usize);
        assert_eq!(&program[from..to], wanted(&program, "at"), "\n{rendered}");
        programs += 1;
    }
    assert_eq!(programs, 7);
}
