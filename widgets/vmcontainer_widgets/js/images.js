// The image view: the layers of an image as a stack, who else is made of each, and above them what containers write, as it
// appears: files, whiteouts, opaque folders.

const SIGNS = { A: "+", C: "~", D: "−" };
const shortDigest = (digest) => visible(digest ?? "", 90).replace(/^sha256:/, "").slice(0, 12);

function stackRow(words) {
  const digest = h("code", { class: "vmc-mono" }), size = h("span", { class: "vmc-figures" }), made = foreign("vmc-soft"), users = h("bdi", { class: "vmc-soft" });
  const node = h("li", { class: "vmc-layer", "data-kind": "lower" }, digest, size, made, users);
  const update = (layer) => {
    const others = list(layer.images).map((name) => visible(name, 60)), containers = list(layer.containers).map((name) => visible(name, 60));
    setText(digest, shortDigest(layer.diff_id));
    setAttribute(digest, "title", `${words.diff_id} ${visible(layer.diff_id, 90)}, ${words.blob} ${visible(layer.digest, 90)}`);
    setText(size, formatBytes(layer.size_bytes));
    setText(made, visible(layer.created_by, 160));
    setText(users, [`${words.other_images}: ${others.join(", ") || words.alone}`, containers.length ? `${words.containers_of}: ${containers.join(", ")}` : ""].filter(Boolean).join(" · "));
  };
  return { node, update };
}

function changeRow(words) {
  const what = h("td"), sign = h("span", { class: "vmc-sign", "aria-hidden": "true" }), kind = h("span"), path = h("bdi", { class: "vmc-foreign vmc-mono" });
  const type = h("td", { class: "vmc-optional" }), mark = h("td", { class: "vmc-soft" }), size = h("td", { class: "vmc-number" }), when = h("td", { class: "vmc-number vmc-optional" });
  what.append(sign, " ", kind);
  const node = h("tr", { class: "vmc-change" }, h("th", { scope: "row", class: "vmc-wide" }, path), what, type, mark, size, when);
  const update = (row) => {
    setText(sign, lookup(SIGNS, row.kind) ?? "");
    setText(kind, lookup(words.kinds, row.kind) ?? visible(row.kind, 10));
    setText(path, visible(row.path, 200));
    setText(type, lookup(words.types, row.type) ?? visible(row.type, 20));
    setText(mark, lookup(words.marks, row.mark) ?? visible(row.mark, 40));
    setText(size, isNumber(row.size_bytes) ? formatBytes(row.size_bytes) : "");
    setText(when, isNumber(row.time_s) ? new Date(row.time_s * 1000).toLocaleTimeString() : "");
    setAttribute(node, "data-kind", String(row.kind));
    setAttribute(node, "data-mark", String(row.mark));
  };
  return { node, update };
}

function writerCard(words, say) {
  const name = foreign("vmc-strong"), status = h("span", { class: "vmc-pill" }), place = foreign("vmc-soft vmc-mono"), note = h("div", { class: "vmc-soft" });
  const columns = [[words.path, "vmc-wide"], [words.change], [words.type, "vmc-optional"], [words.mark], [words.size, "vmc-number"], [words.when, "vmc-number vmc-optional"]];
  const { node: grid, body } = table(words.upper, columns), box = scroller(words.upper, grid), rows = keyedRows(body, () => changeRow(words));
  const node = h("article", { class: "vmc-card" }, h("div", { class: "vmc-card-head" }, name, status), h("div", {}, place), note, box);
  let before = null;
  const update = (container) => {
    const changes = container.changes ?? null, found = objects(changes?.rows);
    setText(name, visible(container.name, 60));
    setAttribute(node, "aria-label", visible(container.name, 60));
    setText(status, lookup(words.status, container.status) ?? visible(container.status, 30));
    setAttribute(status, "data-tone", container.status === "running" ? "good" : "off");
    setText(place, put(words.upper_at, { path: visible(container.upper, 200) }));
    setText(note, changes === null ? words.asking : changes.cut ? words.more : found.length ? "" : words.no_changes);
    setHidden(box, found.length === 0);
    const sorted = [...found].sort((a, b) => (b.time_s ?? 0) - (a.time_s ?? 0) || String(a.path).localeCompare(String(b.path)));
    rows(sorted, (row) => `${row.kind} ${row.path}`);
    if (changes === null) return;
    const now = new Set(found.map((row) => `${row.kind} ${row.path}`)), fresh = before ? [...now].filter((key) => !before.has(key)).length : 0;
    before = now;
    if (fresh) say(put(words.changed, { name: visible(container.name, 60), count: fresh }));
  };
  return { node, update };
}

function draw(stage) {
  const { body, root, words, say } = stage;
  const name = foreign("vmc-strong"), facts = foreign("vmc-soft vmc-figures");
  const title = h("div", { class: "vmc-title", role: "heading", "aria-level": 2 }, h("span", { class: "vmc-soft" }, words.image), " ", name);
  body.append(h("header", {}, title, h("div", {}, facts)));
  const { add, tell } = sections(stage);
  const empty = h("div", { class: "vmc-soft" }, words.no_containers), cards = h("div", { class: "vmc-paths" });
  const writers = keyedRows(cards, () => writerCard(words, say));
  const stack = h("ol", { class: "vmc-stack", "aria-label": words.layers }), layers = keyedRows(stack, () => stackRow(words));
  const upper = add(words.upper, {
    name: "upper", part: "changes", node: h("div", {}, empty, cards),
    update: (containers) => (setHidden(empty, containers.length > 0), writers(containers, (one) => String(one.name))),
  });
  const below = add(words.layers, { name: "layers", node: stack, update: (found) => layers([...found].reverse(), (one) => String(one.diff_id)) });
  tell();
  return (view) => {
    setText(name, visible(view.name, 80));
    setText(facts, [shortDigest(view.digest), formatBytes(view.size_bytes), visible(view.architecture, 20), `${words.created} ${visible(view.created, 40)}`].join(" · "));
    setAttribute(root, "aria-label", `${words.image} ${visible(view.name, 80)}`);
    upper.update(objects(view.containers));
    below.update(objects(view.layers));
  };
}
