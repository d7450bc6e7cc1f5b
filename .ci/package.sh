#!/usr/bin/env bash
# Checks what `cargo package` has packed: the crate's files alone, and few bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
files=$(cargo package --locked --allow-dirty --list -p tower-tracer)
if grep -vE '^(src/.*|(README|CHANGELOG)\.md|LICENSE|Cargo\.(toml|toml\.orig|lock)|\.cargo_vcs_info\.json)$' <<<"$files"; then
    echo "these files do not belong into the package"
    exit 1
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
crate=${CARGO_TARGET_DIR:-target}/package/tower-tracer-$version.crate
size=$(wc -c <"$crate")
echo "$(wc -l <<<"$files") files, $size bytes packed"
if [ "$size" -gt 500000 ]; then
    echo "the package is larger than 500000 bytes"
    exit 1
fi
