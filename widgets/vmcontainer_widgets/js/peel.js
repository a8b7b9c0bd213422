// The peel view: a switch for each wall of a container. Turning one runs the cell again; what differs stands side by side.

const SIGNS = { same: "=", changed: "≠", with: "−", without: "+" };

const wallName = (words, name) => lookup(words.walls, name) ?? visible(name, 40);

function drawSwitch(words, turn) {
  const state = s("svg", { class: "vmc-switch-sign", viewBox: "0 0 28 16", "aria-hidden": "true" }, s("rect", { x: 1, y: 1, width: 26, height: 14, rx: 7 }), s("circle", { cx: 8, cy: 8, r: 5 }));
  const name = h("span", { class: "vmc-strong" }), about = h("span", { class: "vmc-soft" }), why = h("div", { class: "vmc-soft vmc-switch-why" });
  const id = `vmc-wall-${Math.random().toString(36).slice(2)}`;
  const button = h("button", { type: "button", role: "switch", class: "vmc-switch", "aria-describedby": id }, state, name);
  const node = h("div", { class: "vmc-wall" }, button, h("div", { id }, about, why));
  let wall = {};
  button.addEventListener("click", () => button.getAttribute("aria-disabled") === "false" && turn(wall.name));
  const update = (now, isOn, fixed) => {
    const on = isOn(now);
    wall = now;
    setText(name, wallName(words, now.name));
    setText(about, lookup(words.wall_notes, now.name) ?? "");
    setText(why, now.locked ? put(words.locked, { why: visible(now.locked, 160) }) : "");
    setAttribute(button, "data-wall", visible(now.name, 40));
    setAttribute(button, "aria-checked", String(on));
    setAttribute(button, "aria-disabled", String(Boolean(now.locked) || fixed));
    setAttribute(state.lastChild, "cx", on ? 20 : 8);
    setAttribute(node, "data-turned", String(on !== now.usual));
  };
  return { node, update };
}

function drawSwitches(words, group, turn) {
  const grid = h("div", { class: "vmc-walls" });
  const rows = keyedRows(grid, () => drawSwitch(words, turn));
  const node = h("div", { class: "vmc-part", role: "group", "aria-label": words.groups[group] }, heading(words.groups[group]), grid);
  const update = (walls, ...state) => rows(walls.filter((wall) => wall.group === group), (wall) => String(wall.name), ...state);
  return { node, update };
}

// Two columns; `keyed` rows have a field's name before them. What is the same can be folded away.
function drawDifferences(words, name, { keyed = false, folded = false } = {}) {
  const columns = [["", "vmc-sign"], ...(keyed ? [[words.field]] : []), [words.with_all, "vmc-side"], ["", "vmc-side"]];
  const { node: grid, body } = table(words[name], columns, "vmc-sides");
  const other = grid.tHead.rows[0].lastChild;
  grid.tHead.rows[0].firstChild.append(h("span", { class: "vmc-spoken" }, words.difference));
  const rows = keyedRows(body, () => {
    const sign = h("span", { "aria-hidden": "true" }), means = h("span", { class: "vmc-spoken" }), field = foreign("vmc-mono");
    const left = foreign("vmc-mono"), right = foreign("vmc-mono");
    const cells = [h("td", { class: "vmc-sign" }, sign, means), ...(keyed ? [h("th", { scope: "row" }, field)] : []), h("td", { class: "vmc-side" }, left), h("td", { class: "vmc-side" }, right)];
    const node = h("tr", {}, ...cells);
    const update = (row) => {
      setAttribute(node, "data-mark", lookup(SIGNS, row.mark) ? row.mark : "same");
      setText(sign, lookup(SIGNS, row.mark) ?? "?");
      setText(means, lookup(words.marks, row.mark) ?? "");
      setText(field, visible(row.path, 120));
      setText(left, row.with === null ? "" : visible(row.with));
      setText(right, row.without === null ? "" : visible(row.without));
    };
    return { node, update };
  });
  const toggle = h("button", { type: "button", class: "vmc-button vmc-toggle", "aria-expanded": "false" }), none = h("div", { class: "vmc-soft" }, words.nothing_differs);
  const scroll = scroller(words[name], grid), node = h("div", { class: "vmc-part" }, heading(words[name]), none, scroll, toggle);
  let latest = [], column = "";
  const show = () => {
    const all = !folded || toggle.getAttribute("aria-expanded") === "true", different = latest.filter((row) => row.mark !== "same");
    const shown = all ? latest : different, same = latest.length - different.length;
    rows(shown.map((row, i) => ({ ...row, i })), (row) => `${row.path ?? ""} ${row.i}`);
    setText(other, column);
    setHidden(scroll, shown.length === 0);
    setHidden(none, shown.length > 0);
    setHidden(toggle, !folded || same === 0);
    setText(toggle, put(all ? words.hide_same : words.show_same, { count: formatCount(same) }));
  };
  toggle.addEventListener("click", () => (setAttribute(toggle, "aria-expanded", String(toggle.getAttribute("aria-expanded") !== "true")), show()));
  const update = (items, label) => ((latest = items), (column = label), show());
  return { node, update };
}

function endText(words, run) {
  if (!run) return "";
  const more = run.cut_bytes ? ` · ${put(words.cut, { size: formatBytes(run.cut_bytes) })}` : "";
  return (run.failure ? put(words.no_result, { why: visible(run.failure) }) : put(words.ended, { status: formatCount(run.status) })) + more;
}

function draw({ body, root, words, say, act, again, replays }) {
  const where = h("div", { class: "vmc-soft" }), running = h("span", { class: "vmc-soft", role: "status" }), text = h("div", { class: "vmc-code vmc-output", role: "region", tabindex: "0", "aria-label": words.cell });
  const back = h("button", { type: "button", class: "vmc-button" }, words.all_on), hint = h("div", { class: "vmc-soft" }, words.turn_one);
  const ends = [h("span"), h("span")], result = h("div", { class: "vmc-peel-ends vmc-figures" }, ...ends);
  let asked = null, busy = false, told = null;
  const wanted = () => asked ?? new Set(list(told?.turned));
  const listed = (names) => [...names].sort().join(" ");
  const turn = async (name) => {
    asked = new Set(wanted());
    if (name === null) asked.clear();
    else asked.has(name) ? asked.delete(name) : asked.add(name);
    again();
    if (busy) return;
    busy = true;
    let ran, ok;
    // Switches may be turned while the cell runs: then it runs once more, with all of them.
    do {
      ran = listed(asked);
      ok = (await act("turn", { turned: [...asked] })).ok;
    } while (ok && ran !== listed(asked));
    busy = false;
    if (!ok) asked = null;
    again();
  };
  const groups = ["namespace", "protection"].map((group) => drawSwitches(words, group, turn));
  const parts = { output: drawDifferences(words, "output"), configuration: drawDifferences(words, "configuration", { keyed: true, folded: true }), steps: drawDifferences(words, "steps", { folded: true }) };
  const title = h("div", { class: "vmc-title", role: "heading", "aria-level": 3 }, words.peel);
  back.addEventListener("click", () => back.getAttribute("aria-disabled") !== "true" && turn(null));
  body.append(h("div", { class: "vmc-head" }, title, running, h("div", { class: "vmc-buttons" }, back)), where, text, ...groups.map((group) => group.node), hint, result, ...Object.values(parts).map((part) => part.node));
  setAttribute(root, "aria-label", words.peel);
  return (view, failure) => {
    told = view;
    if (asked && !busy && !view.running && listed(asked) === listed(list(view.turned))) asked = null;
    setAttribute(root, "aria-busy", String(busy || asked !== null));
    const walls = objects(view.switches), turned = wanted();
    const names = list(view.turned).map((name) => wallName(words, name)).join(", ");
    const other = names ? put(words.with_turned, { names }) : "";
    setText(where, view.node === "machine" ? words.on_machine : put(words.on_node, { node: visible(view.node, 60) }));
    setText(running, view.running ? put(words.running, { phase: visible(view.running, 80) }) : "");
    setText(text, String(view.text ?? "").split("\n").map((line) => visible(line, 400)).join("\n"));
    const fixed = failure !== "" || replays;
    setAttribute(back, "aria-disabled", String(turned.size === 0 || fixed));
    groups.forEach((group) => group.update(walls, (wall) => wall.usual !== turned.has(wall.name), fixed));
    setHidden(hint, names !== "");
    setText(ends[0], `${words.with_all}: ${endText(words, view.with)}`);
    setText(ends[1], view.without ? `${other}: ${endText(words, view.without)}` : "");
    const rows = Object.fromEntries(Object.keys(parts).map((name) => [name, objects(view[name])]));
    for (const [name, part] of Object.entries(parts)) part.update(rows[name], other);
    const differ = (name) => rows[name].filter((row) => row.mark !== "same").length;
    if (names && !view.running && !asked) say(`${other}: ${put(words.differ, { output: differ("output"), fields: differ("configuration"), steps: differ("steps") })}`);
  };
}
