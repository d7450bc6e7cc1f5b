#!/usr/bin/env bash
# The examples tonic_server and tonic_client against Python's grpcio.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/foreign/setup.bash

python_packages python-grpc grpcio grpcio-tools hpack
cargo build --all-features --example tonic_server --example tonic_client

generated=$foreign/echo
mkdir -p "$generated"
"$python" -m grpc_tools.protoc -I examples/echo --python_out="$generated" echo.proto
PYTHONPATH=$generated "$python" -B tests/foreign/echo.py "$target/debug/examples"
