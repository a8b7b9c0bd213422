// The kernel view: one Linux kernel and how it is divided — processes with a number on each side, namespaces, cgroups.

const NAMESPACES = ["pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time"];
const DRAWN_PROCESSES = 200;

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
function namespaceRows(processes) {
  const rows = new Map();
  for (const process of processes) {
    const ids = NAMESPACES.map((name) => process.namespaces?.[name] ?? null);
    if (ids.every((id) => id === null)) continue;
    const key = `${process.container ?? ""}\u0000${ids.join(" ")}`;
    if (!rows.has(key)) rows.set(key, { key, ids, container: process.container, first: process, count: 0 });
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

const rowName = (row) => visible(row.container ?? row.first.comm, 60);

function drawNamespaces(words) {
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
      setText(role, now.container ? "" : lookup(words.roles, now.first.role) ?? "");
      setHidden(role, role.shownText === "");
      setText(more, now.count > 1 ? put(words.and_more, { count: now.count - 1 }) : "");
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
  const update = (all) => rows(all, (row) => row.key, all, new Map(all.map((row, index) => [row, index])));
  return { node: scroller(words.namespaces, node), update };
}

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
  const update = (processes, owner) => {
    const all = toggle.getAttribute("aria-expanded") === "true";
    const { groups: grouped, others, undrawn } = processGroups(processes, all);
    groups(grouped, (group) => "group " + group.name, owner);
    setHidden(toggle, others === 0);
    setText(toggle, put(all ? words.hide_others : words.show_others, { count: others }));
    setText(cut, undrawn ? put(words.not_drawn, { count: undrawn }) : "");
  };
  return { node: h("div", {}, scroller(words.processes, grid), toggle, " ", cut), update };
}

function gauge(label) {
  const picture = chart(40), figure = h("span", { class: "vmc-figures vmc-strong" }), limit = h("span", { class: "vmc-soft" });
  const alarm = h("div", { class: "vmc-alarm" });
  const node = h("div", { class: "vmc-gauge", role: "group", "aria-label": label }, h("div", { class: "vmc-soft" }, label), picture.node, h("div", {}, figure, " ", limit), alarm);
  const update = ({ samples, value, limitValue, text, limitText, alarmText }) => {
    const top = isNumber(limitValue) ? limitValue * 1.15 : 1.2 * Math.max(1e-9, ...samples.filter(isNumber));
    picture.update(samples, Math.max(top, isNumber(value) ? value : 0), limitValue);
    setText(figure, text);
    setText(limit, limitText);
    setText(alarm, alarmText);
    setAttribute(node, "data-near", String(isNumber(limitValue) && isNumber(value) && value >= 0.9 * limitValue));
  };
  return { node, update };
}

const limited = (words, limit, text) => (isNumber(limit) ? `${words.of} ${text}` : words.no_limit);
const warned = (label, count, text) => (isNumber(count) && count > 0 ? `⚠ ${label} ${text}` : "");

function containerCard(words, history) {
  const name = foreign("vmc-strong"), image = foreign("vmc-soft"), status = h("span", { class: "vmc-pill" });
  const memory = gauge(words.chart_memory), cpu = gauge(words.chart_cpu), pids = gauge(words.chart_pids);
  const head = h("div", { class: "vmc-card-head" }, name, status, image);
  const node = h("div", { class: "vmc-card", role: "listitem" }, head, h("div", { class: "vmc-gauges" }, memory.node, cpu.node, pids.node));
  const update = (now) => {
    const key = String(now.id ?? now.name), used = now.memory ?? {}, ran = now.cpu ?? {}, count = now.pids ?? {};
    setText(name, visible(now.name, 60));
    setText(image, visible(now.image, 60));
    setText(status, lookup(words.status, now.status) ?? visible(now.status, 30));
    setAttribute(status, "data-tone", now.status === "running" ? "good" : "off");
    memory.update({
      samples: history.level(`${key} memory`, used.usage_bytes), value: used.usage_bytes, limitValue: used.limit_bytes,
      text: formatBytes(used.usage_bytes), limitText: limited(words, used.limit_bytes, formatBytes(used.limit_bytes)),
      alarmText: warned(words.oom_kills, used.oom_kills, formatCount(used.oom_kills)),
    });
    const speeds = history.counter(`${key} cpu`, ran.usage_s), speed = speeds[speeds.length - 1] ?? null;
    cpu.update({
      samples: speeds, value: speed, limitValue: ran.limit_cpus,
      text: `${formatPercent(speed)} · ${formatSeconds(ran.usage_s)}`, limitText: limited(words, ran.limit_cpus, `${ran.limit_cpus} CPU`),
      alarmText: warned(words.throttled, ran.throttled_s, formatSeconds(ran.throttled_s)),
    });
    pids.update({
      samples: history.level(`${key} pids`, count.current), value: count.current, limitValue: count.limit,
      text: formatCount(count.current), limitText: limited(words, count.limit, formatCount(count.limit)),
      alarmText: warned(words.denied, count.denied, formatCount(count.denied)),
    });
  };
  return { node, update };
}

function drawContainers(words, history) {
  const cards = h("div", { class: "vmc-cards", role: "list" }), empty = h("div", { class: "vmc-soft" }, words.no_containers);
  const rows = keyedRows(cards, () => containerCard(words, history));
  const update = (containers) => {
    setHidden(cards, containers.length === 0);
    setHidden(empty, containers.length > 0);
    rows(containers, (container) => String(container.id ?? container.name));
  };
  return { node: h("div", {}, cards, empty), update };
}

function drawKernelHead(words) {
  const release = foreign("vmc-strong"), node = foreign("vmc-strong"), facts = foreign("vmc-soft vmc-figures");
  const title = h("div", { class: "vmc-title", role: "heading", "aria-level": 2 }, h("span", { class: "vmc-soft" }, words.kernel), " ", release, " ", h("span", { class: "vmc-soft" }, words.of_node), " ", node);
  const update = (view) => {
    const kernel = view.kernel ?? {}, memory = view.memory ?? {};
    setText(release, `Linux ${visible(kernel.release, 60)}`);
    setText(node, visible(view.node, 60));
    const free = `${words.memory_free} ${formatBytes(memory.available_bytes)} ${words.of} ${formatBytes(memory.total_bytes)}`;
    const load = `${words.load} ${isNumber(kernel.load_1min) ? kernel.load_1min.toFixed(2) : "—"}`;
    setText(facts, [`${words.hostname} ${visible(kernel.hostname, 60)}`, visible(kernel.machine, 20), `${formatCount(kernel.cpus)} ${words.cpus}`, `${words.up} ${formatSeconds(kernel.uptime_s)}`, load, free, `${words.cgroup} ${visible(kernel.cgroup, 20)}`].join(" · "));
  };
  return { node: h("header", {}, h("div", { class: "vmc-head" }, title), h("div", {}, facts)), update };
}

// Speaks when a container comes, goes or changes its status; the first document is no change.
function speaker(words, say) {
  let before = null;
  return (containers) => {
    const now = new Map(containers.map((c) => [visible(c.name, 60), lookup(words.status, c.status) ?? visible(c.status, 30)]));
    const changes = [];
    for (const [name, status] of now) if (before && before.get(name) !== status) changes.push(put(words.container_is, { name, status }));
    for (const name of before?.keys() ?? []) if (!now.has(name)) changes.push(put(words.container_gone, { name }));
    before = now;
    if (changes.length) say(changes.join(" "));
  };
}

function draw({ body, root, words, say, again, history }) {
  const head = drawKernelHead(words), speak = speaker(words, say), namespaces = drawNamespaces(words);
  const processes = drawProcesses(words, again), containers = drawContainers(words, history), isolation = drawIsolation(words);
  body.append(head.node, heading(words.cgroups), containers.node, heading(words.processes), processes.node, heading(words.namespaces), namespaces.node, heading(words.isolation), isolation.node);
  const show = (view) => {
    const all = namespaceRows(objects(view.processes).filter((process) => process.role !== "process" || process.container));
    const owners = new Map(all.flatMap((row) => (row.ids[0] === null ? [] : [[row.ids[0], row.owners[0]]])));
    head.update(view);
    setAttribute(root, "aria-label", `${words.kernel} ${visible(view.kernel?.release, 60)}, ${words.of_node} ${visible(view.node, 60)}`);
    containers.update(objects(view.containers));
    processes.update(objects(view.processes), (process) => owners.get(process.namespaces?.pid) ?? 0);
    namespaces.update(all);
    isolation.update(objects(view.isolation));
    speak(objects(view.containers));
  };
  return (view) => {
    history.begin(view.time_s);
    show(view);
    history.fresh = false;
  };
}
