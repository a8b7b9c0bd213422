// The namespace matrix: a row for each set of namespaces or each process, a column for each kind; the same letter and shape is
// the same namespace.

const NAMESPACES = ["pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time"];

// A regular polygon for each owner of a namespace: told apart without colour. The node's own namespaces are circles.
const SIDES = [0, 4, 3, 6, 5, 8, 7];
function badgeShape(index) {
  const sides = SIDES[index % SIDES.length];
  if (sides === 0) return s("circle", { cx: 12, cy: 12, r: 10 });
  if (sides === 4) return s("rect", { x: 2.5, y: 2.5, width: 19, height: 19, rx: 2 });
  const turn = -Math.PI / 2, low = sides === 3 ? 14 : 12, radius = sides === 3 ? 13 : 11;
  const corner = (i) => `${(12 + radius * Math.cos(turn + (2 * Math.PI * i) / sides)).toFixed(1)},${(low + radius * Math.sin(turn + (2 * Math.PI * i) / sides)).toFixed(1)}`;
  return s("polygon", { points: Array.from({ length: sides }, (_, i) => corner(i)).join(" ") });
}

// A, B, … Z, AA, AB …
const letterOf = (index) => (index < 26 ? "" : letterOf(Math.floor(index / 26) - 1)) + String.fromCharCode(65 + (index % 26));

function badge() {
  const shape = s("g"), letter = s("text", { x: 12, y: 16.5, "text-anchor": "middle" });
  const node = s("svg", { class: "vmc-badge", viewBox: "0 0 24 24", "aria-hidden": "true" }, shape, letter);
  const update = (index) => {
    if (node.shownIndex === index) return;
    node.shownIndex = index;
    shape.replaceChildren(badgeShape(index));
    setAttribute(node, "data-tone", String(index === 0 ? 0 : ((index - 1) % 6) + 1));
    setText(letter, letterOf(index));
  };
  return { node, update };
}

// Whoever shares all namespaces is one row. The node's first process comes first; a namespace gets the letter of the
// first row that is in it, so a row with a foreign letter is a row that shares.
// `each`: every process has a row of its own.
function namespaceRows(processes, each = false) {
  const rows = new Map();
  for (const process of processes) {
    const ids = NAMESPACES.map((name) => process.namespaces?.[name] ?? null);
    if (ids.every((id) => id === null)) continue;
    const key = `${process.container ?? ""}\u0000${each ? process.pid : ids.join(" ")}`;
    if (!rows.has(key)) rows.set(key, { key, ids, container: process.container, first: process, count: 0, each });
    rows.get(key).count++;
  }
  const rank = (row) => (row.first.role === "init" ? 0 : row.container ? 2 : 1);
  const sorted = [...rows.values()].sort((a, b) => rank(a) - rank(b) || a.first.pid - b.first.pid);
  NAMESPACES.forEach((_, column) => {
    const owners = new Map();
    sorted.forEach((row, index) => {
      const id = row.ids[column];
      if (id !== null && !owners.has(id)) owners.set(id, index);
      (row.owners ??= [])[column] = id === null ? null : owners.get(id);
    });
  });
  return sorted;
}

const rowName = (row) => visible(row.each && row.container ? `${row.container} ${row.first.comm} ${row.first.pid}` : row.container ?? row.first.comm, 60);

const MATRIX_ROWS = 80;

function drawNamespaces(words, again) {
  const columns = [[words.who], ...NAMESPACES.map((name) => [name, "vmc-center"])];
  const { node, body } = table(words.namespaces, columns, "vmc-matrix");
  NAMESPACES.forEach((name, i) => {
    node.tHead.rows[0].cells[i + 1].append(h("div", { class: "vmc-soft" }, words["ns_" + name]));
  });
  const rows = keyedRows(body, () => {
    const name = foreign("vmc-strong"), more = h("span", { class: "vmc-soft" }), mark = badge(), role = h("span", { class: "vmc-role" });
    const cells = NAMESPACES.map(() => {
      const shape = badge(), id = h("span", { class: "vmc-inode" }), spoken = h("span", { class: "vmc-spoken" });
      return { shape, id, spoken, node: h("td", { class: "vmc-center" }, shape.node, id, spoken) };
    });
    const head = h("th", { scope: "row" }, h("span", { class: "vmc-who" }, mark.node, name, role, more));
    const row = h("tr", {}, head, ...cells.map((cell) => cell.node));
    const update = (now, all, place) => {
      mark.update(place.get(now));
      setText(name, rowName(now));
      setText(more, now.count > 1 ? put(words.and_more, { count: now.count - 1 }) : "");
      setText(role, now.container ? "" : lookup(words.roles, now.first.role) ?? "");
      setHidden(role, role.shownText === "");
      cells.forEach((cell, column) => updateCell(cell, now, column, all));
    };
    return { node: row, update };
  });
  const updateCell = (cell, row, column, all) => {
    const owner = row.owners[column];
    setHidden(cell.shape.node, owner === null);
    if (owner !== null) cell.shape.update(owner);
    setText(cell.id, owner === null ? "—" : String(row.ids[column]));
    setAttribute(cell.node, "data-own", String(all[owner] === row));
    const sharers = all.filter((other) => other !== row && other.ids[column] === row.ids[column]).map(rowName);
    setText(cell.spoken, owner === null ? "" : ` ${letterOf(owner)}, ${sharers.length ? put(words.shared_with, { names: sharers.join(", ") }) : words.own}`);
  };
  const update = (all) => {
    const drawn = all.slice(0, MATRIX_ROWS);
    rows(drawn, (row) => row.key, drawn, new Map(drawn.map((row, index) => [row, index])));
    setText(toggle, pressed() ? words.rows_sets : words.rows_each);
  };
  const toggle = h("button", { type: "button", class: "vmc-button vmc-toggle", "aria-pressed": "false" });
  const pressed = () => toggle.getAttribute("aria-pressed") === "true";
  toggle.addEventListener("click", () => (setAttribute(toggle, "aria-pressed", String(!pressed())), again()));
  return { node: h("div", {}, scroller(words.namespaces, node), toggle), update, each: pressed };
}

