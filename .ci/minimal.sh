#!/usr/bin/env bash
# Checks the crate with the lowest versions that Cargo.toml allows of what it depends on directly:
# `bash .ci/minimal.sh`. It needs a nightly Rust, and is skipped without one.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
    echo "no nightly Rust is installed: the lowest versions are not checked"
    exit 0
fi

copy=$(bash .ci/alone.sh minimal/crate)
cd "$copy"
rm Cargo.lock
cargo +nightly update --quiet -Z direct-minimal-versions
cargo tree --all-features --depth 1 --edges normal --prefix none | sort -u
# What old macros generate has warnings.
RUSTFLAGS=-Awarnings cargo check --quiet --all-features --target-dir ../target
echo "the lowest versions compile"
