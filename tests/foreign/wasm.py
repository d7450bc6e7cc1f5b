"""Runs a traced client of tonic in a browser, and compares its records with those of the server.

    python wasm.py SERVER CHROMIUM PAGE

What both sides know is equal, if the server's layer is above tonic-web: method, timeout, status, ending, and of both
directions the messages, their bytes and the body's. The browser's client takes the last frame of gRPC-Web out of the
body below the layer, and tonic-web puts it in. The server's layer below tonic-web counts it, and has the same status.
Not equal is what one side cannot know: times, after a status in the headers whether the body came to its end, and
what was on its way when the caller left.
"""

import contextlib
import functools
import http.server
import json
import queue
import subprocess
import sys
import threading
import time

from checks import PATIENCE, check, free_port, report
from playwright.sync_api import sync_playwright

SERVER, CHROMIUM, PAGE = sys.argv[1:]


class Files(http.server.SimpleHTTPRequestHandler):
    """The page, of another origin than the server's."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path != "/":
            return super().do_GET()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,>")


@contextlib.contextmanager
def files():
    handler = functools.partial(Files, directory=PAGE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()


# In the page, and in a worker, which has no window. A panic is an uncaught error: the call does not return.
IN_PAGE = """([server, closed, patience]) => new Promise(async (resolve, reject) => {
    addEventListener('error', (error) => reject(new Error(error.message)));
    setTimeout(() => reject(new Error('no answer')), patience);
    const client = await import('/client.js');
    await client.default({ module_or_path: '/client_bg.wasm' });
    resolve(await client.run(server, closed));
})"""
IN_WORKER = """([server, closed, patience]) => new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('no answer')), patience);
    const script = `
        import start, { run } from '${location.origin}/client.js';
        await start({ module_or_path: '${location.origin}/client_bg.wasm' });
        postMessage(await run('${server}', '${closed}'));`;
    const url = URL.createObjectURL(new Blob([script], { type: 'text/javascript' }));
    const worker = new Worker(url, { type: 'module' });
    worker.onmessage = (message) => resolve(message.data);
    worker.onerror = (error) => reject(new Error(error.message));
})"""


def run_in_browser(server):
    with files() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = browser.new_page()
            page.on("console", lambda message: print(f"        the browser: {message.text}"))
            page.goto(url)
            arguments = [server, f"http://127.0.0.1:{free_port()}", PATIENCE * 1000]
            yield "page", json.loads(page.evaluate(IN_PAGE, arguments))
            yield "worker", json.loads(page.evaluate(IN_WORKER, arguments))
        finally:
            browser.close()


def next_records(records):
    """The server's two records of its next call."""
    return {place: of_place.get(timeout=PATIENCE) for place, of_place in records.items()}


SAME = ["method", "timeout", "code", "wire_status", "ending", "http_status"]
SAME_TRAFFIC = ["messages", "message_bytes", "last_message_bytes", "body_bytes", "complete"]


def compare(name, client, records):
    server, wire = records["grpc"], records["wire"]
    check(f"{name}: fields that both sides know",
          {field: client[field] for field in SAME}, {field: server[field] for field in SAME})
    for direction in "request", "response":
        sizes, of_server = client[direction], server[direction]
        if direction == "response" and client["ending"] == "cancelled":
            check(f"{name}: the server sent what came, or more", of_server["messages"] >= sizes["messages"])
            continue
        same = [field for field in SAME_TRAFFIC
                if [field, direction, client["ending"]] != ["complete", "response", "headers_only"]]
        check(f"{name}: the {direction}'s sizes",
              {field: sizes[field] for field in same}, {field: of_server[field] for field in same})
    if client["ending"] != "cancelled":
        # Five bytes before the trailers, which are at least a status.
        check(f"{name}: the layer below tonic-web counts the trailers",
              wire["response"]["body_bytes"] >= client["response"]["body_bytes"] + 5, client["ending"] == "trailers")
    check(f"{name}: the layer below tonic-web has the same status", wire["code"], client["code"])
    check(f"{name}: protocols", [client["protocol"], server["protocol"], wire["protocol"]],
          ["Grpc", "Grpc", "GrpcWeb"])


def unreachable(name, call):
    record = call["record"]
    check(f"{name}: the record has the status that the caller saw",
          [record["code"], call["caller"]["code"]], ["UNKNOWN", 2])
    check(f"{name}: nothing came", [record["ending"], record["http_status"], record["response"]["messages"]],
          ["service_error", None, 0])
    check(f"{name}: the browser's error", "Failed to fetch" in (record["error"] or ""), True)


EXPECTED = {
    # What the caller saw; the record's status and ending; messages of the response.
    "unary": (["hello"], 0, "OK", "trailers", 1),
    "error": ([], 5, "NOT_FOUND", "headers_only", 0),
    "stream": (["hello"] * 3, 0, "OK", "trailers", 3),
    "failing_stream": ([], 10, "ABORTED", "trailers", 2),
    "dropped_stream": (["hello"] * 2, 0, "CANCELLED", "cancelled", 2),
}


def browse(place, found, begin, records):
    names = []
    for call in found["calls"]:
        name, record, caller = f"{place}, {call['call']}", call["record"], call["caller"]
        names.append(call["call"])
        check(f"{name}: a plausible time", begin - 1 < record["started"] < time.time() + 1)
        # The server waits for 0.1 s before each message of this one.
        least = 0.15 if call["call"] == "dropped_stream" else 0
        check(f"{name}: a plausible duration", least < record["duration"] < time.time() - begin + 1)
        hooks = [line.split()[0] for line in call["log"]]
        check(f"{name}: starts and finishes once", [hooks.count("start"), hooks.count("finish")], [1, 1])
        if call["call"] == "unreachable":
            unreachable(name, call)
            continue
        messages, code, status, ending, count = EXPECTED[call["call"]]
        check(f"{name}: what the caller saw", [caller["messages"], caller["code"]], [messages, code])
        check(f"{name}: the record",
              [record["code"], record["ending"], record["response"]["messages"]], [status, ending, count])
        compare(name, record, next_records(records))
    check(f"{place}: all calls were made", names, [*EXPECTED, "unreachable"])
    unary = found["calls"][0]
    check(f"{place}: the deadline is ahead", 3500 < unary["deadline"] <= 3600)
    for code in "OK", "NOT_FOUND", "ABORTED", "CANCELLED", "UNKNOWN":
        check(f"{place}: the scrape has {code}", f'"{code}"' in found["prometheus"])


server = subprocess.Popen([SERVER], stdout=subprocess.PIPE, text=True)
try:
    address = server.stdout.readline().strip()
    records = {"grpc": queue.Queue(), "wire": queue.Queue()}

    def read():
        for line in map(json.loads, server.stdout):
            records[line["place"]].put(line["record"])

    threading.Thread(target=read, daemon=True).start()
    begin = time.time()
    for place, found in run_in_browser(address):
        browse(place, found, begin, records)
finally:
    server.terminate()
    server.wait()
sys.exit(report())
