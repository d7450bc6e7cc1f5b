#!/usr/bin/env bash
# The layer on a client in a browser: a generated client of tonic in Debian's Chromium, and a server of tonic.
# Skipped if the target wasm32-unknown-unknown cannot be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/foreign/setup.bash

wasm=wasm32-unknown-unknown
if ! rustup target list --installed 2>/dev/null | grep -qx "$wasm" && ! rustup --quiet target add "$wasm"; then
    echo "the target $wasm is not installed: the test in a browser is skipped"
    exit 0
fi
command -v chromium >/dev/null || debian_packages chromium
python_packages python-live playwright

# It is a package of its own, whose build is kept.
export CARGO_TARGET_DIR=$foreign/wasm-target
manifest=tests/foreign/wasm/Cargo.toml
cargo build --locked --manifest-path "$manifest" --bins
cargo build --locked --manifest-path "$manifest" --lib --target "$wasm"
programs=$CARGO_TARGET_DIR/debug
page=$foreign/wasm
rm -rf "$page" && mkdir -p "$page"
"$programs/bindgen" "$CARGO_TARGET_DIR/$wasm/debug/client.wasm" "$page"
"$python" -B tests/foreign/wasm.py "$programs/server" "$(command -v chromium)" "$page"
