// What happens now: tiles, the last minute drawn, and a list of requests and swaps.

import { bytes, clock, count, element, find, seconds, setText } from "./dom.js";

const WINDOW = 60; // seconds
const KEPT = 4000; // events
const LISTED = 80;
const LANES = 10;
let events = [];
let lastSwap = 0;
let paused = false;
let now = 0; // the server's clock, and ours when it said so
let heard = 0;
let previous = null;
let base = "base";
let latest = null;

export function start() {
  find("pause").addEventListener("click", () => {
    paused = !paused;
    find("pause").setAttribute("aria-pressed", String(paused));
    setText(find("pause"), paused ? "Go on" : "Pause");
    if (!paused) drawFeed();
  });
  const frame = () => { if (!paused) drawTimeline(); setTimeout(() => requestAnimationFrame(frame), 100); };
  frame();
}

export function show(activity, overview) {
  base = overview.base;
  now = activity.now;
  heard = performance.now();
  for (const event of activity.events) {
    if (event.swap <= lastSwap) continue; // another process told of it
    lastSwap = event.swap ?? lastSwap;
    events.push(event);
  }
  if (activity.events.length) {
    events.sort((a, b) => a.time - b.time);
    events = events.slice(-KEPT);
    if (!paused) drawFeed();
  }
  latest = activity;
  drawTiles(activity, overview);
}

function drawTiles(activity, overview) {
  const engine = activity.engine;
  const tokens = Object.values(activity.totals).reduce((sum, one) => sum + one.tokens, 0);
  const running = Object.values(activity.running).reduce((sum, n) => sum + n, 0);
  const recent = events.filter((event) => event.kind === "swap" && event.time > now - 10);
  const rate = previous && previous.process === activity.process && now > previous.now ? (tokens - previous.tokens) / (now - previous.now) : 0;
  previous = { tokens, now, process: activity.process };
  const memory = overview.memory;
  const whole = Object.values(memory).reduce((sum, n) => sum + n, 0);
  const parts = Object.entries(memory).map(([use, size]) => `${use.replaceAll("_", " ")} ${bytes(size)}`).join(", ");
  const mean = recent.reduce((sum, one) => sum + one.seconds, 0) / recent.length;
  const served = Object.keys(overview.tasks).length;
  tiles([
    ["Live", engine.active ?? (("active" in engine) ? base : "–"), count(served, "task") + " served"],
    ["Requests", String(running), "running now"],
    ["Tokens", `${Math.max(0, rate).toFixed(rate < 10 ? 1 : 0)}/s`, count(tokens, "token") + " so far"],
    ["Swaps", `${(recent.length / 10).toFixed(1)}/s`, recent.length ? `${seconds(mean)} each` : `${(engine.swaps ?? 0).toLocaleString("en")} so far`],
    ["Memory", bytes(whole), parts],
    ["Weights", overview.verified ? "proved" : "not proved", overview.verified ? "bit for bit" : "verify all tasks", !overview.verified],
  ]);
}

function tiles(wanted) {
  const place = find("tiles");
  while (place.children.length < wanted.length) {
    place.append(element("div", {}, element("dt"), element("dd"), element("dd", { class: "muted" })));
  }
  wanted.forEach(([title, value, more, bad], at) => {
    const tile = place.children[at];
    [title, value, more].forEach((text, i) => { setText(tile.children[i], text); tile.children[i].title = i ? text : ""; });
    tile.classList.toggle("bad", Boolean(bad));
  });
}

const label = (task) => task ?? base;

function lines() {
  const found = [];
  for (let at = events.length - 1; at >= 0 && found.length < LISTED; at--) {
    const event = events[at];
    const last = found[found.length - 1];
    if (event.kind === "swap" && last?.kind === "swap") {
      last.count += 1;
      last.seconds += event.seconds;
      last.before = event.before;
    } else {
      found.push({ ...event, count: 1 });
    }
  }
  return found;
}

function drawFeed() {
  find("feed").replaceChildren(...lines().map((event) => element("li", { class: event.kind + (event.outcome === "error" || event.kind === "failed" ? " bad" : "") },
    element("time", {}, clock(event.time)), element("span", { class: "task" }, label(event.task)), element("span", { class: "what" }, words(event)))));
}

function words(event) {
  if (event.kind === "swap") {
    return event.count === 1 ? `swapped in after ${label(event.before)}, ${seconds(event.seconds)}` : `is live after ${event.count} swaps, ${seconds(event.seconds)} in all`;
  }
  if (event.kind === "failed") return `swap failed, its requests ended: ${event.why}`;
  if (event.kind === "started") return "request came";
  const first = event.first_token_seconds === null ? "" : `, first after ${seconds(event.first_token_seconds)}`;
  const ends = { stop: "answered", length: "answered to its length", abort: "aborted", error: "failed" };
  return `${ends[event.outcome] ?? event.outcome}: ${event.prompt_tokens} + ${count(event.tokens, "token")}${first}, ${seconds(event.seconds)} in all`;
}

// Spans of the last minute by task: where its weights were live, where it had requests.
function spans(from, until) {
  const lanes = new Map();
  const lane = (task) => lanes.get(task) ?? lanes.set(task, { live: [], requests: [], last: 0 }).get(task);
  let live = events.find((event) => event.kind === "swap")?.before;
  let since = from;
  if (live === undefined) live = latest?.engine?.active;
  const begun = new Map();
  for (const event of events) {
    if (event.kind === "swap") {
      if (event.time > from) lane(label(live)).live.push([since, event.time]);
      [live, since] = [event.task, Math.max(from, event.time)];
    } else if (event.kind === "started") {
      begun.set(event.request, event);
    } else if (event.kind === "finished") {
      const start = begun.get(event.request)?.time ?? event.time - event.seconds;
      begun.delete(event.request);
      if (event.time > from) lane(event.task).requests.push([Math.max(from, start), event.time]);
    }
  }
  if (live !== undefined) lane(label(live)).live.push([since, until]);
  for (const one of latest?.requests ?? []) lane(one.task).requests.push([Math.max(from, one.since), until]);
  for (const one of lanes.values()) one.last = Math.max(...[...one.requests, [0, 0]].map((span) => span[1]), ...one.live.map((span) => span[1] - 1));
  const latestFirst = [...lanes].sort((a, b) => b[1].last - a[1].last).slice(0, LANES);
  return latestFirst.sort((a, b) => (a[0] === base ? -1 : b[0] === base ? 1 : a[0].localeCompare(b[0])));
}

function drawTimeline() {
  const canvas = find("timeline");
  const width = canvas.clientWidth;
  if (!width || !now) return;
  const until = now + (performance.now() - heard) / 1000;
  const from = until - WINDOW;
  const shown = spans(from, until);
  const names = Math.min(130, width * 0.3);
  const [step, bottom] = [22, 18];
  const height = Math.max(shown.length, 3) * step + bottom;
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    canvas.style.height = `${height}px`;
  }
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  const x = (time) => names + ((time - from) / WINDOW) * (width - names);
  shown.forEach(([task, lane], at) => {
    const y = at * step;
    pen.fillStyle = color("--line");
    pen.fillRect(names, y + step - 1, width - names, 1);
    pen.fillStyle = color("--ink");
    pen.fillText(fit(pen, task, names - 10), 0, y + step / 2);
    pen.fillStyle = color("--live");
    for (const [begin, end] of lane.live) pen.fillRect(x(begin), y + 2, Math.max(1, x(end) - x(begin)), step - 5);
    pen.fillStyle = color("--accent");
    for (const [begin, end] of lane.requests) pen.fillRect(x(begin), y + step / 2 - 3, Math.max(2, x(end) - x(begin)), 5);
  });
  pen.fillStyle = color("--muted");
  for (const [ago, align] of [[WINDOW, "left"], [WINDOW / 2, "center"], [0, "right"]]) {
    pen.textAlign = align;
    pen.fillText(ago ? `${ago} s ago` : "now", x(until - ago), height - bottom / 2 + 2);
  }
  pen.textAlign = "left";
}

function fit(pen, text, room) {
  if (pen.measureText(text).width <= room) return text;
  let n = Math.min(text.length, 40);
  while (n > 1 && pen.measureText(`${text.slice(0, n)}…`).width > room) n -= 1;
  return `${text.slice(0, n)}…`;
}
