#!/usr/bin/env bash
# Runs each fuzz target for a while: `bash .ci/fuzz.sh [SECONDS] [TARGET...]`, ten seconds and all unless
# given. It needs a nightly Rust, and is skipped without one. The corpus is kept under target/.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
    echo "no nightly Rust is installed: fuzzing is skipped"
    exit 0
fi
target=${CARGO_TARGET_DIR:-$PWD/target}
tools=$target/tools
if [ ! -x "$tools/bin/cargo-fuzz" ]; then
    cargo install --quiet --debug --locked --root "$tools" cargo-fuzz
fi
export PATH=$tools/bin:$PATH

seconds=${1:-10}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)

# Without a sanitizer, which looks for errors of unsafe code: this crate has none.
build=$target/fuzz
cargo +nightly fuzz build --sanitizer none --target-dir "$build"
for name in "${targets[@]}"; do
    corpus=$build/corpus/$name
    mkdir -p "$corpus" "$build/artifacts/$name"
    [ "$name" != descriptor_sets ] || cp examples/echo/descriptors.bin "$corpus/echo"
    log=$build/$name.log
    # As cargo-fuzz does, but for the place of the corpus and of a crash.
    program=$(echo "$build"/*/release/"$name")
    if ! "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="$build/artifacts/$name/" "$corpus" >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "the fuzz target $name failed; its input is in $build/artifacts/$name"
        exit 1
    fi
    echo "$name: $(grep -o 'DONE.*' "$log") ($seconds s)"
done
