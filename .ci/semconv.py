"""Writes tests/it/otel/semconv/<version>.txt: the names of OpenTelemetry's semantic conventions that concern RPC
and HTTP, from the npm package @opentelemetry/semantic-conventions. Run it for a new version, and the
test `semconv` shows what has changed: `python3 .ci/semconv.py 1.45.0`.
"""
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

[version] = sys.argv[1:]
root = pathlib.Path(__file__).parent.parent
group = re.compile(r"(client|error|http|network\.(peer|protocol)|rpc|server|url|user_agent)\.")


def names(package, files):
    found = set()
    for file in files:
        text = (package / f"{file}.mjs").read_text()
        found |= set(re.findall(r'"([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+)"', text))
        found |= {name + "<key>" for name in re.findall(r"`([a-z][a-z0-9_.]*\.)\$\{", text)}
    return {name for name in found if group.match(name)}


with tempfile.TemporaryDirectory() as folder:
    package = f"@opentelemetry/semantic-conventions@{version}"
    subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True)
    [archive] = pathlib.Path(folder).glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    dist = pathlib.Path(folder) / "package/dist"
    stable = names(dist, ["stable_attributes", "stable_metrics"])
    every = stable | names(dist, ["experimental_attributes", "experimental_metrics"])

lines = [
    f"# Names of the semantic conventions {version}, from the npm package",
    f"# @opentelemetry/semantic-conventions. `python3 .ci/semconv.py {version}` writes this list.",
    *(f"{name} stable" if name in stable else name for name in sorted(every)),
]
(root / f"tests/it/otel/semconv/{version}.txt").write_text("\n".join(lines) + "\n")
print(f"{len(every)} names, {len(stable)} of them stable")
