// Search without a server: the index is a script, since a page that is a file may load scripts and may not fetch.
const own = document.currentScript.dataset;
const form = document.querySelector("[role=search]");
const [box, panel] = [form.querySelector("input"), form.querySelector("#search-found")];
const [count, list] = [panel.querySelector("p"), panel.querySelector("ol")];
const SHOWN = 20;
const BEFORE = 40, AFTER = 120; // letters around the first hit

const plain = (text) => text.normalize("NFC").toLowerCase();

let index;
function load() {
  index ??= new Promise((done) => {
    const script = document.createElement("script");
    script.src = own.index;
    script.onload = () => done(window.searchIndex);
    document.head.append(script);
  });
  return index;
}

// Each word must be somewhere in a section, as a part of a word too: Korean joins particles to its nouns.
function score([, page, title, text], words) {
  const [heading, body] = [plain(`${page} ${title}`), plain(text)];
  const scores = words.map((word) => (heading.includes(word) ? 3 : 0) + (body.includes(word) ? 1 : 0));
  return scores.includes(0) ? 0 : scores.reduce((sum, one) => sum + one, 0);
}

function marked(text, words) {
  const pattern = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
  return text.split(new RegExp(`(${pattern})`, "gi")).map((part, number) => {
    if (number % 2 === 0) return part;
    const mark = document.createElement("mark");
    mark.textContent = part;
    return mark;
  });
}

function item([address, page, title, text], words) {
  const [link, strong, span] = ["a", "strong", "span"].map((name) => document.createElement(name));
  const hits = words.map((word) => plain(text).indexOf(word)).filter((at) => at >= 0);
  const begin = hits.length ? Math.max(0, Math.min(...hits) - BEFORE) : 0;
  const end = begin + BEFORE + AFTER;
  strong.append(...marked(title === page ? title : `${page} › ${title}`, words));
  span.append(begin ? "…" : "", ...marked(text.slice(begin, end), words), end < text.length ? "…" : "");
  link.href = own.up + address;
  link.append(strong, span);
  const entry = document.createElement("li");
  entry.append(link);
  return entry;
}

async function search() {
  const words = plain(box.value).split(/\s+/).filter(Boolean);
  const sections = await load();
  const found = words.length ? sections.map((one) => [score(one, words), one]).filter(([points]) => points) : [];
  found.sort(([one], [other]) => other - one);
  panel.hidden = !words.length;
  count.textContent = found.length ? count.dataset.some.replace("{n}", found.length) : count.dataset.none;
  list.replaceChildren(...found.slice(0, SHOWN).map(([, one]) => item(one, words)));
}

function move(step) {
  const stops = [box, ...list.querySelectorAll("a")];
  stops[Math.min(stops.length - 1, Math.max(0, stops.indexOf(document.activeElement) + step))].focus();
}

form.hidden = false;
box.addEventListener("focus", load);
box.addEventListener("input", search);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  search().then(() => list.querySelector("a")?.click());
});
form.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) move(step);
  else if (event.key === "Escape") [box.value, panel.hidden] = ["", true], box.focus();
  else return;
  event.preventDefault();
});
form.addEventListener("focusout", ({ relatedTarget }) => (panel.hidden ||= !!relatedTarget && !form.contains(relatedTarget)));
form.addEventListener("click", ({ target }) => target.closest("a") && (panel.hidden = true));
// Both languages have the same anchors, so the other one opens where the reader is.
for (const link of document.querySelectorAll(".languages a")) {
  link.addEventListener("click", () => (link.hash = location.hash));
}
