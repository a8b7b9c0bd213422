// What all views use to draw. view.py puts this file, mount.js and the files of a view into one ES module, since a
// widget's module is loaded from a Blob and can import nothing beside it.
//
// Every string of a document is untrusted: it reaches the page as a text node or a checked attribute, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const HISTORY = 120;

// Control characters and bidirectional overrides could hide or reorder what a process is called: write them out.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

function visible(value, limit = 300) {
  const text = String(value ?? "");
  const cut = text.length > limit ? text.slice(0, limit) + "…" : text;
  return cut.replace(UNSEEN, (c) => (c === "\n" || c === "\t" ? " " : "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0")));
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function h(tag, attributes = {}, ...children) {
  return fill(window.document.createElement(tag), attributes, children);
}

function s(tag, attributes = {}, ...children) {
  return fill(window.document.createElementNS(SVG, tag), attributes, children);
}

// A node remembers what it shows, so that an update which changes nothing touches nothing.
function setText(node, text) {
  if (node.shownText !== text) node.textContent = node.shownText = text;
}

function setAttribute(node, name, value) {
  node.shownAttributes ??= {};
  if (node.shownAttributes[name] !== value) node.setAttribute(name, (node.shownAttributes[name] = value));
}

function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

// A list of rows kept by key, behind the child `after`: made once, updated in place, moved only when the order changed.
function keyedRows(parent, make, after = null) {
  const rows = new Map();
  return (items, keyOf, ...context) => {
    const seen = new Set();
    let place = after ? after.nextSibling : parent.firstChild;
    for (const item of items) {
      let key = keyOf(item);
      while (seen.has(key)) key += "'";
      seen.add(key);
      if (!rows.has(key)) rows.set(key, make(item));
      const row = rows.get(key);
      row.update(item, ...context);
      if (row.node === place) place = place.nextSibling;
      else parent.insertBefore(row.node, place);
    }
    for (const [key, row] of rows) if (!seen.has(key)) row.node.remove(), rows.delete(key);
  };
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function formatBytes(bytes) {
  if (!isNumber(bytes)) return "—";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes, unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) value /= 1024, unit++;
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}

function formatSeconds(seconds) {
  if (!isNumber(seconds)) return "—";
  if (seconds < 100) return `${seconds.toFixed(2)} s`;
  const whole = Math.floor(seconds), pad = (n) => String(n).padStart(2, "0");
  const clock = `${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`;
  return whole < 3600 ? clock : `${Math.floor(whole / 3600)}:${clock}`;
}

const formatPercent = (share) => (isNumber(share) ? `${Math.round(share * 100)} %` : "—");
const formatCount = (count) => (isNumber(count) ? String(count) : "—");
const put = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
const list = (value) => (Array.isArray(value) ? value : []);
const objects = (value) => list(value).filter((item) => item !== null && typeof item === "object");
const lookup = (map, key) => (Object.hasOwn(map, String(key)) ? map[key] : undefined);

// Foreign words (names, commands) are isolated, so that right-to-left text cannot reorder the line around it.
const foreign = (className = "") => h("bdi", { class: "vmc-foreign " + className });

function heading(text, level = 3) {
  const node = h("div", { class: "vmc-heading", role: "heading", "aria-level": level });
  setText(node, text);
  return node;
}

function table(label, columns, className = "") {
  const head = h("tr", {}, ...columns.map(([name, kind]) => h("th", { scope: "col", class: kind ?? "" }, name)));
  const body = h("tbody");
  const node = h("table", { class: "vmc-table " + className, "aria-label": label }, h("thead", {}, head), body);
  return { node, body };
}

// A wide table scrolls in a box of its own; the box takes the focus, so that the arrow keys scroll it.
const scroller = (label, child) => h("div", { class: "vmc-scroll", role: "region", tabindex: "0", "aria-label": label }, child);

// Use of a counter per second, from two documents; a counter that fell (a new process) gives a gap.
function rate(before, after, seconds) {
  return isNumber(before) && isNumber(after) && seconds > 0 && after >= before ? (after - before) / seconds : null;
}

// Samples by name, the newest last; kept for the whole model, so that a second view or a moved cell goes on.
class History {
  constructor() {
    this.clear();
  }
  clear() {
    this.series = new Map();
    this.time_s = -Infinity;
    this.counters = new Map();
  }
  begin(time_s) {
    this.elapsed_s = time_s - this.time_s;
    this.fresh = time_s !== this.time_s;
    this.time_s = time_s;
  }
  level(name, value) {
    if (!this.series.has(name)) this.series.set(name, []);
    const samples = this.series.get(name);
    if (this.fresh && samples.push(isNumber(value) ? value : null) > HISTORY) samples.shift();
    return samples;
  }
  counter(name, value) {
    const speed = rate(this.counters.get(name), value, this.elapsed_s);
    if (this.fresh) this.counters.set(name, value);
    return this.level(name, speed);
  }
}

// A line over an area, the newest sample at the right edge; `limit` is drawn as a dashed line.
function chart(height) {
  const area = s("path", { class: "vmc-area" });
  const line = s("path", { class: "vmc-line", "vector-effect": "non-scaling-stroke" });
  const limitLine = s("line", { class: "vmc-limit", x1: 0, x2: HISTORY - 1, "vector-effect": "non-scaling-stroke" });
  const node = s("svg", { class: "vmc-chart", viewBox: `0 0 ${HISTORY - 1} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, area, line, limitLine);
  const update = (samples, top, limit) => {
    const y = (value) => (height - 1 - (Math.min(value, top) / (top || 1)) * (height - 3)).toFixed(1);
    const points = [];
    samples.forEach((value, i) => value !== null && points.push([HISTORY - samples.length + i, y(value)]));
    const stroke = points.map(([x, at], i) => `${i && points[i - 1][0] === x - 1 ? "L" : "M"}${x} ${at}`).join("");
    setAttribute(line, "d", stroke || "M0 0");
    const ends = points.length ? [points[0][0], points[points.length - 1][0]] : [0, 0];
    setAttribute(area, "d", points.length ? `M${ends[0]} ${height}${points.map(([x, at]) => `L${x} ${at}`).join("")}L${ends[1]} ${height}Z` : "M0 0");
    setAttribute(limitLine, "visibility", isNumber(limit) ? "visible" : "hidden");
    if (isNumber(limit)) setAttribute(limitLine, "y1", y(limit)), setAttribute(limitLine, "y2", y(limit));
  };
  return { node, update };
}

