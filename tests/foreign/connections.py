"""Holds what the records of connections say against what peers, a proxy and Prometheus saw.

`connections.py PROGRAM`: the built `connections.rs`. Its peers are `connections_peer.py` and
`connections_peer.js`. Everything listens on the loopback address and has ended when this ends.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request

from checks import PATIENCE, check, check_one_of, free_port, report, wait_for

PROGRAM = sys.argv[1]
HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = {
    "grpcio": [sys.executable, "-B", f"{HERE}/connections_peer.py"],
    "grpc-js": ["node", f"{HERE}/connections_peer.js"],
}
# Of GOAWAY frames, as far as they come up.
CODES = {0: "NO_ERROR", 2: "INTERNAL_ERROR", 8: "CANCEL"}


class Lines:
    """A program that takes commands and prints lines of JSON."""

    def __init__(self, *command):
        # grpcio reports each connection that fails.
        quiet = os.environ | {"GRPC_VERBOSITY": "NONE"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=quiet)
        self.lines = []
        self.mark = 0
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def send(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def since(self, **fields):
        """The lines since the mark that have these fields."""
        return [line for line in self.lines[self.mark :] if fields.items() <= line.items()]

    def wait(self, key, **fields):
        """The first line since the mark that has the key and these fields."""
        found = wait_for(
            f"{key} {fields} of {self.process.args[-2:]}",
            lambda: [line for line in self.since(**fields) if key in line],
        )
        return found[0]

    def ask(self, command, key):
        self.mark = len(self.lines)
        self.send(command)
        return self.wait(key)[key]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def peer(name, *arguments):
    return Lines(*PEERS[name], *map(str, arguments))


class Frames:
    """The frames of one direction, as far as they are of interest."""

    def __init__(self, from_client):
        self.left = bytearray()
        self.skip = 24 if from_client else 0
        self.goaway = []

    def read(self, data):
        self.left += data
        while True:
            done = min(self.skip, len(self.left))
            del self.left[:done]
            self.skip -= done
            if self.skip or len(self.left) < 9:
                return
            length, kind = int.from_bytes(self.left[:3], "big"), self.left[3]
            if kind == 7:
                if len(self.left) < 17:
                    return
                last, code = struct.unpack(">II", self.left[9:17])
                self.goaway.append([CODES.get(code, code), last])
            self.skip = 9 + length


class Wire:
    """One connection through the proxy."""

    def __init__(self, client, server, plain):
        self.client, self.server, self.plain = client, server, plain
        self.bytes = {"up": 0, "down": 0}
        self.frames = {"up": Frames(True), "down": Frames(False)}
        self.is_hole = False
        self.first_end = None

    async def pump(self, way, reader, writer):
        try:
            while data := await reader.read(65536):
                if self.is_hole:
                    continue
                self.bytes[way] += len(data)
                if self.plain:
                    self.frames[way].read(data)
                writer.write(data)
                await writer.drain()
            self.first_end = self.first_end or way
            if not self.is_hole:
                writer.write_eof()
        except OSError:
            self.first_end = self.first_end or way

    def reset(self):
        for writer in (self.client, self.server):
            tcp = writer.get_extra_info("socket")
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """A TCP proxy to a port, with a thread of its own."""

    def __init__(self, port, plain=True):
        self.target, self.plain = port, plain
        self.wires = []
        self.loop = asyncio.new_event_loop()
        listening = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(listening,), daemon=True)
        self.thread.start()
        listening.wait(PATIENCE)

    def run(self, listening):
        async def listen():
            self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
            self.port = self.server.sockets[0].getsockname()[1]
            listening.set()

        self.loop.run_until_complete(listen())
        self.loop.run_forever()

    async def accept(self, reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        wire = Wire(writer, far_writer, self.plain)
        self.wires.append(wire)
        await asyncio.gather(
            wire.pump("up", reader, far_writer),
            wire.pump("down", far_reader, writer),
        )
        writer.close()
        far_writer.close()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def reset(self):
        self.loop.call_soon_threadsafe(self.wires[-1].reset)

    def hole(self):
        """Nothing passes any more, not even an end."""
        self.wires[-1].is_hole = True


def hooks(**fields):
    """The hooks of connections since the mark, by the connection's number."""
    by_number = {}
    for line in program.since(**fields):
        if line.get("hook"):
            by_number.setdefault(line["number"], []).append(line["hook"])
    return list(by_number.values())


def endings(role):
    """How the streams since the mark ended, each with its code."""
    return [
        (line["ending"], line["code"])
        for line in program.since(rpc="ServerStreamingEcho", role=role)
    ]


def cut_off_at_the_caller(what):
    """A stream of the client was broken off: the record says what its caller saw."""
    program.wait("rpc", rpc="ServerStreamingEcho", role="client")
    caller = program.wait("caller")["caller"]
    check(f"{what}: the stream ended as its caller saw it", endings("client"), [("body_error", caller)])
    check_one_of(f"{what}: which is a failure", caller, {"UNAVAILABLE", "UNKNOWN", "CANCELLED", "INTERNAL"})


def same_bytes(what, closed, wire):
    """What the proxy passed on is what the record counted."""
    up, down = ("received", "sent") if closed["role"] == "server" else ("sent", "received")
    counted = {"up": closed[up], "down": closed[down]}
    # What comes after this side has closed is not read.
    if closed["end"] == "closed":
        way = "up" if closed["role"] == "server" else "down"
        left = wire.bytes[way] - counted[way]
        counted[way] += left if 0 <= left < 100 else 0
    check(f"{what}: bytes are those of the proxy", counted, wire.bytes)


def ended_as_seen(what, closed, wire):
    """Who closed is who closed by the proxy. After a GOAWAY either may be first, and both may close at once."""
    ours, theirs = ("down", "up") if closed["role"] == "server" else ("up", "down")
    if not wire.plain:
        check_one_of(f"{what}: one of both closed it", closed["end"], {"closed", "peer_closed"})
        return
    sent, received = wire.frames[ours].goaway, wire.frames[theirs].goaway
    if not sent and not received:
        check(f"{what}: who closed", closed["end"], {ours: "closed", theirs: "peer_closed"}[wire.first_end])
        return
    check_one_of(f"{what}: after a GOAWAY", closed["end"], {"closed", "peer_closed"})
    # What comes after this side has closed is not read.
    seen = closed["h2"]["goaway_received"]
    possible = [*received, None] if closed["end"] == "closed" else received[-1:] or [None]
    check(f"{what}: the record has the GOAWAY that came", seen in possible)
    check(f"{what}: and the one that went", closed["h2"]["goaway_sent"], sent[-1] if sent else None)


def at(server):
    return f"127.0.0.1:{ports[server]}"


def begin_client(name, server, proxy):
    """A peer that has made three calls and keeps a stream open."""
    authority = [f"{folder}/ca.pem"] if server == "tls" else []
    client = peer(name, "client", proxy.address, *authority)
    for _ in range(3):
        assert client.ask("unary", "unary") == "OK"
    client.ask("stream", "streams")
    return client


def peer_that_leaves(name, server):
    what = f"{name} to a {server} server"
    program.mark = len(program.lines)
    proxy = Proxy(ports[server], plain=server != "tls")
    with begin_client(name, server, proxy) as client:
        open = program.ask("show", "open")
        [connection] = [line for line in open if line["local"] == at(server)]
        program.mark = 0
        number = connection["number"]
        check(f"{what}: one stream runs of four RPCs", (connection["rpcs_running"], connection["rpcs_started"]), (1, 4))
        check(f"{what}: TLS is seen", connection["tls"], server == "tls")
        client.send("close")
        closed = program.wait("end", hook="closed", number=number)
    check(f"{what}: it is counted once", hooks(number=number), [["opened", "ready", "closed"]])
    wire = proxy.wires[-1]
    ended_as_seen(what, closed, wire)
    check(f"{what}: four RPCs", closed["rpcs_started"], 4)
    same_bytes(what, closed, wire)
    rpcs = [line["ending"] for line in program.since(connection=number)]
    check(f"{what}: each RPC knows it", rpcs, ["trailers"] * 3 + ["cancelled"])


def peer_that_dies(name, server):
    what = f"{name} to a {server} server, killed"
    proxy = Proxy(ports[server], plain=server != "tls")
    client = begin_client(name, server, proxy)
    program.mark = len(program.lines)
    client.kill()
    closed = program.wait("end", hook="closed", local=at(server))
    end = (closed["end"], closed["error"])
    check_one_of(f"{what}: the peer is gone", end, {("peer_closed", None), ("error", "connection reset"), ("error", "broken pipe")})
    program.wait("rpc", rpc="ServerStreamingEcho")
    check(f"{what}: its stream was cut off", closed["rpcs_cut_off"], 1)
    check(f"{what}: and ended", endings("server"), [("cancelled", "CANCELLED")])


def server_that_dies(name):
    what = f"to {name}, killed"
    port = free_port()
    program.send(f"connect c http://127.0.0.1:{port}")
    with peer(name, "server", port) as server:
        server.wait("port")
        program.mark = len(program.lines)
        program.send("unary c")
        program.wait("caller", caller="OK")
        program.mark = len(program.lines)
        program.send("stream c")
        program.wait("streams")
        server.kill()
        closed = program.wait("end", hook="closed", role="client")
        end = (closed["end"], closed["error"])
        check_one_of(f"{what}: the peer is gone", end, {("peer_closed", None), ("error", "connection reset")})
        cut_off_at_the_caller(what)
    program.mark = len(program.lines)
    program.send("unary c")
    closed = program.wait("end", hook="closed", role="client")
    end = (closed["end"], closed["error"], closed["attempt"])
    check(f"{what}: it refuses", end, ("connect_failed", "connection refused", 1))
    check(f"{what}: an attempt is never ready", hooks(role="client"), [["opened", "closed"]])
    program.wait("rpc", rpc="UnaryEcho", code="UNAVAILABLE")
    with peer(name, "server", port) as server:
        server.wait("port")
        program.mark = len(program.lines)
        program.send("unary c")
        program.wait("rpc", rpc="UnaryEcho", code="OK")
        [ready] = program.since(hook="ready", role="client")
        check(f"{what}: it is back at the second attempt", ready["attempt"], 2)
        program.send("disconnect c")
        closed = program.wait("end", hook="closed", role="client")
        check(f"{what}: this side closes", closed["end"], "closed")


def server_that_stops(name, streams):
    what = f"to {name}, stopped " + ("during a stream" if streams else "at rest")
    with peer(name, "server", 0) as server:
        proxy = Proxy(server.wait("port")["port"])
        program.send(f"connect c http://{proxy.address}")
        program.mark = len(program.lines)
        for _ in range(2):
            program.send("unary c")
        wait_for("both", lambda: len(program.since(caller="OK")) == 2)
        program.mark = len(program.lines)
        if streams:
            program.send("stream c")
            program.wait("streams")
        server.send("stop")
        closed = program.wait("end", hook="closed", role="client")
        server.wait("stopped")
        if streams:
            program.wait("rpc", rpc="ServerStreamingEcho")
            caller = program.wait("caller")["caller"]
            [(ending, code)] = endings("client")
            check(f"{what}: the stream failed as its caller saw it", (code, code != "OK"), (caller, True))
            # grpcio sends trailers; grpc-js resets the stream.
            check_one_of(f"{what}: by trailers or a reset", ending, {"trailers", "reset", "body_error"})
        wire = proxy.wires[-1]
        check(f"{what}: the proxy saw a GOAWAY", len(wire.frames["down"].goaway) > 0)
        ended_as_seen(what, closed, wire)
        same_bytes(what, closed, wire)
        program.send("disconnect c")


def wire_that_is_reset(name):
    what = f"{name} to a plain server, reset"
    proxy = Proxy(ports["plain"])
    with begin_client(name, "plain", proxy):
        program.mark = len(program.lines)
        proxy.reset()
        closed = program.wait("end", hook="closed", local=at("plain"))
        program.wait("rpc", role="server")
        check(f"{what}: the record says so", (closed["end"], closed["error"]), ("error", "connection reset"))
        check(f"{what}: the stream was cut off", (closed["rpcs_cut_off"], endings("server")), (1, [("cancelled", "CANCELLED")]))

    what = f"to {name}, reset"
    with peer(name, "server", 0) as server:
        proxy = Proxy(server.wait("port")["port"])
        program.send(f"connect c http://{proxy.address}")
        program.mark = len(program.lines)
        program.send("stream c")
        program.wait("streams")
        proxy.reset()
        closed = program.wait("end", hook="closed", role="client")
        check(f"{what}: the record says so", (closed["end"], closed["error"]), ("error", "connection reset"))
        cut_off_at_the_caller(what)
        program.send("disconnect c")


def wire_that_is_silent(name):
    what = f"{name} to a keepalive server, silent"
    proxy = Proxy(ports["keepalive"])
    with begin_client(name, "keepalive", proxy):
        program.mark = len(program.lines)
        proxy.hole()
        closed = program.wait("end", hook="closed", local=at("keepalive"))
        program.wait("rpc", role="server")
        check(f"{what}: this side closes", (closed["end"], closed["error"]), ("closed", None))
        check(f"{what}: the stream was cut off", (closed["rpcs_cut_off"], endings("server")), (1, [("cancelled", "CANCELLED")]))

    what = f"to {name} with keepalive, silent"
    with peer(name, "server", 0) as server:
        proxy = Proxy(server.wait("port")["port"])
        program.send(f"connect c http://{proxy.address} keepalive")
        program.mark = len(program.lines)
        program.send("stream c")
        program.wait("streams")
        proxy.hole()
        closed = program.wait("end", hook="closed", role="client")
        check(f"{what}: this side closes", (closed["end"], closed["error"]), ("closed", None))
        cut_off_at_the_caller(what)
        program.send("disconnect c")


def connection_that_grows_old(name):
    what = f"{name} to a server with a maximal age"
    proxy = Proxy(ports["age"])
    program.mark = len(program.lines)
    with peer(name, "client", proxy.address) as client:
        assert client.ask("unary", "unary") == "OK"
        closed = program.wait("end", hook="closed", local=at("age"))
        wire = proxy.wires[0]
        ended_as_seen(what, closed, wire)
        sent = wire.frames["down"].goaway
        check(f"{what}: its GOAWAY has the last stream", sent[-1], ["NO_ERROR", 1])
        same_bytes(what, closed, wire)
        assert client.ask("unary", "unary") == "OK"
        check(f"{what}: the next call has a new connection", len(program.since(hook="ready", local=at("age"))), 2)
        client.send("close")
        wait_for("both to close", lambda: len(program.since(hook="closed", local=at("age"))) == 2)


def scanner_and_garbage():
    for server, data, ends in (
        # A peer that has not read the server's SETTINGS when it closes resets the connection.
        ("plain", b"", {"peer_closed", "error"}),
        ("plain", b"\x00garbage" * 9, {"closed"}),
        ("tls", b"", {"handshake_failed"}),
        ("tls", b"GET / HTTP/1.1\r\n\r\n", {"handshake_failed"}),
    ):
        program.mark = len(program.lines)
        with socket.create_connection(("127.0.0.1", ports[server])) as tcp:
            tcp.sendall(data)
            if data:
                with contextlib.suppress(OSError):
                    while tcp.recv(4096):
                        pass
        closed = program.wait("end", hook="closed", local=at(server))
        check_one_of(f"{data[:8]!r} to a {server} server", closed["end"], ends)


def query(expression):
    url = f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url, timeout=10) as answer:
        rows = json.load(answer)["data"]["result"]
    return {row["metric"].get("role"): float(row["value"][1]) for row in rows}


def settled(expression, expected):
    """Asks until the answer is the expected one; the last answer if it never is."""
    found = None
    with contextlib.suppress(TimeoutError):

        def same():
            nonlocal found
            found = query(expression)
            return found == expected

        wait_for("figures", same)
    return found


def gauges_in_the_middle():
    with contextlib.ExitStack() as stack:
        for name in PEERS:
            stack.enter_context(begin_client(name, "plain", Proxy(ports["plain"])))
            server = stack.enter_context(peer(name, "server", 0))
            program.send(f"connect {name} http://127.0.0.1:{server.wait('port')['port']}")
            program.mark = len(program.lines)
            program.send(f"stream {name}")
            program.wait("streams")
        expected = {"client": 2.0, "server": 2.0}
        check("Prometheus: two connections of each role are open", settled("rpc_connections_open", expected), expected)
        check("Prometheus: two RPCs of each role too", settled("sum by (role) (rpc_in_flight)", expected), expected)
        for name in PEERS:
            program.send(f"disconnect {name}")


def figures_at_the_end():
    wait_for("all to close", lambda: program.ask("show", "open") == [])
    none = {"client": 0.0, "server": 0.0}
    check("Prometheus: none is open", settled("rpc_connections_open", none), none)
    check("Prometheus: and no RPC", settled("sum by (role) (rpc_in_flight)", none), none)
    program.mark = 0
    opened, ends = {}, {}
    for role in none:
        opened[role] = float(len(program.since(hook="opened", role=role)))
        for line in program.since(hook="closed", role=role):
            ends[role, line["end"]] = ends.get((role, line["end"]), 0.0) + 1
    check("Prometheus: as many as were opened", settled("rpc_connections_opened_total", opened), opened)
    closed = "sum by (role) (rpc_connections_closed_total)"
    check("Prometheus: have closed", settled(closed, opened), opened)
    for (role, end), count in sorted(ends.items()):
        series = f'rpc_connections_closed_total{{role="{role}", end="{end}"}}'
        check(f"Prometheus: {series}", query(series), {role: count})
    for way in ("sent", "received"):
        total = {role: float(sum(line[way] for line in program.since(hook="closed", role=role))) for role in none}
        check(f"Prometheus: bytes {way}", query(f"rpc_connection_{way}_bytes_total"), total)


def run():
    for name in PEERS:
        for server in ("plain", "tls"):
            peer_that_leaves(name, server)
            peer_that_dies(name, server)
        server_that_dies(name)
        for streams in (False, True):
            server_that_stops(name, streams)
        wire_that_is_reset(name)
        wire_that_is_silent(name)
        connection_that_grows_old(name)
    scanner_and_garbage()
    gauges_in_the_middle()
    figures_at_the_end()


with contextlib.ExitStack() as stack:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    program = stack.enter_context(Lines(PROGRAM, folder))
    ports = program.wait("metrics")
    config = f"{folder}/prometheus.yml"
    with open(config, "w") as file:
        file.write(
            f"""
global: {{scrape_interval: 250ms}}
scrape_configs:
  - job_name: connections
    static_configs: [{{targets: ["127.0.0.1:{ports["metrics"]}"]}}]
"""
        )
    port = free_port()
    prometheus = f"http://127.0.0.1:{port}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
    log = stack.enter_context(open(f"{folder}/prometheus.log", "w"))
    store = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    stack.callback(store.wait)
    stack.callback(store.kill)
    run()
sys.exit(report())
