// Parts of a view that fold. What is folded is not drawn; and if it is a part of the document that is made only when asked
// for, it is not asked for.

// `add(title, {name, part, open, draw})`: `draw.update(...)` is called while the section is open. Which ones are open is kept
// for the model, so that a second look finds them as they were.
function sections({ body, memory, want, again }) {
  const all = [];
  if (!memory.has("sections")) memory.set("sections", new Map());
  const kept = memory.get("sections");
  const tell = () => want(all.filter((one) => one.part && one.node.open).map((one) => one.part));
  const add = (title, { name, part = "", open = true, node: content, update }) => {
    const label = heading(title), note = h("span", { class: "vmc-soft" });
    const node = h("details", { class: "vmc-section", "data-section": name }, h("summary", {}, label, note), content);
    node.open = kept.get(name) ?? open;
    node.addEventListener("toggle", () => {
      if (kept.get(name) === node.open) return;
      kept.set(name, node.open);
      tell();
      again();
    });
    kept.set(name, node.open);
    const section = { node, part, note, update: (...values) => node.open && update(...values) };
    all.push(section);
    body.append(node);
    return section;
  };
  return { add, tell };
}

// Why something is not there: `label: not available because …`.
function reasons(words) {
  const node = h("ul", { class: "vmc-reasons vmc-soft" });
  const rows = keyedRows(node, () => {
    const row = h("li");
    return { node: row, update: ([label, why]) => setText(row, `${label}: ${put(words.not_available, { why: visible(why) })}`) };
  });
  const update = (found) => (setHidden(node, found.length === 0), rows(found, ([label]) => label));
  return { node, update };
}

// Tells whether a value is another than at the last call: what is dear to draw and seldom changes is not drawn again.
function changes() {
  let last;
  return (value) => last !== (last = JSON.stringify(value ?? null));
}

const entries = (value) => (value !== null && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : []);
const partOf = (view, name) => (view.parts !== null && typeof view.parts === "object" ? view.parts[name] : undefined) ?? null;

// A table whose rows are lists of cells: text, or a node of one's own.
function plainTable(label, columns, className = "") {
  const { node, body } = table(label, columns, className);
  const rows = keyedRows(body, () => {
    const cells = columns.map(([, kind], i) => h(i === 0 ? "th" : "td", { class: kind ?? "", ...(i === 0 ? { scope: "row" } : {}) }, h("bdi")));
    return { node: h("tr", {}, ...cells), update: (texts) => cells.forEach((cell, i) => setText(cell.firstChild, texts[i] ?? "")) };
  });
  return { node, update: (lines) => rows(lines, (texts) => texts[0] + "\u0000" + (texts[1] ?? "")) };
}

// A count that opens to a list; the list is written only while it is open.
function fold(label) {
  const summary = h("summary", { class: "vmc-figures" }), items = h("div", { class: "vmc-code" });
  const node = h("details", { class: "vmc-fold" }, summary, items);
  let latest = [];
  const write = () => node.open && setText(items, latest.join("\n"));
  node.addEventListener("toggle", write);
  const update = (texts, count = texts.length) => {
    latest = texts.length < count ? [...texts, "…"] : texts;
    setText(summary, `${label}: ${formatCount(count)}`);
    write();
  };
  return { node, update };
}
