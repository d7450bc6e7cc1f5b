// Keeps the page fresh: asks for it again every two seconds and puts the new figures in place. Without
// this script the page is the same, and does not move.
"use strict";

const button = document.getElementById("live");
let timer;

async function refresh() {
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
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
  main.replaceChildren(...fresh.getElementById("main").childNodes);
  document.querySelector("footer").replaceChildren(...fresh.querySelector("footer").childNodes);
  main.querySelectorAll(".wrap").forEach((box, index) => (box.scrollLeft = scrolled[index] ?? 0));
  if (focused) main.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function start() {
  stop();
  button.setAttribute("aria-pressed", "true");
  button.textContent = "● live";
  timer = setInterval(() => document.hidden || refresh(), 2000);
}

function stop() {
  clearInterval(timer);
  button.setAttribute("aria-pressed", "false");
  button.textContent = "○ paused";
}

if (button) {
  button.hidden = false;
  button.addEventListener("click", () =>
    button.getAttribute("aria-pressed") === "true" ? stop() : start(),
  );
  start();
}
