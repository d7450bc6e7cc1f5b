#!/usr/bin/env bash
# Copies the crate alone to target/NAME and prints the path: `bash .ci/alone.sh NAME`. The copy has no packages
# beside it and no dependencies of tests, which would take most of the time or need newer versions.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=${CARGO_TARGET_DIR:-$PWD/target}/$1
mkdir -p "$copy"
rm -rf "$copy/src"
cp -r src README.md "$copy"
awk '
    /^\[/ { left_out = $0 == "[dev-dependencies]" }
    /^(members|default-members|exclude) = / { next }
    !left_out
' Cargo.toml >"$copy/Cargo.toml"
cp Cargo.lock "$copy"
echo "$copy"
