"""Counts the instructions of layers by callgrind, and fails if one costs more than it did.

Each figure is a ratio: what a layer adds to a call, to what a layer written by hand adds in the same
binary. So it does not depend on the machine. `BLESS=1 python3 .ci/instructions.py` writes the new ratios to
instructions.txt; a change of more than 5 % upwards fails without it.
"""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
RATIOS = ROOT / ".ci/instructions.txt"
ALLOWED = 1.05

# The benchmark, its setting, what is written by hand, the layers, and how many calls.
CASES = [
    ("overhead", "unary", "hand_written", ["empty", "figures"], 500),
    ("overhead", "single", "hand_written", ["empty", "figures"], 50),
    ("overhead", "packed", "hand_written", ["empty", "figures"], 50),
    ("otel", "server", "by_hand", ["ours"], 300),
    ("otel", "client", "by_hand", ["ours"], 300),
]


def build():
    """Builds the benchmarks, without `quanta`, whose calibration takes as long as it takes."""
    command = ["cargo", "bench", "--locked", "-p", "benches", "--features", "otel-bound", "--no-run"]
    command += ["--bench", "overhead", "--bench", "otel"]
    built = subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.PIPE, text=True)
    found = re.findall(r"Executable (\w+)\.rs \((.+)\)", built.stderr)
    return {name: ROOT / path for name, path in found}


def instructions(program, layer, calls, setting):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [str(program), "--only", layer, str(calls), setting]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(re.search(r"Collected : (\d+)", ran.stderr)[1])


def per_call(program, layer, calls, setting):
    """What one call takes: of as many calls twice, without what the program does once."""
    twice = instructions(program, layer, 2 * calls, setting)
    return (twice - instructions(program, layer, calls, setting)) / calls


programs = build()
known = dict(re.findall(r"^(\S+ \S+ \S+) ([\d.]+)$", RATIOS.read_text(), re.MULTILINE)) if RATIOS.exists() else {}
lines, failed = [], False
for bench, setting, by_hand, layers, calls in CASES:
    none = per_call(programs[bench], "none", calls, setting)
    hand = per_call(programs[bench], by_hand, calls, setting) - none
    for layer in layers:
        own = per_call(programs[bench], layer, calls, setting) - none
        name, ratio = f"{bench} {setting} {layer}", own / hand
        before = float(known.get(name, 0))
        is_worse = ratio > before * ALLOWED
        failed |= is_worse
        lines.append(f"{name} {ratio:.3f}")
        verdict = "more than before" if is_worse else "ok"
        print(f"{name:<26} {own:>8.0f} instructions, by hand {hand:>8.0f}: {ratio:.3f} ({before:.3f}) {verdict}")
if os.environ.get("BLESS"):
    RATIOS.write_text("\n".join(lines) + "\n")
elif failed:
    sys.exit("a layer costs more instructions than before: see .ci/instructions.py")
