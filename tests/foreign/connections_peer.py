"""Python's grpcio as a client or a server of Echo, for `connections.sh`.

`connections_peer.py server PORT` prints its port. On `stop` it stops with grace.
`connections_peer.py client ADDRESS [AUTHORITY]` makes a call for each `unary` and `stream`, and prints a line of
JSON with its status; of a stream also one after three messages. On `close` it closes its channel.
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc
from echo_pb2 import EchoRequest, EchoResponse


def say(**line):
    # At once, since threads print.
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def serve(port):
    def unary(request, context):
        return EchoResponse(message=request.message)

    def stream(request, context):
        while context.is_active():
            yield EchoResponse(message=request.message)
            time.sleep(0.05)

    codec = {
        "request_deserializer": EchoRequest.FromString,
        "response_serializer": EchoResponse.SerializeToString,
    }
    methods = {
        "UnaryEcho": grpc.unary_unary_rpc_method_handler(unary, **codec),
        "ServerStreamingEcho": grpc.unary_stream_rpc_method_handler(stream, **codec),
    }
    handlers = grpc.method_handlers_generic_handler("echo.Echo", methods)
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(handlers,))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    say(port=port)
    for command in sys.stdin:
        assert command == "stop\n", command
        server.stop(0.5).wait()
        say(stopped=True)


def call(address, authority=None):
    if authority:
        with open(authority, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        options = [("grpc.ssl_target_name_override", "localhost")]
        channel = grpc.secure_channel(address, credentials, options)
    else:
        channel = grpc.insecure_channel(address)
    codec = {
        "request_serializer": EchoRequest.SerializeToString,
        "response_deserializer": EchoResponse.FromString,
    }
    unary = channel.unary_unary("/echo.Echo/UnaryEcho", **codec)
    stream = channel.unary_stream("/echo.Echo/ServerStreamingEcho", **codec)

    def read():
        endless = stream(EchoRequest(message="tick", count=1_000_000, delay_ms=50))
        try:
            for index, _ in enumerate(endless):
                if index == 2:
                    say(streams=True)
        except grpc.RpcError:
            pass
        say(stream=endless.code().name)

    for command in sys.stdin:
        command = command.strip()
        if command == "unary":
            try:
                unary(EchoRequest(message="hello"), wait_for_ready=True, timeout=20)
                say(unary="OK")
            except grpc.RpcError as error:
                say(unary=error.code().name)
        elif command == "stream":
            threading.Thread(target=read, daemon=True).start()
        elif command == "close":
            channel.close()
            say(closed=True)


if __name__ == "__main__":
    {"server": serve, "client": call}[sys.argv[1]](*sys.argv[2:])
