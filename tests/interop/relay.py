"""A relay between a gRPC client and its server that notes what passes.

It changes nothing. It reads the HTTP/2 frames of both directions, and so knows of each RPC, without
asking either peer: its headers and trailers, and each message with its flag and its bytes.
"""

import socket
import threading
import zlib

from hpack import Decoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, CONTINUATION = 0, 1, 3, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x4, 0x8, 0x20


class Half:
    """One direction of an RPC."""

    def __init__(self):
        self.blocks = []  # header blocks, each a list of names and values
        self.body = bytearray()
        self.ended = False
        self.reset = False

    def header(self, name, block=-1):
        if not self.blocks:
            return None
        return dict(reversed(self.blocks[block])).get(name)

    def frames(self):
        """The messages, as pairs of flag and bytes, and how many bytes are left over."""
        found, at = [], 0
        while at + 5 <= len(self.body):
            length = int.from_bytes(self.body[at + 1 : at + 5], "big")
            if at + 5 + length > len(self.body):
                break
            found.append((self.body[at], bytes(self.body[at + 5 : at + 5 + length])))
            at += 5 + length
        return found, len(self.body) - at

    def sizes(self):
        """The messages' sizes as they stood on the wire."""
        return [len(message) for _, message in self.frames()[0]]

    def flags(self):
        return [flag for flag, _ in self.frames()[0]]

    def plain_sizes(self):
        """The messages' sizes as their sender and receiver know them: not compressed."""
        encoding = self.header("grpc-encoding", 0)
        sizes = []
        for flag, message in self.frames()[0]:
            if flag == 1:
                assert encoding in ("gzip", "deflate"), encoding
                message = zlib.decompress(message, 31 if encoding == "gzip" else 15)
            sizes.append(len(message))
        return sizes


class Stream:
    """An RPC as it passed."""

    def __init__(self):
        self.request = Half()
        self.response = Half()

    def path(self):
        return self.request.header(":path", 0)

    def wire_status(self):
        """The number of the status, `None` where none passed."""
        status = self.response.header("grpc-status")
        return None if status is None else int(status)

    def is_reset(self):
        """Whether a reset, by whichever side, is what ended it."""
        return self.request.reset or self.response.reset

    def is_over(self):
        """Whether it has ended; what passes afterwards is not noted."""
        return self.response.ended or self.is_reset()


class Parser:
    """Reads the frames of one direction of a connection."""

    def __init__(self, skip, stream, side, lock):
        self.buffer = bytearray()
        self.skip = skip
        self.stream = stream
        self.side = side
        self.lock = lock
        self.decoder = Decoder(max_header_list_size=1 << 20)
        self.decoder.max_allowed_table_size = 1 << 20
        self.block = None  # stream, whether it ends the stream, bytes so far

    def feed(self, data):
        self.buffer += data
        if self.skip:
            if len(self.buffer) < self.skip:
                return
            assert self.buffer[: self.skip] == PREFACE, "not HTTP/2"
            del self.buffer[: self.skip]
            self.skip = 0
        at = 0
        while len(self.buffer) - at >= 9:
            length = int.from_bytes(self.buffer[at : at + 3], "big")
            if len(self.buffer) - at < 9 + length:
                break
            kind, flags = self.buffer[at + 3], self.buffer[at + 4]
            stream = int.from_bytes(self.buffer[at + 5 : at + 9], "big") & 0x7FFF_FFFF
            payload = bytes(self.buffer[at + 9 : at + 9 + length])
            at += 9 + length
            with self.lock:
                self.frame(kind, flags, stream, payload)
        del self.buffer[:at]

    def frame(self, kind, flags, stream, payload):
        if kind in (DATA, HEADERS) and flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if kind == HEADERS and flags & PRIORITY:
            payload = payload[5:]
        if kind == HEADERS:
            self.block = (stream, bool(flags & END_STREAM), bytearray(payload))
        elif kind == CONTINUATION:
            self.block[2].extend(payload)
        elif kind == DATA:
            if half := self.half(stream):
                half.body += payload
                half.ended = half.ended or bool(flags & END_STREAM)
        elif kind == RST_STREAM:
            if half := self.half(stream):
                half.reset = True
        if kind in (HEADERS, CONTINUATION) and flags & END_HEADERS:
            stream, ends, block = self.block
            # Also where nobody wants to know: the decoder has to keep up.
            fields = self.decoder.decode(bytes(block))
            if half := self.half(stream):
                half.blocks.append([(str(name), str(value)) for name, value in fields])
                half.ended = half.ended or ends

    def half(self, number):
        """This direction of an RPC that is not over."""
        stream = self.stream(number)
        return None if stream.is_over() else getattr(stream, self.side)


class Relay:
    """Listens on a free port of the loopback address and relays to `upstream`."""

    def __init__(self, upstream):
        self.upstream = upstream
        self.lock = threading.Lock()
        self.streams = []
        self.failure = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def take(self):
        """The RPCs that began since the last call, in the order in which they did."""
        with self.lock:
            streams, self.streams = self.streams, []
        return streams

    def all_over(self):
        with self.lock:
            return all(stream.is_over() for stream in self.streams)

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.upstream))
            known = {}

            def stream(number, known=known):
                if number not in known:
                    known[number] = Stream()
                    self.streams.append(known[number])
                return known[number]

            up = Parser(len(PREFACE), stream, "request", self.lock)
            down = Parser(0, stream, "response", self.lock)
            for source, sink, parser in ((client, server, up), (server, client, down)):
                pump = threading.Thread(
                    target=self._pump, args=(source, sink, parser), daemon=True
                )
                pump.start()

    def _pump(self, source, sink, parser):
        for end in (source, sink):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := source.recv(65536):
                # Noted before either peer can act on it.
                parser.feed(data)
                sink.sendall(data)
        except OSError:
            pass
        except Exception as failure:  # what it cannot read is not to pass unseen
            self.failure = repr(failure)
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
