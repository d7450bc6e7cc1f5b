"""Runs the `otel` example against a collector and against Python, and checks what the collector saw.

    python otel.py EXAMPLE
"""

import collections
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import grpc
import rotel
from checks import PATIENCE, check, free_port, report, wait_for
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation import grpc as instrumentation
from opentelemetry.instrumentation.grpc import grpcext
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

EXAMPLE = sys.argv[1]
METHOD = "echo.Echo/UnaryEcho"

started = []


def start(*command, **options):
    process = subprocess.Popen(command, **options)
    started.append(process)
    return process


def stop_all():
    for process in started:
        if process.poll() is None:
            process.terminate()
    for process in started:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


Span = collections.namedtuple(
    "Span", "service trace id parent name kind status message attributes"
)


class Collector:
    """rotel, and what it prints."""

    def __init__(self, folder):
        self.grpc, self.http = free_port(), free_port()
        self.output = pathlib.Path(folder, "collector.log")
        agent = pathlib.Path(rotel.__file__).parent / "rotel-agent"
        self.process = start(
            agent,
            "start",
            f"--pid-file={folder}/collector.pid",
            f"--otlp-grpc-endpoint=127.0.0.1:{self.grpc}",
            f"--otlp-http-endpoint=127.0.0.1:{self.http}",
            "--exporter=blackhole",
            "--debug-log=traces",
            "--debug-log=metrics",
            "--debug-log-verbosity=detailed",
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
        )
        wait_for("the collector", lambda: listens(self.grpc) and listens(self.http))
        self.seen = 0

    def forget(self):
        """What was printed so far is not looked at again."""
        self.seen = self.output.stat().st_size

    def printed(self):
        with self.output.open() as output:
            output.seek(self.seen)
            return output.read()

    def spans(self):
        spans = []
        # A resource's spans begin with its attributes.
        for resource in self.printed().split("ResourceSpans #")[1:]:
            resource = resource.split("ResourceMetrics #")[0]
            service = re.search(r"-> service\.name: Str\((.*)\)", resource)
            for span in re.split(r"^Span #\d+$", resource, flags=re.M)[1:]:
                field = lambda name: re.search(rf"^\s*{name}\s*: ?(.*)$", span, re.M).group(1)
                if "Status message" not in span:
                    continue  # Not printed to its end yet.
                spans.append(
                    Span(
                        service.group(1) if service else None,
                        field("Trace ID"),
                        field("ID"),
                        field("Parent ID"),
                        field("Name").removeprefix("/"),
                        field("Kind").removeprefix("SPAN_KIND_"),
                        field("Status code").removeprefix("STATUS_CODE_"),
                        field("Status message"),
                        dict(re.findall(r"^     -> ([\w.]+): \w+\((.*)\)$", span, re.M)),
                    )
                )
        return spans

    def wait_spans(self, count):
        wait_for(f"{count} spans", lambda: len(self.spans()) >= count)
        return self.spans()


def environment(collector, service, by_http=False):
    port = collector.http if by_http else collector.grpc
    return os.environ | {
        "OTEL_SERVICE_NAME": service,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf" if by_http else "grpc",
    }


def chains(spans):
    """The spans of each trace, from its root to its leaf."""
    found = []
    for root in (span for span in spans if not span.parent):
        chain = [root]
        while True:
            children = [span for span in spans if span.parent == chain[-1].id]
            if len(children) != 1:
                break
            chain += children
        found.append(chain)
    return found


def whole(collector, by_http):
    """A client calls a service, which calls another: a call that succeeds, and one that fails."""
    name = "OTLP/HTTP" if by_http else "OTLP/gRPC"
    collector.forget()
    run = subprocess.run(
        [EXAMPLE],
        env=environment(collector, "example", by_http),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    check(f"{name}: the example ends well", (run.returncode, run.stderr), (0, ""))
    check(f"{name}: no console", "nothing listens" in run.stdout, False)
    found = chains(collector.wait_spans(8))
    check(f"{name}: two traces of four spans", [len(chain) for chain in found], [4, 4])
    fine = [chain for chain in found if all(s.status == "UNSET" for s in chain)]
    check(f"{name}: one of them without a failure", len(fine), 1)
    for chain in found:
        fails = chain not in fine
        what = f"{name}: the call that {'fails' if fails else 'succeeds'}"
        check(f"{what}: one trace", len({span.trace for span in chain}), 1)
        kinds = [span.kind for span in chain]
        check(f"{what}: kinds", kinds, ["CLIENT", "SERVER", "CLIENT", "SERVER"])
        check(f"{what}: names", [span.name for span in chain], [METHOD] * 4)
        # NOT_FOUND is a client's failure, not a server's.
        status = ["ERROR", "UNSET"] * 2 if fails else ["UNSET"] * 4
        check(f"{what}: status", [span.status for span in chain], status)
        message = ["no such thing", ""] * 2 if fails else [""] * 4
        check(f"{what}: message", [span.message for span in chain], message)
        code = "NOT_FOUND" if fails else "OK"
        codes = [span.attributes.get("rpc.status_code") for span in chain]
        check(f"{what}: codes", codes, [code] * 4)
        systems = {span.attributes.get("rpc.system.name") for span in chain}
        check(f"{what}: system", systems, {"grpc"})
    printed = wait_for("metrics", lambda: "Metric #1" in collector.printed() and collector.printed())
    metrics = set(re.findall(r"^     -> Name: (rpc\..*)$", printed, re.M))
    expected = {"rpc.client.call.duration", "rpc.server.call.duration"}
    check(f"{name}: metrics", metrics, expected)


def pythons_provider(collector):
    provider = TracerProvider(resource=Resource.create({"service.name": "python"}))
    exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{collector.grpc}", insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def say(text):
    """An EchoRequest, which an EchoResponse looks like."""
    return bytes([0x0A, len(text)]) + text.encode()


def python_calls(collector, provider):
    collector.forget()
    server = start(
        EXAMPLE,
        "serve",
        "127.0.0.1:0",
        env=environment(collector, "rust"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    address = server.stdout.readline().split()[-1]
    intercept = instrumentation.client_interceptor(provider)
    with grpc.insecure_channel(address) as channel:
        channel = grpcext.intercept_channel(channel, intercept)
        answer = channel.unary_unary(f"/{METHOD}")(say("hello"), timeout=PATIENCE)
    check("Python calls Rust: answered", answer, say("hello"))
    server.stdin.close()
    check("Python calls Rust: the server ends well", server.wait(PATIENCE), 0)
    compare("Python calls Rust", collector.wait_spans(2), ["python", "rust"])


def rust_calls(collector, provider):
    collector.forget()

    def answer(request, context):
        if b"hello" not in request:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        return request

    class Echo(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(answer)

    intercept = instrumentation.server_interceptor(provider)
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[intercept])
    server.add_generic_rpc_handlers([Echo()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    run = subprocess.run(
        [EXAMPLE, "call", f"http://127.0.0.1:{port}"],
        env=environment(collector, "rust"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    check("Rust calls Python: ends well", (run.returncode, run.stderr), (0, ""))
    check("Rust calls Python: answered", "answer: hello" in run.stdout, True)
    spans = collector.wait_spans(4)
    server.stop(0).wait()
    fine = {span.trace for span in spans if span.status == "UNSET" and span.service == "rust"}
    spans = [span for span in spans if span.trace in fine]
    compare("Rust calls Python", spans, ["rust", "python"])


def compare(what, spans, services):
    found = chains(spans)
    check(f"{what}: one trace of two spans", [len(chain) for chain in found], [2])
    for chain in found[:1]:
        check(f"{what}: caller and callee", [span.service for span in chain], services)
        check(f"{what}: one trace", len({span.trace for span in chain}), 1)
        check(f"{what}: kinds", [span.kind for span in chain], ["CLIENT", "SERVER"])
        check(f"{what}: names", [span.name for span in chain], [METHOD, METHOD])
        rust = chain[services.index("rust")]
        code = rust.attributes.get("rpc.status_code")
        check(f"{what}: code", (code, rust.status), ("OK", "UNSET"))


def console():
    """Where nothing listens, telemetry is printed."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    run = subprocess.run(
        [EXAMPLE],
        env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": nowhere},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    check("console: ends well", run.returncode, 0)
    check("console: says so", f"nothing listens at {nowhere}" in run.stdout, True)
    check("console: spans", run.stdout.count("Kind         : Client"), 4)
    check("console: metrics", "rpc.server.call.duration" in run.stdout, True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        try:
            collector = Collector(folder)
            whole(collector, by_http=False)
            whole(collector, by_http=True)
            provider = pythons_provider(collector)
            python_calls(collector, provider)
            rust_calls(collector, provider)
            provider.shutdown()
            console()
        except Exception as error:  # One more failure; the others get it too.
            check("no error", repr(error), None)
        finally:
            stop_all()
    return report()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
