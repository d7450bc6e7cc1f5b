#!/usr/bin/env bash
# The examples against the real Prometheus and InfluxDB, each asked through its own interface.
set -euo pipefail
cd "$(dirname "$0")/../.."

for program in prometheus promtool influxd influx; do
    if ! command -v "$program" >/dev/null; then
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends prometheus influxdb influxdb-client >/dev/null
        break
    fi
done
cargo build --all-features \
    --example prometheus --example exemplars --example influxdb --example opentracing --example access_log
exec python3 -B tests/foreign/stores.py "${CARGO_TARGET_DIR:-$PWD/target}/debug/examples"
