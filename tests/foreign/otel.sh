#!/usr/bin/env bash
# The `otel` example against a collector (rotel), and against Python's grpcio with OpenTelemetry's
# own instrumentation, both ways.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/foreign/setup.bash

python_packages python-otel rotel grpcio opentelemetry-sdk \
    opentelemetry-exporter-otlp-proto-grpc opentelemetry-instrumentation-grpc
cargo build --all-features --example otel
"$python" -B tests/foreign/otel.py "$target/debug/examples/otel"
