#!/usr/bin/env python3
"""Compares the public API with `.ci/public_api.txt`, so that it changes only on purpose.

Run `BLESS=1 python3 .ci/public_api.py` after a change that is meant. The list has the path of each item,
method, variant and field; it comes from rustdoc's JSON.
"""

import difflib
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SNAPSHOT = ROOT / ".ci" / "public_api.txt"


def rustdoc():
    """What rustdoc says of the crate. Its JSON is unstable, so a stable toolchain has to be told."""
    command = "cargo rustdoc -p tower-tracer --lib --all-features -- -Z unstable-options --output-format json"
    environment = {**os.environ, "RUSTC_BOOTSTRAP": "1"}
    target = ROOT / "target" / "public_api"
    environment["CARGO_TARGET_DIR"] = str(target)
    subprocess.run(command.split(), cwd=ROOT, env=environment, check=True)
    return json.loads((target / "doc" / "tower_tracer.json").read_text())


def items(index, item, path, found):
    """Collects an item and what it holds."""
    [(kind, inner)] = item["inner"].items()
    if kind == "use":
        target = index.get(str(inner["id"]))
        if target is not None:
            items(index, {**target, "name": inner["name"]}, path, found)
        return
    name = item["name"]
    path = f"{path}::{name}" if name else path
    if kind == "module":
        found.add(f"mod {path}")
        children = inner["items"]
    elif kind in ("struct", "enum", "trait"):
        found.add(f"{kind} {path}")
        children = list(inner.get("variants", [])) + list(inner.get("items", []))
        fields = inner.get("kind", {})
        if isinstance(fields, dict) and "plain" in fields:
            children += fields["plain"]["fields"]
        for implementation in inner.get("impls", []):
            block = index.get(str(implementation))
            if block is None:
                continue
            block = block["inner"]["impl"]
            if block["trait"] is None:
                children += block["items"]
            elif not block["is_synthetic"] and block["blanket_impl"] is None:
                found.add(f"impl {block['trait']['path']} for {path}")
    else:
        found.add(f"{kind} {path}")
        children = []
    for child in children:
        child = index.get(str(child))
        if child is None:
            continue
        # The items of a trait and the variants of an enum are as public as it is.
        if child["visibility"] in ("public", "default"):
            items(index, child, path, found)


def main():
    doc = rustdoc()
    index = doc["index"]
    found = set()
    items(index, index[str(doc["root"])], "", found)
    listing = "\n".join(sorted(line.replace(" ::", " ", 1) for line in found)) + "\n"
    if os.environ.get("BLESS"):
        SNAPSHOT.write_text(listing)
    before = SNAPSHOT.read_text() if SNAPSHOT.exists() else ""
    difference = list(
        difflib.unified_diff(before.split("\n"), listing.split("\n"), "checked in", "now", lineterm="", n=0)
    )
    print("\n".join(difference) or f"the public API has {len(found)} items, as checked in")
    if difference:
        print("if that is meant: BLESS=1 python3 .ci/public_api.py", file=sys.stderr)
    sys.exit(bool(difference))


main()
