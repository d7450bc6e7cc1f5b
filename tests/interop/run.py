"""Runs gRPC's interop cases between the crate's side, on tonic, and foreign peers.

`run.py EXAMPLES NODE_PATH`: the folder of the built examples, and of Node's packages.

Each pair of peers talks through a relay that reads the frames. A case passes where

- the client saw what the case asks for,
- the figures of our side are those of the relay, to the byte, and its statuses those of the wire,
- the foreign side sent and received messages of the very sizes that passed,
- compressed were the messages that had to be,
- and, with the layer, the same headers, messages, trailers and statuses passed as without it.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time

from relay import Relay

HERE = os.path.dirname(os.path.abspath(__file__))
# In seconds, for a machine that is slow; nothing here takes as long.
PATIENCE = 30

# Each case, and the flags that its messages have to carry, RPC by RPC: of the requests, and of the
# responses. No flag is 1 in the first ones.
PLAIN = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
]
COMPRESSED = {
    # The probes ask whether the server sees that a request is not compressed, though it should be.
    "client_compressed_unary_probe": ([[0]], None),
    "client_compressed_unary": ([[1], [0]], None),
    "server_compressed_unary": (None, [[1], [0]]),
    "client_compressed_streaming_probe": ([[0]], None),
    "client_compressed_streaming": ([[1, 1]], None),
    "server_compressed_streaming": (None, [[1, 0]]),
}
RPCS = {
    "custom_metadata": 2,
    "status_code_and_message": 2,
    "special_status_message": 2,
    "client_compressed_unary": 2,
    "server_compressed_unary": 2,
}
# Both sides act at once: whether a response still passes differs from run to run. tonic and Node
# half-close a stream before they reset it, and a server may answer in between.
RACES = {"cancel_after_begin", "cancel_after_first_response", "timeout_on_sleeping_server"}

# What a server cannot do, and why.
BLIND = "does not tell its handlers whether a request was compressed"
PLAIN_ANSWERS = "compresses no responses"
CANNOT = {
    ("python", "client_compressed_unary_probe"): BLIND,
    ("python", "client_compressed_streaming_probe"): BLIND,
    ("node", "client_compressed_unary_probe"): BLIND,
    ("node", "client_compressed_streaming_probe"): BLIND,
    ("node", "server_compressed_unary"): PLAIN_ANSWERS,
    ("node", "server_compressed_streaming"): PLAIN_ANSWERS,
}

CODES = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS "
    "PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED "
    "INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED"
).split()
CANCELLED, DEADLINE_EXCEEDED, UNIMPLEMENTED = 1, 4, 12


class Failed(Exception):
    pass


def equal(what, found, expected):
    if found != expected:
        raise Failed(f"{what}: {found} instead of {expected}")


class Peer:
    """A process that prints lines of JSON."""

    running = []

    def __init__(self, *command, env=None):
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **(env or {})},
        )
        self.running.append(self)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def line(self, deadline):
        """The next line, which is to come until then."""
        try:
            line = self.lines.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            raise Failed("a peer says nothing more") from None
        if line is None:
            raise Failed(f"a peer is gone: {self.process.args}")
        return line

    def json(self, deadline):
        return json.loads(self.line(deadline))

    def port(self):
        """Where a server listens; its first line says so."""
        line = self.line(time.monotonic() + PATIENCE)
        assert line.startswith("listening on "), line
        return int(line.rsplit(":", 1)[1])

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self):
        self.running.remove(self)
        self.process.kill()
        self.process.wait()


class Peers:
    """How the processes of a kind of peer are started."""

    def __init__(self, examples, node_path):
        self.examples = examples
        self.node = {"NODE_PATH": node_path}

    def client(self, kind, port, traced):
        if kind == "tonic":
            layer = "--traced" if traced else "--untraced"
            return Peer(f"{self.examples}/interop_client", layer, "--port", str(port))
        return self._foreign(kind, "client", str(port))

    def server(self, kind, traced, gzip):
        if kind == "tonic":
            layer = "--traced" if traced else "--untraced"
            more = ["--gzip"] if gzip else []
            return Peer(f"{self.examples}/interop_server", layer, "--port", "0", *more)
        return self._foreign(kind, "server")

    def _foreign(self, kind, *args):
        if kind == "python":
            return Peer(sys.executable, f"{HERE}/peer.py", *args)
        return Peer("node", f"{HERE}/peer.js", *args, env=self.node)


class Side:
    """One end of the pair, and what it said during a case."""

    def __init__(self, role, kind, traced, peer):
        self.role, self.kind, self.traced, self.peer = role, kind, traced, peer
        self.lines = []

    def records(self):
        """What our side recorded of its RPCs."""
        return [line for line in self.lines if "role" in line]

    def messages(self, passed):
        """What a foreign side says of the messages of these methods and ways."""
        found = {key: [] for key in passed}
        for line in self.lines:
            for way in ("sent", "received"):
                key = (line["full_method"], way)
                if way in line and key in found:
                    found[key].append(line[way])
        return found

    def passed(self, case, streams):
        """The sizes that passed, by method and way, as a foreign side is to know them."""
        sizes = {}
        for stream in streams:
            if stream.wire_status() == UNIMPLEMENTED:
                # Nobody waits for the request, neither to send it nor to read it.
                continue
            ways = ("sent", "received") if self.role == "client" else ("received", "sent")
            for way, half in zip(ways, (stream.request, stream.response)):
                if half is stream.request or case not in RACES:
                    key = (stream.path()[1:], way)
                    sizes.setdefault(key, []).extend(half.plain_sizes())
        return sizes

    def check(self, case, streams, deadline):
        """Holds what this side says against what passed."""
        if self.kind != "tonic":
            passed = self.passed(case, streams)
            count = sum(map(len, passed.values()))
            while sum(map(len, self.messages(passed).values())) < count:
                self.lines.append(self.peer.json(deadline))
            equal(f"messages of the foreign {self.role}", self.messages(passed), passed)
        elif self.traced:
            while len(self.records()) < len(streams):
                self.lines.append(self.peer.json(deadline))
            equal(f"records of the {self.role}", len(self.records()), len(streams))
            for record, stream in zip(self.records(), streams):
                check_record(case, self.role, record, stream)


class Pair:
    """A client and a server, and the relay between them."""

    def __init__(self, peers, client, server, gzip):
        (client_kind, client_traced), (server_kind, server_traced) = client, server
        peer = peers.server(server_kind, server_traced, gzip)
        self.server = Side("server", server_kind, server_traced, peer)
        self.relay = Relay(peer.port())
        peer = peers.client(client_kind, self.relay.port, client_traced)
        self.client = Side("client", client_kind, client_traced, peer)
        self.wires = {}

    def end(self):
        self.client.peer.end()
        self.server.peer.end()
        self.relay.close()

    def run(self, case):
        """Runs a case; returns what passed."""
        deadline = time.monotonic() + PATIENCE
        self.client.lines, self.server.lines = [], []
        self.client.peer.ask(case)
        while "case" not in (line := self.client.peer.json(deadline)):
            self.client.lines.append(line)
        if line["error"]:
            raise Failed(f"the client: {line['error']}")
        while not self.relay.all_over():
            if time.monotonic() > deadline:
                raise Failed("an RPC has no end on the wire")
            time.sleep(0.005)
        streams = self.relay.take()
        equal("the relay", self.relay.failure, None)
        equal("RPCs", len(streams), RPCS.get(case, 1))
        check_statuses(case, line["statuses"], streams)
        check_flags(case, self.server.kind, streams)
        for side in (self.client, self.server):
            side.check(case, streams, deadline)
        statuses = None if case in RACES else line["statuses"]
        return statuses, [wire(case, stream) for stream in streams]


def check_statuses(case, statuses, streams):
    """What the client says against what passed."""
    equal("statuses of the client", len(statuses), len(streams))
    for status, stream in zip(statuses, streams):
        if case == "timeout_on_sleeping_server":
            # tonic calls its own timeout CANCELLED.
            allowed = {CANCELLED, DEADLINE_EXCEEDED}
        elif case in RACES:
            allowed = {CANCELLED}
        else:
            allowed = {stream.wire_status()}
        if status not in allowed:
            raise Failed(f"status of the client: {status}, not in {allowed}")


def check_flags(case, server, streams):
    requests, responses = COMPRESSED.get(case, (None, None))
    if case == "server_compressed_streaming" and server == "tonic":
        # tonic compresses all messages of a stream or none.
        responses = [[1, 1]]
    for what, expected in (("request", requests), ("response", responses)):
        flags = [getattr(stream, what).flags() for stream in streams]
        if expected is None:
            expected = [[0] * len(of_stream) for of_stream in flags]
        equal(f"flags of the {what}s", flags, expected)


def check_record(case, role, record, stream):
    """What our side recorded of an RPC against what passed."""
    what = f"{role}'s"
    equal(f"{what} role", record["role"], role)
    equal(f"{what} method", record["full_method"], stream.path()[1:])

    wire_status = stream.wire_status()
    ending = "trailers" if len(stream.response.blocks) > 1 else "headers_only"
    timed = case == "timeout_on_sleeping_server"
    early = False
    if case in RACES and (timed or role == "client" or stream.is_reset()):
        if timed:
            outcomes = {("DEADLINE_EXCEEDED", "deadline")}
        else:
            outcomes = {("CANCELLED", "cancelled")}
        if timed and role == "client" and stream.response.ended:
            # The server's clock was first.
            outcomes.add(("DEADLINE_EXCEEDED", ending))
        if role == "server":
            # The client's clock was first, or a half-closed request was answered, in vain.
            outcomes.add(("CANCELLED", "cancelled"))
            early = stream.request.ended
        if early:
            outcomes.add(("OK", "trailers"))
    else:
        outcomes = {(CODES[wire_status], ending)}
        equal(f"{what} wire status", record["wire_status"], CODES[wire_status])
    outcome = (record["status"], record["ending"])
    if outcome not in outcomes:
        raise Failed(f"{what} outcome: {outcome}, not in {outcomes}")

    ways = ("sent", "received") if role == "client" else ("received", "sent")
    for way, half in zip(ways, (stream.request, stream.response)):
        figures = record[way]
        sizes, flags = half.sizes(), half.flags()
        if half is stream.request and wire_status == UNIMPLEMENTED:
            # Nobody waits for the request, neither to send it nor to read it.
            if figures["message_bytes"] != 0 or figures["messages"] not in (0, 1):
                raise Failed(f"{what} {way}: {figures}")
            continue
        unanswered = figures["messages"] is None and not sizes
        if half is stream.response and case in RACES and (early or unanswered):
            # It was not to pass; of a response that never came nothing is known.
            continue
        found = {key: figures[key] for key in figures if key not in ("complete", "truncated")}
        expected = {
            "messages": len(sizes),
            "message_bytes": sum(sizes),
            "body_bytes": len(half.body),
            "compressed_messages": sum(flags),
            "last_message_bytes": sizes[-1] if sizes else None,
        }
        equal(f"{what} {way}", found, expected)
        equal(f"{what} {way} truncated", figures["truncated"], False)
        if outcome[0] == "OK":
            equal(f"{what} {way} complete", figures["complete"], True)


def wire(case, stream):
    """All that passed of an RPC, but for what differs from run to run."""
    changing = {":authority", "date", "grpc-timeout"}
    blocks = [
        [sorted(field for field in block if field[0] not in changing) for block in half.blocks]
        for half in (stream.request, stream.response)
    ]
    messages = [half.frames() for half in (stream.request, stream.response)]
    if stream.wire_status() == UNIMPLEMENTED:
        messages[0] = None
    if case in RACES:
        return blocks[0], messages[0]
    return blocks, messages, stream.is_reset()


class Count:
    passed = failed = 0


def run_pair(peers, client, server, untraced, count):
    """Runs all cases between two peers; `untraced` holds what passed without the layer."""
    name = " -> ".join(
        kind + (" with the layer" if traced else "") for kind, traced in (client, server)
    )
    print(f"{name}", flush=True)
    for cases, gzip in ((PLAIN, False), (list(COMPRESSED), True)):
        pair = Pair(peers, client, server, gzip)
        for case in cases:
            if reason := CANNOT.get((server[0], case)):
                print(f"  {case}: skipped: {server[0]} as a server {reason}", flush=True)
                continue
            try:
                passed = pair.run(case)
                key = (client[0], server[0], case)
                if client[1] or server[1]:
                    equal("what passed without the layer", untraced.get(key), passed)
                else:
                    untraced[key] = passed
            except Failed as failure:
                count.failed += 1
                # Lines that are still to come would be taken for the next case's.
                pair.end()
                pair = Pair(peers, client, server, gzip)
                print(f"  {case}: FAILED: {str(failure)[:2000]}", flush=True)
            else:
                count.passed += 1
                print(f"  {case}: ok", flush=True)
        pair.end()


def main():
    peers = Peers(*sys.argv[1:])
    count, untraced = Count(), {}
    try:
        for foreign in ("python", "node"):
            for traced in (False, True):
                run_pair(peers, (foreign, False), ("tonic", traced), untraced, count)
                run_pair(peers, ("tonic", traced), (foreign, False), untraced, count)
        for client, server in ((False, False), (True, False), (False, True), (True, True)):
            run_pair(peers, ("tonic", client), ("tonic", server), untraced, count)
    finally:
        for peer in list(Peer.running):
            peer.end()
    print(f"{count.passed} passed, {count.failed} failed")
    sys.exit(1 if count.failed or not count.passed else 0)


if __name__ == "__main__":
    main()
