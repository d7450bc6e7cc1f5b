#!/usr/bin/env bash
# Changes a file in many ways, and shows which of them no unit test sees:
# `bash .ci/mutants.sh src/service/outcome.rs outcome`. The second word selects the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
if [ ! -x "$target/tools/bin/cargo-mutants" ]; then
    cargo install --quiet --locked --root "$target/tools" cargo-mutants
fi
copy=$(bash .ci/alone.sh mutants/crate)
# Its tests need what makes a descriptor set.
sed -i '/^#\[cfg(test)\]/,$d' "$copy/src/methods.rs"
cd "$copy"
"$target/tools/bin/cargo-mutants" mutants --in-place --timeout 60 --no-shuffle --output .. \
    --no-default-features --features connect --file "$1" -- --lib "${2:-}"
