// Elements and numbers. Text is always text: nothing here, or on this page, parses markup.

export const find = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "scope" || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) [n, unit] = [n / 1024, unit + 1];
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

export function seconds(s) {
  if (s === null || s === undefined || !isFinite(s)) return "–";
  return s < 0.001 ? `${(s * 1e6).toFixed(0)} µs` : s < 1 ? `${(s * 1e3).toFixed(s < 0.1 ? 1 : 0)} ms` : `${s.toFixed(s < 10 ? 2 : 1)} s`;
}

export function count(n, what) {
  return `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
}

export const clock = (time) => new Date(time * 1000).toLocaleTimeString("en-GB");

export function tell(text, bad = false) {
  const note = element("p", { class: bad ? "note bad" : "note" }, text);
  find("said").append(note);
  setTimeout(() => note.remove(), bad ? 12000 : 5000);
}

export function sure(title, text, yes) {
  const dialog = find("sure");
  setText(find("sure-title"), title);
  setText(find("sure-text"), text);
  setText(find("sure-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}
