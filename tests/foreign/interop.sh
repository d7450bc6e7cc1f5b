#!/usr/bin/env bash
# gRPC's interop cases against Python's grpcio and Node's @grpc/grpc-js, both ways.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/foreign/setup.bash

python_packages python-grpc grpcio grpcio-tools hpack
node_packages node-grpc @grpc/grpc-js @grpc/proto-loader
cargo build --all-features --example interop_server --example interop_client

generated=$foreign/interop
mkdir -p "$generated"
"$python" -m grpc_tools.protoc -I tests/interop --python_out="$generated" testing.proto
PYTHONPATH=$generated "$python" -B tests/interop/run.py "$target/debug/examples" "$node_path"
