// What both views use. Python puts this file before each view's own (views.py), since a widget's module is loaded
// from a Blob and can import nothing beside it. LABELS is set by the line before this file.
//
//   Python sets `document` ──▶ change:document ──▶ one animation frame ──▶ update(): only text and shapes that differ
//   page scrolls, tab hides ──▶ `watched` ──▶ Python stops or starts sending
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

function heading(text, level = 4) {
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

// Which views of a model can be seen right now. Another page that shows the same model may set `watched` to false
// when it is hidden; whoever still shows it says true again.
const shownViews = new WeakMap();

function tellWatched(model) {
  const watched = (shownViews.get(model)?.size ?? 0) > 0;
  if (model.get("watched") === watched) return;
  model.set("watched", watched);
  model.save_changes();
}

function watch(model, el, onShown) {
  if (!shownViews.has(model)) shownViews.set(model, new Set());
  const views = shownViews.get(model), self = {};
  let onScreen = false, leaving = false;
  const tell = () => {
    const shown = onScreen && !leaving && window.document.visibilityState === "visible";
    const before = views.has(self);
    shown ? views.add(self) : views.delete(self);
    tellWatched(model);
    if (shown && !before) onShown();
  };
  const observer = new IntersectionObserver((entries) => {
    onScreen = entries[entries.length - 1].isIntersecting;
    tell();
  });
  const leave = () => ((leaving = true), tell());
  const back = () => ((leaving = false), tell());
  const other = () => views.size > 0 && tellWatched(model);
  observer.observe(el);
  window.document.addEventListener("visibilitychange", tell);
  window.addEventListener("pagehide", leave);
  window.addEventListener("pageshow", back);
  model.on("change:watched", other);
  return {
    shown: () => views.has(self),
    end: () => {
      observer.disconnect();
      window.document.removeEventListener("visibilitychange", tell);
      window.removeEventListener("pagehide", leave);
      window.removeEventListener("pageshow", back);
      model.off("change:watched", other);
      leave();
    },
  };
}

// Join a view to its model. `draw(body, words, say, model, history)` builds the page once and returns
// update(document, failure); `say` speaks a change of state to a screen reader, never a number.
const histories = new WeakMap();

function mount({ model, el }, draw) {
  if (!histories.has(model)) histories.set(model, new History());
  let update = () => {}, frame = 0;
  const build = () => {
    const words = lookup(LABELS, model.get("language")) ?? LABELS.en;
    const alert = h("div", { class: "vmc-failure", role: "alert" });
    const spoken = h("div", { class: "vmc-spoken", role: "status", "aria-live": "polite" });
    const waiting = h("div", { class: "vmc-waiting" }, words.waiting);
    const body = h("div", { class: "vmc-body" });
    const root = h("section", { class: "vmc", lang: model.get("language") }, alert, waiting, body, spoken);
    const drawn = draw(body, words, (text) => setText(spoken, text), model, histories.get(model), root);
    el.replaceChildren(root);
    update = () => {
      const observed = model.get("document") ?? {}, failure = String(model.get("failure") ?? "").split("\n").map((line) => visible(line)).join("\n");
      setText(alert, failure);
      setHidden(waiting, "kind" in observed);
      setHidden(body, !("kind" in observed));
      root.classList.toggle("vmc-ended", failure !== "");
      if ("kind" in observed) drawn(observed, failure);
    };
    update();
  };
  const watching = watch(model, el, () => update());
  const soon = () => {
    if (frame || !watching.shown()) return;
    frame = requestAnimationFrame(() => ((frame = 0), update()));
  };
  const now = () => update();
  model.on("change:document", soon);
  model.on("change:failure", now);
  model.on("change:language", build);
  build();
  return () => {
    cancelAnimationFrame(frame);
    model.off("change:document", soon);
    model.off("change:failure", now);
    model.off("change:language", build);
    watching.end();
  };
}

// A page that was loaded again restores its models with the `watched` of the page before it, though nothing is drawn yet.
const initialize = ({ model }) => tellWatched(model);
