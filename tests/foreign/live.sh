#!/usr/bin/env bash
# The example `live` in Debian's Chromium: what a person sees of the live page. Screenshots are kept in
# target/foreign/live; BLESS=1 puts one of them beside the example.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/foreign/setup.bash

command -v chromium >/dev/null || debian_packages chromium fonts-dejavu-core
python_packages python-live playwright
cargo build --all-features --example live

screenshots=$foreign/live
rm -rf "$screenshots" && mkdir -p "$screenshots"
"$python" -B tests/foreign/live.py "$target/debug/examples/live" "$(command -v chromium)" "$screenshots"
if [ -n "${BLESS:-}" ]; then
    cp "$screenshots/light-short.png" examples/live.png
fi
