// One prompt for several models at once; their answers stream side by side, as text.

import { count, element, find, seconds, setText } from "./dom.js";
import { events, request } from "./client.js";
import { asked, baseName, servedNames } from "./tasks.js";

const AT_ONCE = 5; // streams; a browser keeps six connections to a server
let stopping = new AbortController();
let running = 0;
let redraw = () => {};

export function start(refresh) {
  redraw = refresh;
  find("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  find("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); find("ask").requestSubmit(); }
  });
  find("stop").addEventListener("click", () => stopping.abort());
  find("mode").addEventListener("change", drawMode);
  drawMode();
}

function drawMode() {
  find("system").disabled = find("mode").value !== "chat";
}

// The models that are asked, and a list to choose more of.
export function drawAsked() {
  const place = find("asked");
  const names = [baseName(), ...[...asked].filter((name) => name !== baseName())];
  const rest = servedNames().filter((name) => !names.includes(name));
  const shown = JSON.stringify([names, rest]);
  if (place.dataset.shown === shown || place.contains(document.activeElement) && document.activeElement.tagName === "SELECT") return;
  place.dataset.shown = shown;
  const chips = names.map((name, at) => element("span", { class: "chip" }, element("span", {}, name),
    at ? element("button", { type: "button", "aria-label": `Do not ask ${name}`, onclick: () => choose(name, false) }, "×") : element("small", {}, "base")));
  const more = element("select", { "aria-label": "Ask one more task", disabled: !rest.length, onchange: (event) => choose(event.target.value, true) },
    element("option", { value: "" }, "add a task…"), ...rest.map((name) => element("option", { value: name }, name)));
  place.replaceChildren(...chips, more);
}

function choose(name, wanted) {
  document.activeElement.blur();
  wanted ? asked.add(name) : asked.delete(name);
  redraw();
  find("asked").querySelector("select").focus();
}

export function chooseSome(names) {
  names.slice(0, 2).forEach((name) => asked.add(name));
}

function send() {
  const prompt = find("prompt").value;
  if (!prompt.trim()) return;
  stopping.abort();
  stopping = new AbortController();
  const names = [baseName(), ...[...asked].filter((name) => name !== baseName())];
  const cards = names.map(card);
  find("answers").replaceChildren(...cards.map((one) => one.root));
  const waiting = [...cards];
  const mine = stopping.signal;
  const next = async () => { for (let one = waiting.shift(); one; one = waiting.shift()) await ask(one, prompt, cards[0], mine); };
  running = cards.length;
  drawButtons();
  Promise.all(Array.from({ length: AT_ONCE }, next)).then(() => { if (stopping.signal === mine) { running = 0; drawButtons(); } });
}

function drawButtons() {
  find("stop").disabled = running === 0;
}

function card(name, at) {
  const text = document.createTextNode("");
  const output = element("div", { class: "output", tabIndex: 0, role: "region", "aria-label": `Answer of ${name}` }, text);
  const state = element("span", { class: "muted" }, "waits");
  const facts = element("footer", { class: "muted" });
  const title = element("h3", {}, element("span", { class: "name", title: name }, name), at ? null : element("small", {}, "base"), state);
  return { name, text, output, state, facts, root: element("article", { class: at ? "answer" : "answer base" }, title, output, facts), done: false };
}

function body(name, prompt) {
  const [tokens, temperature] = [Number(find("tokens").value), Number(find("temperature").value)];
  const options = { model: name, max_tokens: tokens, temperature, stream: true, stream_options: { include_usage: true } };
  if (find("mode").value === "plain") return ["v1/completions", { ...options, prompt }];
  const system = find("system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: prompt }];
  return ["v1/chat/completions", { ...options, messages }];
}

async function ask(one, prompt, base, signal) {
  const began = performance.now();
  const since = () => (performance.now() - began) / 1000;
  let [first, tokens, why] = [null, 0, null];
  if (signal.aborted) return setText(one.state, "stopped");
  setText(one.state, "asked");
  try {
    const answer = await request("POST", ...body(one.name, prompt), signal);
    for await (const event of events(answer)) {
      const choice = event.choices?.[0];
      const piece = choice?.text ?? `${choice?.delta?.reasoning ?? choice?.delta?.reasoning_content ?? ""}${choice?.delta?.content ?? ""}`;
      if (choice && piece) {
        first ??= since();
        setText(one.state, "writes");
        write(one, piece);
      }
      why = choice?.finish_reason ?? why;
      tokens = event.usage?.completion_tokens ?? tokens;
    }
    end(one, why === "length" ? "cut at its length" : "done");
    const speed = tokens > 1 && since() > first ? `, ${(tokens / since()).toFixed(1)} tokens/s` : "";
    setText(one.facts, `${count(tokens, "token")}, first after ${seconds(first)}${speed}`);
    one.done = true;
    if (base.done && one !== base && one.text.data.trim() === base.text.data.trim()) one.facts.append(" · the same as the base");
  } catch (error) {
    const stopped = signal.aborted;
    end(one, stopped ? "stopped" : "failed");
    if (!stopped) { one.root.classList.add("failed"); setText(one.facts, error.message); }
  }
}

function write(one, piece) {
  const box = one.output;
  const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
  one.text.appendData(piece);
  if (follows) box.scrollTop = box.scrollHeight;
}

function end(one, state) {
  setText(one.state, state);
}
