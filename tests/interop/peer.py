"""Python's grpcio as the client or the server of the interop cases.

`peer.py server` prints where it listens and serves until it is killed.
`peer.py client PORT` reads the names of cases from its standard input.

Both print a line of JSON for each message that they send or receive, with its size; the client also
one for each case.
"""

import json
import queue
import sys
import threading
import time
from concurrent import futures

import grpc
import testing_pb2 as pb

SERVICE = "grpc.testing.TestService"
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
# Long enough for a request to reach its server, short enough to wait for.
A_MOMENT = 0.3
# No RPC takes as long; a case that hangs is to fail.
TOO_LONG = 30
# Method, kind, request and response.
METHODS = {
    "EmptyCall": ("unary_unary", pb.Empty, pb.Empty),
    "UnaryCall": ("unary_unary", pb.SimpleRequest, pb.SimpleResponse),
    "StreamingOutputCall": (
        "unary_stream",
        pb.StreamingOutputCallRequest,
        pb.StreamingOutputCallResponse,
    ),
    "StreamingInputCall": (
        "stream_unary",
        pb.StreamingInputCallRequest,
        pb.StreamingInputCallResponse,
    ),
    "FullDuplexCall": (
        "stream_stream",
        pb.StreamingOutputCallRequest,
        pb.StreamingOutputCallResponse,
    ),
    "UnimplementedCall": ("unary_unary", pb.Empty, pb.Empty),
}

output = threading.Lock()


def say(line):
    with output:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def zeros(size):
    return pb.Payload(body=bytes(size))


def serializer(method):
    def serialize(message):
        data = message.SerializeToString()
        say(json.dumps({"full_method": method, "sent": len(data)}))
        return data

    return serialize


def deserializer(method, kind):
    def deserialize(data):
        say(json.dumps({"full_method": method, "received": len(data)}))
        return kind.FromString(data)

    return deserialize


# The server.


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16))
    handlers = {}
    for name, (kind, request, response) in METHODS.items():
        if name == "UnimplementedCall":
            continue
        method = f"{SERVICE}/{name}"
        handlers[name] = getattr(grpc, f"{kind}_rpc_method_handler")(
            globals()[f"serve_{name}"],
            request_deserializer=deserializer(method, request),
            response_serializer=serializer(method),
        )
    handler = grpc.method_handlers_generic_handler(SERVICE, handlers)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say(f"listening on 127.0.0.1:{port}")
    server.wait_for_termination()


def echo_metadata(context):
    metadata = dict(context.invocation_metadata())
    if INITIAL in metadata:
        context.send_initial_metadata([(INITIAL, metadata[INITIAL])])
    if TRAILING in metadata:
        context.set_trailing_metadata([(TRAILING, metadata[TRAILING])])


def check_status(request, context):
    if request.response_status.code:
        codes = {code.value[0]: code for code in grpc.StatusCode}
        status = request.response_status
        context.abort(codes[status.code], status.message)


def serve_EmptyCall(request, context):
    return pb.Empty()


def serve_UnaryCall(request, context):
    if request.response_compressed.value:
        context.set_compression(grpc.Compression.Gzip)
    echo_metadata(context)
    check_status(request, context)
    return pb.SimpleResponse(payload=zeros(request.response_size))


def answer(request, context):
    for response in request.response_parameters:
        if response.HasField("compressed") and not response.compressed.value:
            context.disable_next_message_compression()
        yield pb.StreamingOutputCallResponse(payload=zeros(response.size))
    check_status(request, context)


def serve_StreamingOutputCall(request, context):
    if any(response.compressed.value for response in request.response_parameters):
        context.set_compression(grpc.Compression.Gzip)
    yield from answer(request, context)


def serve_StreamingInputCall(requests, context):
    total = sum(len(request.payload.body) for request in requests)
    return pb.StreamingInputCallResponse(aggregated_payload_size=total)


def serve_FullDuplexCall(requests, context):
    echo_metadata(context)
    for request in requests:
        yield from answer(request, context)


# The client.


class Client:
    def __init__(self, port):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.statuses = []

    def method(self, name, service=SERVICE):
        kind, _, response = METHODS[name]
        full = f"{service}/{name}"
        return getattr(self.channel, kind)(
            f"/{full}",
            request_serializer=serializer(full),
            response_deserializer=deserializer(full, response),
        )

    def ended(self, call):
        """Notes the status of a call that is over."""
        self.statuses.append(call.code().value[0])

    def fails(self, take, *codes, message=None):
        """Takes the result of a call that is to fail with one of these codes."""
        try:
            result = take()
        except grpc.RpcError as error:
            self.ended(error)
            assert error.code() in codes, error
            assert message is None or error.details() == message, error
        else:
            raise AssertionError(f"it succeeded: {result}")

    def unary(self, name, request, **options):
        # Not `future`: that of a streaming request forgets the compression.
        response, call = self.method(name).with_call(request, timeout=TOO_LONG, **options)
        self.ended(call)
        return response, call

    def large(self, **more):
        request = pb.SimpleRequest(response_size=314159, payload=zeros(271828), **more)
        return request

    def large_call(self, request, **options):
        response, call = self.unary("UnaryCall", request, **options)
        assert response.payload.body == bytes(314159), len(response.payload.body)
        return call

    def empty_unary(self):
        self.unary("EmptyCall", pb.Empty())

    def large_unary(self):
        self.large_call(self.large())

    def client_streaming(self):
        sizes = (27182, 8, 1828, 45904)
        requests = (pb.StreamingInputCallRequest(payload=zeros(size)) for size in sizes)
        response, _ = self.unary("StreamingInputCall", requests)
        assert response.aggregated_payload_size == 74922, response

    def server_streaming(self):
        sizes = [31415, 9, 2653, 58979]
        parameters = [pb.ResponseParameters(size=size) for size in sizes]
        request = pb.StreamingOutputCallRequest(response_parameters=parameters)
        call = self.method("StreamingOutputCall")(request, timeout=TOO_LONG)
        assert [len(response.payload.body) for response in call] == sizes
        self.ended(call)

    def ping(self, response, request):
        return pb.StreamingOutputCallRequest(
            response_parameters=[pb.ResponseParameters(size=response)], payload=zeros(request)
        )

    def duplex(self, timeout=TOO_LONG, **options):
        """A call with a queue for its requests; `None` half-closes it."""
        requests = queue.Queue()
        call = self.method("FullDuplexCall")(
            iter(requests.get, None), timeout=timeout, **options
        )
        return requests, call

    def ping_pong(self):
        requests, call = self.duplex()
        for response, request in ((31415, 27182), (9, 8), (2653, 1828), (58979, 45904)):
            requests.put(self.ping(response, request))
            assert len(next(call).payload.body) == response
        requests.put(None)
        assert list(call) == []
        self.ended(call)

    def empty_stream(self):
        requests, call = self.duplex()
        requests.put(None)
        assert list(call) == []
        self.ended(call)

    def cancel_after_begin(self):
        never = queue.Queue()
        call = self.method("StreamingInputCall").future(iter(never.get, None))
        # Sent at once it would meet nobody: the server is to see the call and its end.
        time.sleep(A_MOMENT)
        call.cancel()
        never.put(None)
        assert call.code() == grpc.StatusCode.CANCELLED, call.code()
        self.ended(call)

    def cancel_after_first_response(self):
        requests, call = self.duplex()
        requests.put(self.ping(31415, 27182))
        assert len(next(call).payload.body) == 31415
        call.cancel()
        self.fails(lambda: list(call), grpc.StatusCode.CANCELLED)
        requests.put(None)

    def timeout_on_sleeping_server(self):
        # A millisecond, as gRPC's own case has it, could be over before the request is sent.
        requests, call = self.duplex(timeout=A_MOMENT)
        requests.put(pb.StreamingOutputCallRequest(payload=zeros(27182)))
        # tonic's server calls it CANCELLED, where its clock is first.
        codes = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED
        self.fails(lambda: list(call), *codes)
        requests.put(None)

    def custom_metadata(self):
        metadata = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))

        def check(call):
            initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
            assert initial.get(INITIAL) == "test_initial_metadata_value", initial
            assert trailing.get(TRAILING) == b"\xab\xab\xab", trailing

        check(self.large_call(self.large(), metadata=metadata))
        requests, call = self.duplex(metadata=metadata)
        requests.put(self.ping(314159, 271828))
        assert len(next(call).payload.body) == 314159
        requests.put(None)
        assert list(call) == []
        self.ended(call)
        check(call)

    def status_code_and_message(self, message="test status message"):
        status = pb.EchoStatus(code=2, message=message)
        request = pb.SimpleRequest(response_status=status)
        call = self.method("UnaryCall").future(request, timeout=TOO_LONG)
        self.fails(call.result, grpc.StatusCode.UNKNOWN, message=message)
        requests, call = self.duplex()
        requests.put(pb.StreamingOutputCallRequest(response_status=status))
        requests.put(None)
        self.fails(lambda: list(call), grpc.StatusCode.UNKNOWN, message=message)

    def special_status_message(self):
        self.status_code_and_message(
            "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
        )

    def unimplemented_method(self, service=SERVICE):
        method = self.method("UnimplementedCall", service)
        call = method.future(pb.Empty(), timeout=TOO_LONG)
        self.fails(call.result, grpc.StatusCode.UNIMPLEMENTED)

    def unimplemented_service(self):
        self.unimplemented_method("grpc.testing.UnimplementedService")

    def client_compressed_unary(self):
        for value, compression in (
            (True, grpc.Compression.Gzip),
            (False, grpc.Compression.NoCompression),
        ):
            request = self.large(expect_compressed=pb.BoolValue(value=value))
            self.large_call(request, compression=compression)

    def client_compressed_unary_probe(self):
        request = self.large(expect_compressed=pb.BoolValue(value=True))
        call = self.method("UnaryCall").future(request, timeout=TOO_LONG)
        self.fails(call.result, grpc.StatusCode.INVALID_ARGUMENT)

    def server_compressed_unary(self):
        for value in (True, False):
            compressed = pb.BoolValue(value=value)
            self.large_call(self.large(response_compressed=compressed))

    def compressed_inputs(self, *sizes):
        expected = pb.BoolValue(value=True)
        for size in sizes:
            yield pb.StreamingInputCallRequest(
                payload=zeros(size), expect_compressed=expected
            )

    def client_compressed_streaming(self):
        # grpcio has no switch for a single message of a client.
        response, _ = self.unary(
            "StreamingInputCall",
            self.compressed_inputs(27182, 45904),
            compression=grpc.Compression.Gzip,
        )
        assert response.aggregated_payload_size == 73086, response

    def client_compressed_streaming_probe(self):
        requests = self.compressed_inputs(27182)
        call = self.method("StreamingInputCall").future(requests, timeout=TOO_LONG)
        self.fails(call.result, grpc.StatusCode.INVALID_ARGUMENT)

    def server_compressed_streaming(self):
        parameters = [
            pb.ResponseParameters(size=size, compressed=pb.BoolValue(value=value))
            for size, value in ((31415, True), (92653, False))
        ]
        request = pb.StreamingOutputCallRequest(response_parameters=parameters)
        call = self.method("StreamingOutputCall")(request, timeout=TOO_LONG)
        assert [len(response.payload.body) for response in call] == [31415, 92653]
        self.ended(call)


def run_cases(port):
    client = Client(port)
    for case in sys.stdin:
        case = case.strip()
        client.statuses = []
        error = None
        try:
            getattr(client, case)()
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        say(json.dumps({"case": case, "error": error, "statuses": client.statuses}))


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve()
    else:
        run_cases(int(sys.argv[2]))
