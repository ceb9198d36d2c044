// The table: tasks of the store, what is served of each, and what can be done with it.

import { bytes, clock, count, element, find, setText, sure, tell } from "./dom.js";
import { json, task as route } from "./client.js";

const rows = new Map(); // name -> its row
const proofs = new Map(); // name -> what the last verification said
const busy = new Set();
let known = []; // of each task: name, served, current, and what is served of it
let load = { running: {}, totals: {} };
let active = null;
let sorted = { by: "name", up: true };
let changeable = false;
let changed = async () => {};
export const asked = new Set();
let chosen = () => {};

export function start(options) {
  ({ changed, chosen } = options);
  find("filter").addEventListener("input", arrange);
  find("verify-all").addEventListener("click", () => verify(null));
  for (const button of document.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => sortBy(button.dataset.sort));
  }
}

export function show(overview, store) {
  changeable = overview.changeable;
  active = overview.active;
  find("frozen").hidden = changeable;
  find("verify-all").disabled = !changeable || busy.size > 0;
  const served = overview.tasks;
  const base = { name: overview.base, base: true, served: true, current: true, bytes: overview.memory.live ?? 0 };
  const held = new Map(store.map((one) => [one.task, one]));
  const names = new Set([...Object.keys(served), ...held.keys()]);
  known = [base, ...[...names].map((name) => ({
    name, ...served[name], served: name in served, current: held.get(name)?.current ?? true, gone: !held.has(name),
  }))];
  for (const name of asked) if (!known.some((one) => one.name === name && one.served)) asked.delete(name);
  for (const [name, row] of rows) if (!known.some((one) => one.name === name)) rows.delete(name) && row.remove();
  known.forEach(draw);
  arrange();
}

export function showLoad(activity) {
  load = activity;
  if ("active" in activity.engine) active = activity.engine.active;
  known.forEach(drawLoad);
  if (sorted.by === "load" && !find("rows").contains(document.activeElement)) arrange();
}

function draw(one) {
  let row = rows.get(one.name);
  if (!row) {
    row = element("tr", {},
      element("td", { class: "pick" }),
      element("th", { scope: "row" }, element("span", { class: "name" }), element("span", { class: "badges" })),
      cell("Keeps", "kept"), cell("Tier", "tier"), cell("Memory", "size number"), cell("Load", "load number"),
      element("td", { class: "change" }));
    rows.set(one.name, row);
  }
  const part = (name) => row.querySelector(`.${name}`);
  setText(part("name"), one.name);
  part("name").title = one.name;
  row.classList.toggle("absent", !one.served);
  const fidelity = one.fidelity;
  part("kept").replaceChildren(...(one.base ? ["the base"] : one.served ? keeps(fidelity, one.scores) : ["not served"]));
  part("kept").title = fidelity?.weight_error == null ? "" : `${fidelity.kind}: weight error ${fidelity.weight_error}, projection ${fidelity.projection ?? "–"}`;
  setText(part("tier"), one.base ? "–" : one.tier ?? "–");
  setText(part("size"), one.served ? bytes(one.bytes ?? 0) : "–");
  drawPick(one, part("pick"));
  drawButtons(one, part("change"));
  drawLoad(one);
}

const cell = (label, name) => element("td", { class: name, "data-label": label });

function keeps(fidelity, scores) {
  const exact = fidelity?.kind === "exact";
  const grade = exact ? "exact" : fidelity?.grade ?? "?";
  const found = [element("span", { class: `grade ${exact ? "exact" : `grade-${/^[A-F]$/.test(grade) ? grade : "none"}`}` }, grade)];
  if (!exact) found.push(element("span", { class: fidelity?.grade ? "hidden" : "muted" }, ` ${fidelity?.kind ?? "not measured"}`));
  const lines = Object.entries(scores ?? {}).map(([name, s]) => `${name} ${short(s.served)} of ${short(s.original)}`);
  if (lines.length) found.push(element("span", { class: "score", title: lines.join("\n") }, lines[0]));
  return found;
}

const short = (value) => (typeof value === "number" ? String(+value.toFixed(3)) : "–");

function drawPick(one, place) {
  const box = place.firstChild ?? place.appendChild(element("input", {
    type: "checkbox", "aria-label": `Ask ${one.name} in the playground`,
    onchange: (event) => { event.target.checked ? asked.add(one.name) : asked.delete(one.name); chosen(); },
  }));
  box.disabled = !one.served || one.base === true; // the base is always asked
  box.checked = one.base === true || asked.has(one.name);
}

function drawButtons(one, place) {
  const wanted = !one.served ? ["Add"] : one.base ? ["Verify"] : [...(one.current ? [] : ["Update"]), "Verify", "Remove"];
  const there = [...place.children].map((button) => button.textContent);
  if (there.join() !== wanted.join()) {
    place.replaceChildren(...wanted.map((what) => element("button", { type: "button", "aria-label": `${what} ${one.name}`, onclick: () => acts[what](one) }, what)));
  }
  for (const button of place.children) button.disabled = !changeable || busy.has(one.name) || busy.has(null);
}

function drawLoad(one) {
  const row = rows.get(one.name);
  if (!row) return;
  const running = load.running?.[one.name] ?? 0;
  const total = load.totals?.[one.name];
  const words = running ? `${running} running` : total ? `${count(total.requests, "request")}` : one.served ? "idle" : "–";
  setText(row.querySelector(".load"), words);
  row.querySelector(".load").title = total ? `${count(total.requests, "request")} ended, ${count(total.tokens, "token")}` : "";
  const live = one.served && (one.base ? active === null : active === one.name);
  row.classList.toggle("is-live", live);
  const badges = [live && ["live", "live"], busy.has(one.name) && ["busy", "working"],
    !one.current && one.served && ["stale", one.gone ? "no longer in the store" : "new weights in the store"],
    proofs.has(one.name) && proofs.get(one.name)].filter(Boolean);
  const place = row.querySelector(".badges");
  if (place.dataset.shown !== JSON.stringify(badges)) {
    place.dataset.shown = JSON.stringify(badges);
    place.replaceChildren(...badges.map(([kind, text]) => element("span", { class: `badge ${kind}` }, text)));
  }
}

const acts = {
  Add: (one) => act(one.name, "POST", route(one.name), `${one.name} is served`),
  Update: (one) => act(one.name, "POST", route(one.name), `${one.name} has its new weights`),
  Verify: (one) => verify(one.name),
  Remove: async (one) => {
    const text = "Its requests have a minute to end; then its memory is free. It stays in the store.";
    if (await sure(`Stop serving ${one.name}?`, text, "Stop serving")) await act(one.name, "DELETE", `${route(one.name)}?wait=60`, `${one.name} is no longer served`);
  },
};

async function act(name, method, path, done) {
  await working(name, async () => {
    await json(method, path);
    proofs.delete(name);
    tell(done);
  });
  await changed();
}

async function verify(name) {
  await working(name, async () => {
    const { verified } = await json("POST", "v1/taskstore/verify", { task: name });
    const base = known.find((one) => one.base).name;
    for (const proof of verified) proofs.set(proof.task ?? base, ["proved", `proved ${clock(Date.now() / 1000)}`]);
    tell(name === null ? `${count(verified.length, "model")} proved, bit for bit` : `${name} is proved, bit for bit`);
  }, (error) => name !== null && proofs.set(name, ["failed", `not proved: ${error.message}`]));
  await changed();
}

async function working(name, what, failed = () => {}) {
  busy.add(name);
  known.forEach(draw);
  try {
    await what();
  } catch (error) {
    failed(error);
    tell(error.message, true);
  } finally {
    busy.delete(name);
  }
}

function sortBy(by) {
  sorted = { by, up: sorted.by === by ? !sorted.up : by === "name" };
  for (const button of document.querySelectorAll("[data-sort]")) {
    const mine = button.dataset.sort === by;
    button.closest("th").toggleAttribute("aria-sort", mine);
    if (mine) button.closest("th").setAttribute("aria-sort", sorted.up ? "ascending" : "descending");
  }
  arrange();
}

const KEYS = {
  name: (one) => one.name.toLowerCase(),
  kept: (one) => (one.fidelity?.kind === "exact" ? "@" : one.fidelity?.grade ?? "~"),
  bytes: (one) => one.bytes ?? -1,
  load: (one) => (load.running?.[one.name] ?? 0) * 1e9 + (load.totals?.[one.name]?.requests ?? 0),
};

function arrange() {
  const words = find("filter").value.trim().toLowerCase();
  const compare = (a, b) => {
    if (a.base !== b.base) return a.base ? -1 : 1;
    if (a.served !== b.served) return a.served ? -1 : 1;
    const [x, y] = [KEYS[sorted.by](a), KEYS[sorted.by](b)];
    const order = typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true });
    return (sorted.up ? order : -order) || a.name.localeCompare(b.name);
  };
  const wanted = [...known].sort(compare).map((one) => rows.get(one.name));
  const body = find("rows");
  wanted.forEach((row, at) => { if (body.children[at] !== row) body.insertBefore(row, body.children[at] ?? null); });
  let shown = 0;
  for (const row of wanted) {
    row.hidden = !row.querySelector(".name").textContent.toLowerCase().includes(words);
    shown += row.hidden ? 0 : 1;
  }
  find("none").hidden = shown > 0;
}

export const servedNames = () => known.filter((one) => one.served).map((one) => one.name);
export const baseName = () => known.find((one) => one.base)?.name;
