#!/usr/bin/env bash
# Runs the tests of tracers that work together, and of leaks, with the thread sanitizer: `bash .ci/tsan.sh`, some 15
# minutes with the build. It needs a nightly Rust with its source, and is skipped without one.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! [ -d "$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library" ]; then
    echo "no nightly Rust with its source is installed: the thread sanitizer is skipped"
    exit 0
fi
# The standard library is built with it too: else what that synchronizes is taken for a race.
export RUSTFLAGS=-Zsanitizer=thread
cargo +nightly test --locked -Zbuild-std --target x86_64-unknown-linux-gnu \
    --target-dir "${CARGO_TARGET_DIR:-$PWD/target}/tsan" \
    -p tests --features testing,transport,axum --test compose --test leak
