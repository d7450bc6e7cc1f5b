// Keeps the page fresh: asks for it again every two seconds and puts the new figures in place. The stream of
// events adds RPCs as they end; without it the rest still moves. Without this script the page is the same, and
// does not move.
"use strict";

const button = document.getElementById("live");
const ended = document.getElementById("ended");
const SHOWN = 8;
let timer, source, retry;
let rows = [];
let arrived = 0;

async function refresh() {
  show();
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!isOn()) return;
    replace(fresh);
    button.classList.remove("bad");
    // The page of an RPC that is over does not change any more.
    if (!fresh.getElementById("live")) stop();
  } catch {
    button.classList.add("bad");
  }
}

function replace(fresh) {
  const main = document.getElementById("main");
  const focused = document.activeElement?.closest("#main a")?.getAttribute("href");
  const scrolled = [...main.querySelectorAll(".wrap")].map((box) => box.scrollLeft);
  if (ended) fresh.getElementById("ended")?.replaceWith(ended);
  main.replaceChildren(...fresh.getElementById("main").childNodes);
  document.querySelector("footer").replaceChildren(...fresh.querySelector("footer").childNodes);
  main.querySelectorAll(".wrap").forEach((box, index) => (box.scrollLeft = scrolled[index] ?? 0));
  if (focused) main.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

// RPCs that have ended, in the rows that the server made. A row that someone points at stays where it is.
function show() {
  if (!rows.length || ended.matches(":hover, :focus-within")) return;
  const fresh = document.createElement("template");
  fresh.innerHTML = rows.join("");
  const body = ended.querySelector("tbody");
  body.prepend(fresh.content);
  while (body.rows.length > SHOWN) body.lastElementChild.remove();
  ended.hidden = false;
  rows = [];
}

function watch() {
  if (!ended || source) return;
  const url = new URL(location.href);
  url.searchParams.set("view", "watch");
  url.searchParams.set("format", "html");
  source = new EventSource(url);
  // The count of those that were not sent begins again with each stream.
  source.addEventListener("open", () => (arrived = ended.querySelector("tbody").rows.length));
  source.addEventListener("rpc", (event) => {
    arrived += 1;
    rows = [event.data, ...rows].slice(0, SHOWN);
  });
  source.addEventListener("progress", (event) => {
    show();
    const more = JSON.parse(event.data).dropped + arrived - ended.querySelector("tbody").rows.length;
    ended.querySelector("small span").textContent = Math.max(more, 0);
  });
  source.addEventListener("error", () => {
    // The browser connects again by itself, unless it was refused, such as when too many watch.
    if (source?.readyState !== EventSource.CLOSED) return;
    unwatch();
    retry = setTimeout(watch, 10000);
  });
}

function unwatch() {
  clearTimeout(retry);
  source?.close();
  source = undefined;
}

const isOn = () => button.getAttribute("aria-pressed") === "true";

function start() {
  stop();
  button.setAttribute("aria-pressed", "true");
  button.textContent = "● live";
  timer = setInterval(() => document.hidden || refresh(), 2000);
  if (!document.hidden) watch();
}

function stop() {
  clearInterval(timer);
  unwatch();
  button.setAttribute("aria-pressed", "false");
  button.textContent = "○ paused";
}

if (button) {
  button.hidden = false;
  button.addEventListener("click", () => (isOn() ? stop() : start()));
  // Browsers open few connections to a host: a page that is not seen keeps none.
  document.addEventListener("visibilitychange", () => (document.hidden ? unwatch() : isOn() && watch()));
  start();
}
