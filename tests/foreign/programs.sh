#!/usr/bin/env bash
# Programs of a user, each with a manifest of its own: one without features, one with all of them, and one
# whose panics abort. Each is built and run.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/foreign/setup.bash

# They are packages of their own, and share one build.
export CARGO_TARGET_DIR=$foreign/programs-target
programs=$foreign/programs

# `program NAME FEATURES PROFILE`, with FEATURES as cargo's manifest has them.
program() {
    local folder=$programs/$1
    mkdir -p "$folder/src"
    cp tests/foreign/program.rs "$folder/src/main.rs"
    # The versions that the project is tested with.
    cp Cargo.lock "$folder/Cargo.lock"
    cat >"$folder/Cargo.toml" <<MANIFEST
[package]
name = "program-$1"
version = "0.0.0"
edition = "2024"
publish = false

[workspace]

[dependencies]
http = "1"
tower = { version = "0.5", features = ["util"] }
tower-tracer = { path = "$PWD", $2 }

[profile.dev]
debug = false
$3
MANIFEST
    cargo build --quiet --manifest-path "$folder/Cargo.toml"
}

all=$(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
[package] = [p for p in json.load(sys.stdin)["packages"] if p["name"] == "tower-tracer"]
print(json.dumps(sorted(package["features"])))')

program bare 'default-features = false' ''
program all "features = $all" ''
program abort 'default-features = false' 'panic = "abort"'

bin=$CARGO_TARGET_DIR/debug
for name in bare all abort; do
    [ "$("$bin/program-$name" calls)" = "3 of 3 finished" ] || {
        echo "program-$name does not finish its RPCs"
        exit 1
    }
done
# Where panics unwind, that of the tracer is contained. Where they abort, it ends the program.
for name in bare all; do
    [ "$("$bin/program-$name" panic 2>/dev/null)" = "contained 1" ] || {
        echo "program-$name does not contain a tracer's panic"
        exit 1
    }
done
status=0
# In a shell of its own, which reports the signal and not this one.
bash -c '"$0" panic' "$bin/program-abort" >"$programs/abort.log" 2>&1 || status=$?
if [ "$status" != 134 ] || grep -q contained "$programs/abort.log"; then
    echo "program-abort did not abort: status $status"
    exit 1
fi
echo "programs without features, with all, and with panic = \"abort\" run as the docs say"
