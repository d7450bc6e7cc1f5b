#!/usr/bin/env bash
# Runs the unit tests of records, protocols and outcomes in Miri: `bash .ci/miri.sh`. It needs a nightly Rust
# with Miri, and is skipped without one. The crate has no unsafe code: this checks what it does with the
# unsafe code of others, such as `bytes`.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "no nightly Rust with Miri is installed: it is skipped"
    exit 0
fi

copy=$(bash .ci/alone.sh miri/crate)
# Its tests need what makes a descriptor set.
sed -i '/^#\[cfg(test)\]/,$d' "$copy/src/methods.rs"
cd "$copy"
# Random seeds and the clock are the system's.
export MIRIFLAGS=-Zmiri-disable-isolation
cargo +nightly miri test --quiet --lib --no-default-features --features connect --target-dir ../target -- \
    rpc:: protocol:: outcome:: tracer:: text::
