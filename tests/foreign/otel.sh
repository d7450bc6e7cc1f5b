#!/usr/bin/env bash
# The `otel` example against a collector (rotel), and against Python's grpcio with OpenTelemetry's
# own instrumentation. Ends with `N passed, N failed`.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-$PWD/target}
python=$target/foreign/python-otel/bin/python
packages="rotel grpcio opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc \
opentelemetry-instrumentation-grpc"
installed=$target/foreign/python-otel/installed
if [ "$(cat "$installed" 2>/dev/null)" != "$packages" ]; then
    python3 -m venv --clear "$target/foreign/python-otel"
    # shellcheck disable=SC2086
    "$python" -m pip install --quiet --disable-pip-version-check --pre $packages
    echo "$packages" >"$installed"
fi
cargo build --all-features --example otel
exec "$python" -B tests/foreign/otel.py "$target/debug/examples/otel"
