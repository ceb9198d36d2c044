"use strict";
// Draws the figures, in light or dark colours, as wide as the page; shows tabs; prepares printing.
const read = (id) => document.getElementById(id).textContent;
const figures = JSON.parse(read("figures"));
const darker = JSON.parse(read("dark"));
const night = matchMedia("(prefers-color-scheme: dark)");
const NARROWEST = 13; // pixels of a column; where there is less room the chart scrolls
const PAPER = 680; // pixels between the margins of a sheet, across
const SHEET = 860; // and down, less a heading
const options = { displayModeBar: false };
const pen = document.createElement("canvas").getContext("2d");
let printing = false;

async function load() {
  const packed = Uint8Array.from(atob(read("plotly")), (c) => c.charCodeAt(0));
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(plain).text();
  document.head.append(script);
}

// The same figure with every colour's dark partner.
function dark(value, color) {
  if (typeof value === "string") return color && value in darker ? darker[value] : value;
  if (Array.isArray(value)) return value.map((one) => dark(one, color));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => [key, dark(one, color || key.endsWith("color") || key === "colorscale")]),
  );
}

// A heat map's margins follow from its names; its columns stand upright where they are too narrow.
function fit({ data, layout }, width) {
  const { x, y } = data[0];
  const longest = (axis, texts) => Math.max(...texts.map((text) => measured(axis.labelalias?.[text] ?? text)));
  const left = longest(layout.yaxis, y) + 12;
  const column = longest(layout.xaxis, x);
  const wide = Math.max(width, left + x.length * NARROWEST + 8);
  const cell = (wide - left - 8) / x.length;
  const upright = column > cell - 6;
  layout.xaxis.tickangle = upright ? -90 : 0;
  layout.margin = { l: left, r: 8, t: upright ? column + 12 : 24, b: 4 };
  layout.height = layout.margin.t + layout.margin.b + y.length * layout.meta.row;
  const numbers = data.find((trace) => trace.mode === "text");
  if (numbers?.text.length) numbers.visible = cell > Math.max(...numbers.text.map(measured)) + 4;
  return wide;
}

function measured(text) {
  pen.font = "11px system-ui, sans-serif";
  return pen.measureText(new DOMParser().parseFromString(text, "text/html").body.textContent).width;
}

function draw(id) {
  const place = document.getElementById(id);
  const most = parseInt(place.parentNode.style.maxWidth) || Infinity;
  const width = printing ? Math.min(PAPER, most) : place.parentNode.clientWidth;
  if (!width) return undefined; // not shown
  const figure = night.matches && !printing ? dark(figures[id]) : structuredClone(figures[id]);
  figure.layout.width = figure.data[0].type === "heatmap" ? fit(figure, width) : width;
  const height = figure.layout.height;
  if (printing && height < 2 * SHEET) figure.layout.height = Math.min(height, SHEET);
  place.style.minHeight = "";
  return Plotly.react(place, figure.data, figure.layout, options).then(() => scalable(place));
}

// Paper scales a drawing that is too wide for it instead of cutting it.
function scalable(place) {
  for (const svg of place.querySelectorAll(".main-svg")) {
    svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
    svg.parentNode.style.aspectRatio = `${svg.getAttribute("width")} / ${svg.getAttribute("height")}`;
  }
}

const drawAll = () => Promise.all(Object.keys(figures).map(draw)).then(hints);

function select(tab) {
  for (const other of tab.parentNode.children) {
    other.setAttribute("aria-selected", other === tab);
    other.tabIndex = other === tab ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
  draw(tab.id.slice("tab-".length))?.then(hints);
}

// Says where there is more to the side than is shown.
function hints() {
  for (const box of document.querySelectorAll(".scroll, .plot"))
    box.classList.toggle("more", box.scrollWidth > box.clientWidth + 1);
}

function tabs() {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: tab.nextElementSibling, ArrowLeft: tab.previousElementSibling };
      if (step[event.key]) (step[event.key].focus(), select(step[event.key]));
    });
  }
}

function sections() {
  for (const section of document.querySelectorAll(".section"))
    section.addEventListener("toggle", () => {
      for (const plot of section.querySelectorAll("[role=img]")) if (section.open) draw(plot.id);
    });
  for (const closed of document.querySelectorAll("details")) closed.addEventListener("toggle", hints);
  for (const link of document.querySelectorAll("nav a"))
    link.addEventListener("click", () => (document.querySelector(link.hash).open = true));
}

function print(starts) {
  if (printing === starts) return;
  printing = starts;
  if (starts) for (const section of document.querySelectorAll(".section")) section.open = true;
  drawAll();
}

load()
  .then(drawAll)
  .then(() => {
    night.addEventListener("change", drawAll);
    addEventListener("resize", () => requestAnimationFrame(drawAll));
    addEventListener("beforeprint", () => print(true));
    addEventListener("afterprint", () => print(false));
    matchMedia("print").addEventListener("change", (event) => print(event.matches));
    document.documentElement.dataset.ready = "true";
  });
tabs();
sections();
hints();
