#!/usr/bin/env bash
# The test `wall_clock` under libfaketime, where it sets the wall clock while RPCs run.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/foreign/setup.bash

debian_packages libfaketime
library=$(dpkg --listfiles libfaketime | grep '/libfaketimeMT\.so')

# What the wall clock is off by; the test writes it.
clock=$foreign/clock
mkdir -p "$foreign"
echo +0 >"$clock"
runner="'env', 'LD_PRELOAD=$library', 'FAKETIME_TIMESTAMP_FILE=$clock'"
runner="$runner, 'FAKETIME_NO_CACHE=1', 'DONT_FAKE_MONOTONIC=1'"
test=a_wall_clock_that_is_set_during_an_rpc_moves_no_duration
cargo test --all-features --test wall_clock --config "target.'cfg(unix)'.runner = [$runner]" -- \
    --ignored --exact "$test" | tee "$foreign/clock.log"
# A name that no test has would pass.
grep --quiet "^test $test ... ok" "$foreign/clock.log"
