#!/usr/bin/env bash
# Connections to and from Python's grpcio and Node's @grpc/grpc-js, which close, die, stop and fall silent, held
# against what a proxy between both saw, and against the real Prometheus.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/foreign/setup.bash

command -v prometheus >/dev/null || debian_packages prometheus
python_packages python-grpc grpcio grpcio-tools hpack
node_packages node-grpc @grpc/grpc-js @grpc/proto-loader
cargo build --all-features --example connections

generated=$foreign/echo
mkdir -p "$generated"
"$python" -m grpc_tools.protoc -I examples/echo --python_out="$generated" echo.proto
PYTHONPATH=$generated NODE_PATH=$node_path \
    "$python" -B tests/foreign/connections.py "$target/debug/examples/connections"
