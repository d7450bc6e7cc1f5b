"""Python's grpcio calls the example tonic_server, and serves the example tonic_client.

`echo.py EXAMPLES`: the folder of the built examples. What they print of each RPC is held against
what grpcio saw: the method, the status, and how many messages and bytes it sent and received.
"""

import subprocess
import sys
import threading
from concurrent import futures

import grpc
from echo_pb2 import EchoRequest, EchoResponse

# In seconds; nothing here takes as long.
PATIENCE = 30
METHODS = {
    "UnaryEcho": "unary_unary",
    "ServerStreamingEcho": "unary_stream",
    "ClientStreamingEcho": "stream_unary",
    "BidirectionalStreamingEcho": "stream_stream",
}


class Seen:
    """What grpcio saw of one RPC."""

    def __init__(self, method):
        self.method = f"echo.Echo/{method}"
        self.status = None
        self.sent, self.received = [], []

    def serialize(self, message):
        data = message.SerializeToString()
        self.sent.append(len(data))
        return data

    def deserializer(self, kind):
        def deserialize(data):
            self.received.append(len(data))
            return kind.FromString(data)

        return deserialize

    def expected(self, role):
        """The fields that the other side is to print: what was sent here was received there."""
        return {
            "role": role,
            "method": self.method,
            "status": self.status.name,
            "sent": figures(self.received),
            "received": figures(self.sent),
        }


def figures(sizes):
    return f"{len(sizes)}/{sum(sizes)}"


def fields(line):
    return dict(field.split("=", 1) for field in line.split())


class Example:
    """An example that runs, and the lines that it prints."""

    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        # It is not to outlive a peer that waits in vain.
        self.watchdog = threading.Timer(PATIENCE, self.process.kill)
        self.watchdog.start()

    def line(self):
        line = self.process.stdout.readline()
        assert line, "the example says nothing more"
        return line.strip()

    def end(self):
        self.watchdog.cancel()
        self.process.kill()
        self.process.wait()


class Check:
    passed = failed = 0

    def rpc(self, what, line, seen, role, endings):
        found, expected = fields(line), seen.expected(role)
        ending = found.get("ending")
        if found == {**found, **expected} and ending in endings and "cost" in found:
            self.passed += 1
            print(f"  {what}: ok: {line}")
        else:
            self.failed += 1
            print(f"  {what}: FAILED: {line}\n    instead of {expected}, ending in {endings}")


def call(channel, method, *requests):
    """Makes a call and takes all of its responses."""
    seen = Seen(method)
    kind = METHODS.get(method, "unary_unary")
    start = getattr(channel, kind)(
        f"/{seen.method}",
        request_serializer=seen.serialize,
        response_deserializer=seen.deserializer(EchoResponse),
    )
    request = iter(requests) if kind.startswith("stream") else requests[0]
    try:
        if kind.endswith("stream"):
            running = start(request, timeout=PATIENCE)
            responses = list(running)
        else:
            response, running = start.with_call(request, timeout=PATIENCE)
            responses = [response]
        seen.status = running.code()
    except grpc.RpcError as error:
        seen.status = error.code()
        responses = None
    return seen, responses and [response.message for response in responses]


def calls_of_python(examples, check):
    """grpcio as the client of tonic_server."""
    print("python -> tonic_server")
    server = Example(f"{examples}/tonic_server", "127.0.0.1:0")
    try:
        address = server.line().removeprefix("listening on ")
        channel = grpc.insecure_channel(address)
        long = "\u263a" * 100_000
        say = lambda message, **more: EchoRequest(message=message, **more)
        at_end, at_once = {"trailers"}, {"headers_only"}
        for what, endings, answers, method, *requests in (
            ("unary", at_end, ["hello"], "UnaryEcho", say("hello")),
            ("an empty message", at_end, [""], "UnaryEcho", say("")),
            ("a long message", at_end, [long], "UnaryEcho", say(long)),
            ("a failure", at_once, None, "UnaryEcho", say("no", code=5)),
            ("server streaming", at_end, ["a"] * 3, "ServerStreamingEcho", say("a", count=3)),
            (
                "a failure after messages",
                at_end,
                None,
                "ServerStreamingEcho",
                say("b", count=2, code=9),
            ),
            ("client streaming", at_end, ["xyz"], "ClientStreamingEcho", *map(say, "xyz")),
            ("no messages", at_end, [""], "ClientStreamingEcho"),
            (
                "both streaming",
                at_end,
                ["1", "22"],
                "BidirectionalStreamingEcho",
                say("1"),
                say("22"),
            ),
        ):
            seen, responses = call(channel, method, *requests)
            assert responses == answers, (what, responses)
            check.rpc(what, server.line(), seen, "server", endings)
        channel.close()
    finally:
        server.end()


def calls_to_python(examples, check):
    """grpcio as the server of tonic_client."""
    print("tonic_client -> python")
    all_seen = []

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details):
            method = details.method.removeprefix("/echo.Echo/")
            kind = METHODS[method]
            seen = Seen(method)
            all_seen.append(seen)
            return getattr(grpc, f"{kind}_rpc_method_handler")(
                lambda request, context: answer(kind, seen, request, context),
                request_deserializer=seen.deserializer(EchoRequest),
                response_serializer=seen.serialize,
            )

    def answer(kind, seen, given, context):
        codes = {code.value[0]: code for code in grpc.StatusCode}
        requests = iter(given) if kind.startswith("stream") else iter([given])

        def responses():
            for request in requests:
                for _ in range(max(request.count, 1) if kind == "unary_stream" else 1):
                    if not request.code:
                        yield EchoResponse(message=request.message)
                if request.code:
                    seen.status = codes[request.code]
                    context.abort(seen.status, request.message)
            seen.status = grpc.StatusCode.OK

        if kind.endswith("stream"):
            return responses()
        return EchoResponse(message="".join(response.message for response in responses()))

    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = Example(f"{examples}/tonic_client", f"http://127.0.0.1:{port}")
    try:
        lines = client.process.stdout.read().splitlines()
        assert client.process.wait() == 0, f"tonic_client failed: {client.process.returncode}"
    finally:
        client.end()
        server.stop(None).wait()
    lines = [line for line in lines if line.startswith("role=")]
    assert len(lines) == len(all_seen) > 0, (lines, len(all_seen))
    for line, seen in zip(lines, all_seen):
        check.rpc(seen.method, line, seen, "client", {"trailers", "headers_only"})


def main():
    (examples,) = sys.argv[1:]
    check = Check()
    calls_of_python(examples, check)
    calls_to_python(examples, check)
    print(f"{check.passed} passed, {check.failed} failed")
    sys.exit(1 if check.failed or not check.passed else 0)


if __name__ == "__main__":
    main()
