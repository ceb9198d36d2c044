// Opens the page with the key, then asks the server again and again while somebody looks.

import { find, setText, tell } from "./dom.js";
import { json, key, Locked } from "./client.js";
import * as tasks from "./tasks.js";
import * as activity from "./activity.js";
import * as playground from "./playground.js";

const LOOK = 1000; // milliseconds between looks at requests and swaps
const SURVEY = 10; // looks between two surveys of tasks and the store
let overview = null;
const cursors = new Map(); // API process -> its last event that was seen
let process = null;
let looks = 0;
let ticking = null;

async function survey() {
  const [seen, store] = await Promise.all([json("GET", "v1/taskstore"), json("GET", "v1/taskstore/tasks")]);
  overview = seen;
  setText(find("store"), overview.store);
  find("store").title = overview.store;
  document.title = `taskstore · ${overview.store.replace(/\/+$/, "").split("/").pop()}`;
  tasks.show(overview, store.tasks);
  playground.drawAsked();
}

async function look() {
  const found = await json("GET", `v1/taskstore/activity?after=${cursors.get(process) ?? 0}`);
  const seen = cursors.get(found.process) ?? 0;
  found.events = found.events.filter((event) => event.number > seen);
  process = found.process;
  cursors.set(process, found.last);
  activity.show(found, overview);
  tasks.showLoad(found);
}

async function tick() {
  clearTimeout(ticking);
  try {
    if (!document.hidden) {
      if (looks++ % SURVEY === 0) await survey();
      await look();
      status("connected", true);
    }
  } catch (error) {
    if (error instanceof Locked) return lock(error.message);
    looks = 0;
    status(`no answer: ${error.message}`, false);
  }
  ticking = setTimeout(tick, LOOK);
}

function status(text, good) {
  setText(find("status"), text);
  find("status").className = good ? "good" : "bad";
}

async function open() {
  try {
    await survey();
    const names = tasks.servedNames().filter((name) => name !== tasks.baseName());
    if (!tasks.asked.size) playground.chooseSome(names);
    const cards = (await json("GET", "v1/models")).data;
    const templates = cards.map((card) => card.taskstore?.chat_template).filter(Boolean);
    if (templates.length && templates.every((one) => one === "none")) find("mode").value = "plain";
    find("mode").dispatchEvent(new Event("change"));
    await survey();
  } catch (error) {
    if (error instanceof Locked) return lock(key.get() ? error.message : "");
    tell(error.message, true);
  }
  find("locked").hidden = true;
  find("open").hidden = false;
  find("forget").hidden = !key.get();
  if (overview) await tick();
  else setTimeout(open, LOOK * 3);
  document.documentElement.dataset.ready = "true";
}

function lock(why) {
  key.forget();
  clearTimeout(ticking);
  status("locked", false);
  find("open").hidden = true;
  find("forget").hidden = true;
  find("locked").hidden = false;
  setText(find("wrong"), why);
  find("key").focus();
  document.documentElement.dataset.ready = "true";
}

find("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(find("key").value.trim());
  find("key").value = "";
  open();
});
find("forget").addEventListener("click", () => { key.forget(); location.reload(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && overview && !find("open").hidden) tick(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) { event.preventDefault(); find("filter").focus(); }
});
const refresh = async () => { try { await survey(); } catch (error) { tell(error.message, true); } };
tasks.start({ changed: refresh, chosen: playground.drawAsked });
activity.start();
playground.start(() => { playground.drawAsked(); refresh(); });
open();
