// The processes of a kernel as a tree, each with its number on the node and in its container.

const DRAWN_PROCESSES = 200;

// Parents before children, each with its depth below the first ancestor in the same group.
function asTree(processes) {
  const children = new Map(), pids = new Set(processes.map((process) => process.pid)), out = [];
  for (const process of processes) {
    const parent = pids.has(process.ppid) && process.ppid !== process.pid ? process.ppid : null;
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(process);
  }
  const walk = (parent, depth) => {
    for (const process of children.get(parent) ?? []) {
      out.push({ process, depth });
      if (out.length < 5000) walk(process.pid, Math.min(depth + 1, 12));
    }
    children.delete(parent);
  };
  walk(null, 0);
  return out;
}

function processRow(words) {
  const pid = h("td", { class: "vmc-number vmc-pid" }), badges = h("span", { class: "vmc-inside" }), mark = badge();
  const command = foreign("vmc-optional"), role = h("span", { class: "vmc-role" }), name = foreign("vmc-strong");
  const state = h("td", { class: "vmc-optional" }), user = h("td", { class: "vmc-number vmc-optional" });
  const time = h("td", { class: "vmc-number" }), memory = h("td", { class: "vmc-number" });
  const what = h("td", { class: "vmc-what vmc-wide" }, name, role, command);
  const inside = h("td", { class: "vmc-number vmc-pid" }, h("span", { class: "vmc-pidpair" }, mark.node, badges));
  const node = h("tr", {}, pid, inside, what, state, user, time, memory);
  const update = ({ process, depth }, owner) => {
    const inner = list(process.pids).slice(1);
    setText(pid, formatCount(process.pid));
    setHidden(inside.firstChild, inner.length === 0);
    if (inner.length) mark.update(owner(process));
    setText(badges, inner.join(" → "));
    setText(name, visible(process.comm, 40));
    setText(role, lookup(words.roles, process.role) && process.role !== "container" ? lookup(words.roles, process.role) : "");
    setHidden(role, role.shownText === "");
    setText(command, visible(process.command, 160));
    setAttribute(what, "style", `--depth: ${depth}`);
    setText(state, lookup(words.states, process.state) ?? visible(process.state, 12));
    setText(user, formatCount(process.uid));
    setText(time, formatSeconds(process.cpu_s));
    setText(memory, formatBytes(process.rss_bytes));
  };
  return { node, update };
}

// The node's own processes and each container's are groups of one table; those nobody of ours started are folded away.
function processGroups(processes, all) {
  const groups = new Map([["", []]]), isOther = (process) => process.role === "process" && !process.container;
  const wanted = processes.filter((process) => all || !isOther(process));
  for (const process of wanted.slice(0, DRAWN_PROCESSES)) {
    const name = process.container ?? "";
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(process);
  }
  const undrawn = Math.max(0, wanted.length - DRAWN_PROCESSES);
  return { groups: [...groups].map(([name, members]) => ({ name, rows: asTree(members) })), others: processes.filter(isOther).length, undrawn };
}

function processGroup(words, columns) {
  const label = foreign("vmc-strong"), kind = h("span", { class: "vmc-soft" });
  const title = h("tr", { class: "vmc-group" }, h("th", { scope: "rowgroup", colspan: columns }, kind, " ", label));
  const node = h("tbody", {}, title);
  const rows = keyedRows(node, () => processRow(words), title);
  const update = (group, owner) => {
    setText(kind, group.name === "" ? words.outside : words.container);
    setText(label, visible(group.name, 60));
    rows(group.rows, (row) => String(row.process.pid), owner);
  };
  return { node, update };
}

function drawProcesses(words, again) {
  const columns = [[words.pid_node, "vmc-number"], [words.pid_inside, "vmc-number"], [words.command_short, "vmc-wide"], [words.state, "vmc-optional"], [words.user, "vmc-number vmc-optional"], [words.cpu_time, "vmc-number"], [words.resident, "vmc-number"]];
  const { node: grid, body } = table(words.processes, columns, "vmc-processes");
  body.remove();
  const groups = keyedRows(grid, () => processGroup(words, columns.length), grid.tHead);
  const toggle = h("button", { type: "button", class: "vmc-button vmc-toggle", "aria-expanded": "false" });
  const cut = h("span", { class: "vmc-soft" });
  toggle.addEventListener("click", () => {
    setAttribute(toggle, "aria-expanded", String(toggle.getAttribute("aria-expanded") !== "true"));
    again();
  });
  const update = (processes, owner, total) => {
    const all = toggle.getAttribute("aria-expanded") === "true";
    const { groups: grouped, others, undrawn } = processGroups(processes, all);
    groups(grouped, (group) => "group " + group.name, owner);
    setHidden(toggle, others === 0);
    setText(toggle, put(all ? words.hide_others : words.show_others, { count: others }));
    const more = undrawn + (isNumber(total) ? Math.max(0, total - processes.length) : 0);
    setText(cut, more ? put(words.not_drawn, { count: more }) : "");
  };
  return { node: h("div", {}, scroller(words.processes, grid), toggle, " ", cut), update };
}

