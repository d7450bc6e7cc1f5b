# Daily commands. `just` lists them.

_default:
    @just --list

# Lints everything: seconds after the first time
check:
    cargo fmt --check
    cargo clippy --all-features --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc -p tower-tracer --all-features --no-deps

# Runs all tests that need nothing but Rust
test:
    cargo test --all-features

# Compares what layers cost, within one run
bench:
    cargo bench --bench overhead

# Runs the crate against programs that others wrote
e2e:
    for script in tests/foreign/*.sh; do bash "$script" || exit 1; done

# Runs each fuzz target for a while: `just fuzz 60` for a minute each
fuzz seconds="10":
    bash .ci/fuzz.sh {{ seconds }}

# Tries what threads share in each order of steps
models:
    cargo run --release --manifest-path models/Cargo.toml --target-dir target/models

# All that has to pass
ci:
    bash .ci/run
