"""Runs the examples against Prometheus and InfluxDB and compares what these say with the load.

`stores.py EXAMPLES`: the folder of the built examples. Everything listens on the loopback address,
keeps its data in a temporary folder and has ended when this ends.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter

EXAMPLES = sys.argv[1]
HERE = os.path.dirname(os.path.abspath(__file__))
PROMETHEUS = os.path.join(HERE, "../../examples/prometheus")
ROUNDS = 25
# In seconds, for a machine that is slow; nothing here takes as long.
PATIENCE = 60

# What one round of `examples/load` makes, by method: the codes, and messages and bytes of requests
# and of responses.
ROUND = {
    # "hello", a NOT_FOUND, and one that runs out of time in the handler.
    ("echo.Echo", "UnaryEcho"): (
        {"OK": 1, "NOT_FOUND": 1, "DEADLINE_EXCEEDED": 1},
        (3, 7 + 17 + 10),
        (1, 7),
    ),
    # Three messages; one of two, then cancelled.
    ("echo.Echo", "ServerStreamingEcho"): (
        {"OK": 1, "CANCELLED": 1},
        (2, 15 + 12),
        (4, 3 * 13 + 7),
    ),
    ("echo.Echo", "ClientStreamingEcho"): ({"OK": 1}, (2, 6), (1, 4)),
    ("echo.Echo", "BidirectionalStreamingEcho"): ({"OK": 1}, (2, 6), (2, 6)),
    ("_OTHER", "_OTHER"): ({"UNIMPLEMENTED": 2}, (0, 0), (0, 0)),
}
CALLS = sum(sum(codes.values()) for codes, _, _ in ROUND.values())

results = Counter()


def by_outcome(rows):
    """Sums of rows (role, service, method, code), figure.

    A caller whose time is up cancels; the server may see that before its own clock says so.
    """
    sums = Counter()
    for (role, service, method, code), figure in rows:
        if (role, method, code) == ("server", "UnaryEcho", "CANCELLED"):
            code = "DEADLINE_EXCEEDED"
        sums[role, service, method, code] += figure
    return dict(sums)


def happened(figures):
    """Leaves out the series that are there at 0."""
    return {labels: figure for labels, figure in figures.items() if figure}


def check(name, found, expected):
    """Compares, counts and tells."""
    passed = found == expected
    results[passed] += 1
    print("ok    " if passed else "FAILED", name)
    if not passed:
        print("   found   ", found)
        print("   expected", expected)


def wait(what, ask):
    """Asks until the answer is true, and returns it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            answer = ask()
            if answer:
                return answer
        time.sleep(0.1)
    raise TimeoutError(what)


def settled(ask, expected):
    """Asks until the answer is the expected one; the last answer where that never happens."""
    found = None
    with contextlib.suppress(TimeoutError):

        def same():
            nonlocal found
            found = ask()
            return found == expected

        wait("figures", same)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url, **query):
    if query:
        url += "?" + urllib.parse.urlencode(query)
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


@contextlib.contextmanager
def running(name, *arguments, log):
    """A program that runs until the end of the block."""
    with open(log, "w") as output:
        program = subprocess.Popen(
            [name, *arguments], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield program
        except BaseException:
            print(f"--- {name}:", open(log).read()[-3000:], sep="\n")
            raise
        finally:
            program.send_signal(signal.SIGTERM)
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


def run(name, *arguments, **options):
    """Runs a program to its end: how it ended, and all it printed."""
    done = subprocess.run(
        [name, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        **options,
    )
    return done.returncode, done.stdout


@contextlib.contextmanager
def scraped(folder, example, *arguments, rules="", flags=()):
    """An example that has made its load, scraped by Prometheus: what asks Prometheus, and the example's text.

    The first is called with a path under `/api/v1/` and its parameters.
    """
    port, metrics = free_port(), free_port()
    base = f"http://127.0.0.1:{port}"
    config = os.path.join(folder, "prometheus.yml")
    with open(config, "w") as file:
        file.write(
            f"""
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
{rules}
scrape_configs:
  - job_name: rpc
    static_configs: [{{targets: ["127.0.0.1:{metrics}"]}}]
"""
        )
    log = os.path.join(folder, "example.log")
    program = running(
        os.path.join(EXAMPLES, example), str(ROUNDS), f"127.0.0.1:{metrics}", *arguments, log=log
    )
    store = running(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder}/prometheus",
        f"--web.listen-address=127.0.0.1:{port}",
        *flags,
        log=os.path.join(folder, "prometheus.log"),
    )

    def ask(path, **query):
        return json.loads(get(f"{base}/api/v1/{path}", **query))["data"]

    with program, store:
        wait("the load", lambda: "rounds done" in open(log).read())
        wait("Prometheus", lambda: get(f"{base}/-/ready"))
        yield ask, metrics, open(log).read()


def with_prometheus(folder):
    rules = f'rule_files: ["{os.path.abspath(PROMETHEUS)}/alerts.yml"]'
    with scraped(folder, "prometheus", rules=rules) as (ask, metrics, _):

        def query(expression):
            return ask("query", query=expression)["result"]

        def by(labels, metric, where=""):
            names = {"service": "rpc_service", "method": "rpc_method"}
            labels = [names.get(label, label) for label in labels.split(", ")]
            where = where.replace("method=", "rpc_method=")
            expression = f"sum by ({', '.join(labels)}) ({metric}{{{where}}})"
            return {
                tuple(row["metric"].get(label, "") for label in labels): float(row["value"][1])
                for row in query(expression)
            }

        exposition = get(f"http://127.0.0.1:{metrics}/metrics")
        check("promtool check metrics", run("promtool", "check", "metrics", input=exposition), (0, ""))

        roles = ("client", "server")
        expected = {
            (role, *method, code): float(count * ROUNDS)
            for role in roles
            for method, (codes, _, _) in ROUND.items()
            for code, count in codes.items()
        }
        handled = "role, service, method, code"
        check(
            "Prometheus: codes of all RPCs",
            settled(lambda: by_outcome(happened(by(handled, "rpc_handled_total")).items()), expected),
            expected,
        )
        check(
            "Prometheus: a failure that has not happened yet is there at 0",
            by(handled, "rpc_handled_total", 'role="server", method="UnaryEcho", code="INTERNAL"'),
            {("server", "echo.Echo", "UnaryEcho", "INTERNAL"): 0.0},
        )
        check(
            "Prometheus: counts of the durations",
            settled(
                lambda: by_outcome(by(handled, "rpc_duration_seconds_count").items()), expected
            ),
            expected,
        )
        started = {
            (role, *method): float(sum(codes.values()) * ROUNDS)
            for role in roles
            for method, (codes, _, _) in ROUND.items()
        }
        labels = "role, service, method"
        check("Prometheus: RPCs started", by(labels, "rpc_started_total"), started)
        check(
            "Prometheus: nothing in flight",
            settled(lambda: by(labels, "rpc_in_flight"), {key: 0.0 for key in started}),
            {key: 0.0 for key in started},
        )
        for index, what in enumerate(["messages", "message_bytes"]):
            for direction in ["sent", "received"]:
                requests_of = "client" if direction == "sent" else "server"
                figures = {
                    (role, *method): float((asked if role == requests_of else answered)[index] * ROUNDS)
                    for role in roles
                    for method, (_, asked, answered) in ROUND.items()
                }
                name = f"rpc_{direction}_{what}_total"
                check(f"Prometheus: {name}", by(labels, name), figures)
        endings = by(
            "role, ending", "rpc_handled_total", 'method="ServerStreamingEcho", code="CANCELLED"'
        )
        check(
            "Prometheus: the cancelled ones ended as cancelled",
            happened(endings),
            {(role, "cancelled"): float(ROUNDS) for role in roles},
        )
        slow = by(
            "role", "rpc_duration_seconds_sum", 'code=~"DEADLINE_EXCEEDED|CANCELLED", method="UnaryEcho"'
        )
        check(
            "Prometheus: what ran out of half a second took as long",
            {key: 0.4 * ROUNDS <= seconds < 60 * ROUNDS for key, seconds in slow.items()},
            {(role,): True for role in roles},
        )

        def rules():
            groups = ask("rules")["groups"]
            return Counter(rule["health"] for group in groups for rule in group["rules"])

        count = len(re.findall(r"- alert:", open(f"{PROMETHEUS}/alerts.yml").read()))
        check(
            "Prometheus: all alert rules are evaluated",
            settled(rules, Counter(ok=count)),
            Counter(ok=count),
        )
        with open(f"{PROMETHEUS}/dashboard.json") as file:
            panels = json.load(file)["panels"]
        variables = {"$role": "server", "$service": ".*", "$method": ".*", "$__rate_interval": "1m"}
        empty = []
        for panel in panels:
            for target in panel["targets"]:
                expression = target["expr"]
                for variable, value in variables.items():
                    expression = expression.replace(variable, value)
                if not settled(lambda: bool(query(expression)), True):
                    empty.append(panel["title"])
        check("Prometheus: every panel of the dashboard shows something", empty, [])


def with_a_stream_that_runs(folder):
    """Counters move while a stream runs, and are exact after it."""
    messages = 100
    with scraped(folder, "prometheus", "rpc", str(messages)) as (ask, _, _):

        def figures(metric):
            expression = f'{metric}{{rpc_method="ServerStreamingEcho"}}'
            rows = ask("query", query=expression)["result"]
            return {row["metric"]["role"]: float(row["value"][1]) for row in rows}

        # By side: what the rounds before had, and what each message adds.
        of_rounds, size = ROUND["echo.Echo", "ServerStreamingEcho"][2], len("message") + 2
        families = {
            "rpc_sent_messages_total": ("server", of_rounds[0] * ROUNDS, 1),
            "rpc_received_messages_total": ("client", of_rounds[0] * ROUNDS, 1),
            "rpc_sent_message_bytes_total": ("server", of_rounds[1] * ROUNDS, size),
            "rpc_received_message_bytes_total": ("client", of_rounds[1] * ROUNDS, size),
        }
        seen = {family: set() for family in families}

        def is_over():
            for family, (side, before, _) in families.items():
                if figures("rpc_in_flight") == {"client": 1.0, "server": 1.0}:
                    seen[family].add(figures(family).get(side, 0) - before)
            return figures("rpc_in_flight") == {"client": 0.0, "server": 0.0} and any(seen.values())

        wait("the stream", is_over)
        for family, (side, before, each) in families.items():
            between = {figure for figure in seen[family] if 0 < figure < messages * each}
            check(
                f"Prometheus: {family} of a {side} moves while a stream runs, by whole messages",
                (len(between) >= 3, {figure % each for figure in between}),
                (True, {0.0}),
            )
            total = before + messages * each
            check(
                f"Prometheus: {family} of a {side} is exact after it",
                settled(lambda: figures(family).get(side), total),
                total,
            )


# Queries of boards that were made for go-grpc-prometheus.
BOARD = [
    'sum(rate(grpc_server_started_total{job="rpc"}[1m])) by (grpc_service)',
    'sum(rate(grpc_server_handled_total{job="rpc",grpc_type="unary",grpc_code!="OK"}[1m]))'
    " by (grpc_service)",
    'sum(rate(grpc_server_handled_total{job="rpc",grpc_type="unary",grpc_code!="OK"}[1m]))'
    ' by (grpc_service) / sum(rate(grpc_server_started_total{job="rpc",grpc_type="unary"}[1m]))'
    " by (grpc_service) * 100.0",
    'sum(rate(grpc_server_msg_sent_total{job="rpc",grpc_type="server_stream"}[10m]))'
    ' by (grpc_service) / sum(rate(grpc_server_started_total{job="rpc",grpc_type="server_stream"}[10m]))'
    " by (grpc_service)",
    'histogram_quantile(0.99, sum(rate(grpc_server_handling_seconds_bucket{job="rpc",'
    'grpc_type="unary"}[5m])) by (grpc_service,le))',
    'sum(rate(grpc_server_handling_seconds_bucket{job="rpc",grpc_type="unary",le="0.25"}[5m]))'
    ' by (grpc_service) / sum(rate(grpc_server_handling_seconds_count{job="rpc",grpc_type="unary"}[5m]))'
    " by (grpc_service)",
    "sum by (grpc_code) (grpc_client_handled_total)",
    'sum by (grpc_method) (rate(grpc_client_msg_received_total{grpc_type="bidi_stream"}[5m]))',
]

# A code as grpc-go prints it.
GO_CODES = {
    "OK": "OK",
    "NOT_FOUND": "NotFound",
    "CANCELLED": "Canceled",
    "DEADLINE_EXCEEDED": "DeadlineExceeded",
    "UNIMPLEMENTED": "Unimplemented",
}
TYPES = {
    "UnaryEcho": "unary",
    "ServerStreamingEcho": "server_stream",
    "ClientStreamingEcho": "client_stream",
    "BidirectionalStreamingEcho": "bidi_stream",
    "_OTHER": "unknown",
}


def with_names_of_grpc_prometheus(folder):
    with scraped(folder, "prometheus", "grpc-prometheus") as (ask, metrics, _):

        def query(expression):
            return ask("query", query=expression)["result"]

        exposition = get(f"http://127.0.0.1:{metrics}/metrics")
        check(
            "go-grpc-prometheus' names: promtool check metrics",
            run("promtool", "check", "metrics", input=exposition),
            (0, ""),
        )
        families = sorted(set(re.findall(r"^# TYPE (\S+)", exposition, re.MULTILINE)))
        check(
            "go-grpc-prometheus' names: these families and no other",
            families,
            sorted(
                f"grpc_{side}_{family}"
                for side in ("client", "server")
                for family in (
                    "started_total",
                    "handled_total",
                    "msg_received_total",
                    "msg_sent_total",
                    "handling_seconds",
                )
            ),
        )

        def handled(side):
            rows = query(f"grpc_{side}_handled_total > 0")
            labels = ("grpc_type", "grpc_service", "grpc_method", "grpc_code")
            sums = Counter()
            for row in rows:
                key = [row["metric"][label] for label in labels]
                # The server may see the caller's cancel before its own clock says that time is up.
                if side == "server" and key[2:] == ["UnaryEcho", "Canceled"]:
                    key[3] = "DeadlineExceeded"
                sums[tuple(key)] += float(row["value"][1])
            return dict(sums)

        expected = {
            (TYPES[method], service, method, GO_CODES[code]): float(count * ROUNDS)
            for (service, method), (codes, _, _) in ROUND.items()
            for code, count in codes.items()
        }
        for side in ("client", "server"):
            check(
                f"go-grpc-prometheus' names: codes of all RPCs of the {side}",
                settled(lambda: handled(side), expected),
                expected,
            )
        empty = [expression for expression in BOARD if not settled(lambda: bool(query(expression)), True)]
        check("go-grpc-prometheus' names: every query of a board for them shows something", empty, [])


def with_exemplars(folder):
    keep = ["--enable-feature=exemplar-storage"]
    with scraped(folder, "exemplars", flags=keep) as (ask, _, printed):

        def exemplars():
            now = time.time()
            series = ask(
                "query_exemplars",
                query="rpc_duration_seconds_bucket",
                start=now - 600,
                end=now + 10,
            )
            return [
                (one["seriesLabels"]["code"], exemplar["labels"])
                for one in series
                for exemplar in one["exemplars"]
            ]

        traces = set(re.findall(r"^trace (\w+)$", printed, re.MULTILINE))
        found = wait("exemplars", exemplars)
        check(
            "Prometheus: an exemplar has the id of an exported trace, and nothing else",
            {key for _, labels in found for key in labels} == {"trace_id"}
            and {labels["trace_id"] for _, labels in found} <= traces,
            True,
        )
        codes = {"OK", "NOT_FOUND", "DEADLINE_EXCEEDED", "CANCELLED", "UNIMPLEMENTED"}
        check(
            "Prometheus: every code has an exemplar",
            settled(lambda: {code for code, _ in exemplars()}, codes),
            codes,
        )

        def up():
            return [row["value"][1] for row in ask("query", query="up")["result"]]

        check("Prometheus: the scrape of OpenMetrics text has no error", settled(up, ["1"]), ["1"])


def with_influxdb(folder):
    port, backup = free_port(), free_port()
    base = f"http://127.0.0.1:{port}"
    config = os.path.join(folder, "influxdb.conf")
    with open(config, "w") as file:
        file.write(
            f"""
reporting-disabled = true
bind-address = "127.0.0.1:{backup}"
[meta]
  dir = "{folder}/influxdb/meta"
[data]
  dir = "{folder}/influxdb/data"
  wal-dir = "{folder}/influxdb/wal"
[http]
  bind-address = "127.0.0.1:{port}"
"""
        )

    def influx(statement):
        code, printed = run(
            "influx", "-host", "127.0.0.1", "-port", str(port), "-database", "rpc",
            "-format", "json", "-execute", statement,
        )  # fmt: skip
        if code != 0:
            raise RuntimeError(printed)
        answers = json.loads(printed)["results"] if printed.strip() else []
        return [series for answer in answers for series in answer.get("series", [])]

    def example(store):
        code, printed = run(os.path.join(EXAMPLES, "influxdb"), str(ROUNDS), store)
        lines = printed.splitlines()
        return code, lines[-1] if lines else "", printed

    all_points = 2 * CALLS * ROUNDS
    log = os.path.join(folder, "influxdb.log")
    with running("influxd", "-config", config, log=log):
        wait("InfluxDB", lambda: get(f"{base}/ping") == "")
        influx("CREATE DATABASE rpc")
        code, last, _ = example(f"{base}/write?db=rpc&precision=ns")
        check(
            "influxdb example: all points written",
            (code, last),
            (0, f"written {all_points}, dropped 0, rejected 0, lost 0"),
        )
        counts = []
        for series in influx("SELECT count(cost_ns) FROM rpc GROUP BY role, service, method, code"):
            tags = series["tags"]
            key = tuple(tags[tag] for tag in ("role", "service", "method", "code"))
            counts.append((key, series["values"][0][1]))
        check(
            "InfluxDB: codes of all RPCs",
            by_outcome(counts),
            {
                (role, *method, code): count * ROUNDS
                for role in ("client", "server")
                for method, (codes, _, _) in ROUND.items()
                for code, count in codes.items()
            },
        )
        sums = {}
        fields = ["request_messages", "request_bytes", "response_messages", "response_bytes"]
        selected = ", ".join(f"sum({field})" for field in fields)
        for series in influx(f"SELECT {selected} FROM rpc GROUP BY role, service, method"):
            tags = series["tags"]
            key = tuple(tags[tag] for tag in ("role", "service", "method"))
            sums[key] = series["values"][0][1:]
        check(
            "InfluxDB: sums of messages and bytes",
            sums,
            {
                (role, *method): [figure * ROUNDS for figure in (*asked, *answered)]
                for role in ("client", "server")
                for method, (_, asked, answered) in ROUND.items()
            },
        )
        for what, target, status in [
            ("400", "/write?db=rpc&precision=ns&consistency=nonsense", "400"),
            ("404", "/write?db=missing&precision=ns", "404"),
        ]:
            code, last, printed = example(base + target)
            check(
                f"influxdb example: a store that answers {what} is reported, and counted",
                (code, last, f"points rejected: {status}" in printed),
                (0, f"written 0, dropped 0, rejected {all_points}, lost 0", True),
            )
    code, last, printed = example(f"{base}/write?db=rpc&precision=ns")
    check(
        "influxdb example: a store that is down is reported, and counted",
        (code, last, "points lost" in printed),
        (0, f"written 0, dropped 0, rejected 0, lost {all_points}", True),
    )


def alone():
    code, printed = run(os.path.join(EXAMPLES, "opentracing"))
    names = [line.split(" trace ")[0].strip() for line in printed.splitlines()]
    check(
        "opentracing example: the handler's span is a child of the call's",
        (code, names),
        (0, ["RPC call", "RPC handle"] * 2),
    )
    environment = {**os.environ, "NO_COLOR": "1"}
    code, printed = run(os.path.join(EXAMPLES, "access_log"), env=environment)
    found = Counter()
    for line in printed.splitlines():
        level = re.search(r"\b(ERROR|WARN|INFO)\b", line)
        fields = re.search(r'role="(\w+)".* status="(\w+)"', line)
        found[(level[0], *fields.groups()) if level and fields else line] += 1
    # The server may see the caller's cancel before its own clock says that the time is up.
    late = ("INFO", "server", "CANCELLED")
    if found[late] == 2:
        found[late] -= 1
        found["WARN", "server", "DEADLINE_EXCEEDED"] += 1
    # What the caller did is no failure of the server.
    own = {"DEADLINE_EXCEEDED": 1, "UNIMPLEMENTED": 2}
    of_caller = {"NOT_FOUND": 1, "CANCELLED": 1}
    expected = Counter({("INFO", "server", "OK"): 4})
    for code_name, count in {**own, **of_caller}.items():
        expected["WARN", "client", code_name] = count
        expected["WARN" if code_name in own else "INFO", "server", code_name] = count
    check("access_log example: a line per RPC, at its level", (code, found), (0, expected))


def main():
    code, printed = run("promtool", "check", "rules", f"{PROMETHEUS}/alerts.yml")
    check("promtool check rules", (code, "SUCCESS" in printed), (0, True))
    parts = (
        with_prometheus,
        with_a_stream_that_runs,
        with_names_of_grpc_prometheus,
        with_exemplars,
        with_influxdb,
    )
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            try:
                part(folder)
            except Exception as error:  # Counted, so that the other part runs too.
                check(f"{part.__name__}: {error!r}", False, True)
    alone()
    print(f"{results[True]} passed, {results[False]} failed")
    sys.exit(results[False] > 0)


main()
