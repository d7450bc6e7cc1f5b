"""Opens the page of the `live` example in a browser, and checks what a person sees and does.

    python live.py EXAMPLE CHROMIUM SCREENSHOTS
"""

import json
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import quote

from checks import PATIENCE, check, report, wait_for
from playwright.sync_api import sync_playwright

EXAMPLE, CHROMIUM, SCREENSHOTS = sys.argv[1:]
UNARY = "echo.Echo/UnaryEcho"

# What browsers complained of, and where they went.
complaints = []
hosts = set()


def get(query="", accept="*/*", **headers):
    request = urllib.request.Request(url + query, headers={"accept": accept, **headers})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read().decode()


def status(query="", **headers):
    try:
        get(query, **headers)
        return 200
    except urllib.error.HTTPError as error:
        return error.code


def page_json(**query):
    pairs = "&".join(f"{key}={quote(str(value))}" for key, value in query.items())
    return json.loads(get(f"?format=json&{pairs}"))


def open_page(browser, query="", width=1280, scheme="light", script=True):
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}, java_script_enabled=script
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", lambda request: hosts.add(request.url.split("?")[0].rstrip("/")))
    page.goto(url + query)
    return page


def in_flight(page):
    return int(re.sub(r"\D", "", page.locator(".strip b").first.inner_text()))


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


def luminance(page):
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", color)[:3]))


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def below(rpc, begin=0.0):
    """All that is below an RPC, as its page lists it, with the time from its start."""
    for child in rpc.get("children", []):
        at = begin + child["at"]
        yield at, child
        yield from below(child, at)


def rpc_with_children():
    """A client's call that failed: a server of this page served it and called the store."""
    for rpc in page_json(method=UNARY, role="client", code="DEADLINE_EXCEEDED")["samples"]["rpcs"]:
        try:
            rpc = page_json(rpc=rpc["id"])
        except urllib.error.HTTPError:
            # A newer sample has taken its place.
            continue
        roles = [child["role"] for _, child in below(rpc)]
        # The front, its two calls of the store, and the store.
        if roles[:2] == ["server", "client"] and roles.count("client") > 1 and roles.count("server") > 1:
            return rpc
    return None


def figures_move(page):
    seen = []

    def grown_and_shrunk():
        """Whether it was low, then high, then low."""
        seen.append(in_flight(page))
        lower_around = (
            min(seen[: at + 1]) + 15 <= high and min(seen[at:]) + 15 <= high for at, high in enumerate(seen)
        )
        return any(lower_around)

    page.evaluate("window.notReloaded = true")
    try:
        wait_for("in flight to grow and to shrink", grown_and_shrunk)
    except TimeoutError:
        pass
    check("in flight grows and shrinks", grown_and_shrunk() or seen)
    check("it does so without a reload", page.evaluate("window.notReloaded"))


def ended_appear(page):
    # With one row in flight, so that no table grows above the pointer.
    page.goto(url + "?limit=1")
    rows = page.locator("#ended tbody tr")
    wait_for("RPCs that end to appear", lambda: rows.count() == 8)
    first = rows.first.inner_text()
    wait_for("newer ones to come before them", lambda: rows.first.inner_text() != first)
    page.locator("#ended tbody").hover()
    first = rows.first.inner_text()
    time.sleep(2.5)
    check("rows that someone points at stay", rows.first.inner_text(), first)
    page.mouse.move(0, 0)
    wait_for("them to move again", lambda: rows.first.inner_text() != first)
    page.goto(url + "?method=*Streaming*")
    wait_for("RPCs that match to appear", lambda: rows.count() > 0)
    check("only those", all("Streaming" in text for text in texts(page, "#ended tbody td:first-child")))
    # Without the stream the rest moves.
    context = page.context
    alone = context.new_page()
    alone.route("**/*view=watch*", lambda route: route.fulfill(status=503, body="16 readers watch already"))
    alone.goto(url)
    before = alone.locator("#methods").inner_text()
    wait_for("a page without its stream to move", lambda: alone.locator("#methods").inner_text() != before)
    check("without its stream it shows no RPCs that ended", alone.locator("#ended").is_visible(), False)
    alone.close()


def search(page):
    page.fill("input[name=q]", "method:*Streaming* age:>1ms")
    page.select_option("select[name=role]", "server")
    page.click("form button")
    page.wait_for_load_state()
    methods = texts(page, "table.open tbody td:first-child a")
    check("a filter leaves only what matches", len(methods) > 0 and all("Streaming" in m for m in methods))
    check("on the chosen side", set(texts(page, "table.open tbody td:nth-child(2)")), {"server"})
    check("the field keeps what was asked for", page.input_value("input[name=q]"), "method:*Streaming* age:>1ms")
    check("the choice too", page.input_value("select[name=role]"), "server")
    page.click("text=total")
    page.wait_for_load_state()
    check("another window keeps the filter", "Streaming" in page.input_value("input[name=q]"))


def row_opens_its_rpc(page):
    page.goto(url + "?q=Streaming")
    link = page.locator("table.open tbody a").first
    method, href = link.inner_text(), link.get_attribute("href")
    link.click()
    page.wait_for_load_state()
    check("a row opens its RPC", page.url, url + href)
    check("which has its name", method in page.locator("h2").first.inner_text())
    check("and says that it runs", page.locator("p.facts .tag").first.inner_text(), "in flight")
    moved = page.locator("table.facts").inner_text()
    wait_for("its figures to move", lambda: page.locator("table.facts").inner_text() != moved)
    check("its figures move", True)


def waterfall(page):
    rpc = wait_for("an RPC with calls", rpc_with_children)
    page.goto(f"{url}?rpc={rpc['id']}")
    rows = page.locator(".fall .row:has(svg)")
    whole = rows.first.locator("rect").first.bounding_box()
    children = page.locator(".fall .row:has(a)")
    calls = list(below(rpc))
    check("the waterfall has its calls and the RPCs that serve them", children.count(), len(calls))
    check("the first serves the call", (calls[0][1]["role"], calls[0][1]["method"]), ("server", rpc["method"]))
    for index, (at, child) in enumerate(calls):
        bar = children.nth(index).locator("rect").first.bounding_box()
        begin = whole["x"] + whole["width"] * at / rpc["seconds"]
        width = whole["width"] * child["seconds"] / rpc["seconds"]
        near = abs(bar["x"] - begin) < 6 and abs(bar["width"] - width) < 6
        check(f"call {index + 1} is where it belongs", near and bar["x"] + bar["width"] <= whole["x"] + whole["width"] + 6)
    link = page.locator("p.facts a", has_text="trace").get_attribute("href")
    check("it links to its trace", bool(re.fullmatch(r"http://localhost:16686/trace/[0-9a-f]{32}", link)))
    check("it has the error's code", page.locator("p.facts .tag").first.inner_text(), "DEADLINE_EXCEEDED")
    page.screenshot(path=SCREENSHOTS / "rpc.png", full_page=True)


def markup(page):
    page.goto(url)
    cell = page.locator("table.open a, table.done a", has_text="<script>").first
    check("a method called <script> is text", cell.inner_text(), "/jobs/<script>document.title=1</script>")
    cell.click()
    page.wait_for_load_state()
    check("on its page too", "<script>document.title=2</script>" in page.locator("dl").inner_text())
    check("and no script ran", page.title().startswith("RPCs"))


def connections(page):
    page.goto(url)
    page.click("nav a:has-text('connections')")
    page.wait_for_load_state()
    rows = page.locator("table.conns").first.locator("tbody tr:not(.on)")
    check("both sides of both connections are listed", rows.count(), 4)
    bytes_of = lambda: [row.locator("td").last.inner_text() for row in rows.all()]
    before = bytes_of()
    wait_for("bytes to move", lambda: bytes_of() != before)
    page.locator("table.conns .on a", has_text="ServerStreaming").first.click()
    page.wait_for_load_state()
    check("an RPC on a connection opens its page", page.locator(".fall").count(), 1)
    check("and it is in flight", page.locator("p.facts .tag").first.inner_text(), "in flight")


def keyboard(page):
    page.goto(url)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('table.open') !== null"):
            break
    href = page.evaluate("document.activeElement.getAttribute('href')")
    check("the keyboard reaches a row", str(href).startswith("?rpc="))
    time.sleep(2.5)
    still = page.evaluate("document.activeElement.getAttribute('href')")
    check("an update leaves the focus in the table", still in (href, None))
    page.keyboard.press("Tab")
    page.goto(url)
    page.click("#live")
    check("the updates can be paused", page.get_attribute("#live", "aria-pressed"), "false")
    before = page.locator("#main").inner_text()
    time.sleep(2.5)
    check("and then the page stays", page.locator("#main").inner_text(), before)


def looks(browser):
    for name, scheme, width in [("light", "light", 1280), ("dark", "dark", 1280), ("phone", "light", 390), ("phone-dark", "dark", 390)]:
        page = open_page(browser, scheme=scheme, width=width)
        check(f"{name}: no overflow", overflow(page), False)
        check(f"{name}: the background is {scheme}", luminance(page) > 384, scheme == "light")
        # With the calls that hang, and some history.
        wait_for("a wave of calls", lambda: in_flight(page) > 30)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")
        page.screenshot(path=SCREENSHOTS / f"{name}-full.png", full_page=True)
        page.goto(url + "?limit=9")
        wait_for("RPCs that end to appear", lambda: page.locator("#ended tbody tr").count() == 8)
        page.screenshot(path=SCREENSHOTS / f"{name}-short.png", full_page=True)
        for query in [f"?method={UNARY}&role=server", "?view=connections", f"?rpc={wait_for('an RPC with calls', rpc_with_children)['id']}"]:
            page.goto(url + query)
            check(f"{name}: no overflow at {query[:7]}", overflow(page), False)
        page.screenshot(path=SCREENSHOTS / f"{name}-rpc.png", full_page=True)


def without_script(browser):
    page = open_page(browser, script=False)
    check("without script: the tables are there", page.locator("table.open tbody tr").count() > 0)
    check("without script: the button that needs it is not", page.locator("#live").is_visible(), False)
    search(page)
    page.goto(url)
    page.locator("table.open tbody a").first.click()
    page.wait_for_load_state()
    check("without script: a row opens its RPC", page.locator(".fall").count(), 1)
    page.go_back()
    page.screenshot(path=SCREENSHOTS / "no-script.png")


def forms():
    check("curl gets text", get().startswith("shop  up "))
    check("a browser gets HTML", get(accept="text/html").startswith("<!DOCTYPE html>"))
    check("the page is small", len(get(accept="text/html")) < 50_000)
    check("JSON has the same methods", sorted(r["method"] for r in page_json(role="server")["methods"]["rows"])[-1], UNARY)
    check("another host is refused", status(host="evil.example"), 421)
    check("an unknown filter is refused", status("?color=red"), 400)
    with urllib.request.urlopen(url + "watch?failed=1", timeout=PATIENCE) as events:
        seen = [next(events).decode() for _ in range(40)]
    rpcs = [json.loads(line[6:]) for line in seen if '"failed":true' in line and '"id"' in line[:14]]
    check("RPCs that fail are watched", len(rpcs) > 0)


def browse():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = open_page(browser)
            figures_move(page)
            ended_appear(page)
            search(page)
            row_opens_its_rpc(page)
            waterfall(page)
            markup(page)
            connections(page)
            keyboard(page)
            looks(browser)
            without_script(browser)
        finally:
            browser.close()
    check("no browser complained", complaints, [])
    check("no request left the page", [host for host in sorted(hosts) if host != url.rstrip("/")], [])


SCREENSHOTS = pathlib.Path(SCREENSHOTS)
example = subprocess.Popen([EXAMPLE, "0"], stdout=subprocess.PIPE, text=True)
try:
    url = example.stdout.readline().strip()
    forms()
    browse()
finally:
    example.terminate()
    example.wait()
sys.exit(report())
