// The hypervisor view's second level: parts that are asked for only while their section is open
// (docs/architecture.md, "Views": `parts`).

// Where the guest's memory is, seen from the host: pages of the template's file, pages it has copied, none yet.
function drawMap(words) {
  const bar = memoryBar(words.map_ram, ["private", "shared", "given"]);
  const parts = [legend(words.map_copied, "private"), legend(words.map_template, "shared"), legend(words.map_untouched, "given")];
  const facts = h("div", { class: "vmc-soft" });
  const modules = plainTable(words.map_modules, [[words.id, "vmc-strong"], [words.type], [words.size, "vmc-number"]], (one) => [visible(one.id, 60), visible(one.type, 40), formatBytes(one.size_bytes)], (one) => String(one.id));
  const blocks = plainTable(
    words.map_blocks,
    [[words.name, "vmc-strong"], [words.size, "vmc-number"], [words.page, "vmc-number"]],
    (one) => [visible(one.name, 80), formatBytes(one.total_bytes), formatBytes(one.page_bytes)],
    (one) => String(one.name),
  );
  const rest = stacked(words, [[words.map_modules, modules, (part) => part.modules], [words.map_blocks, blocks, (part) => part.blocks]]);
  const spaces = h("div"), rows = keyedRows(spaces, (space) => drawSpace(words, space));
  const node = h("div", {}, h("div", { class: "vmc-memory" }, bar.node, h("div", { class: "vmc-memory-row" }, h("div", { class: "vmc-legends" }, ...parts.map((one) => one.node)))), facts, rest.node, spaces);
  const update = (part) => {
    const ram = part.ram ?? {}, missing = part.missing ?? {};
    const mapped = ram.mapped_bytes, resident = ram.resident_bytes, copied = ram.copied_bytes ?? resident, shared = ram.template_bytes ?? 0;
    const untouched = isNumber(mapped) && isNumber(resident) ? Math.max(0, mapped - resident) : null;
    bar.update([copied, shared, untouched], mapped || 1, formatBytes(mapped), part.ram ? "" : reasonOf(words, missing, "ram"));
    [copied, part.ram ? shared : null, untouched].forEach((bytes, i) => parts[i].update(bytes));
    const summary = part.summary ?? {};
    setText(facts, put(words.map_facts, { base: formatBytes(summary.base_bytes), plugged: formatBytes(summary.plugged_bytes), share: formatBytes(ram.proportional_bytes) }));
    rest.update(part);
    rows(objects(part.spaces), (space) => String(space.name));
  };
  return { node, update };
}

// One address space; its ranges are drawn when it is opened.
function drawSpace(words, space) {
  const name = visible(space.name, 60), title = lookup(words.spaces, space.name) ?? name;
  const ranges = plainTable(
    title,
    [[words.start, "vmc-mono"], [words.end, "vmc-mono"], [words.size, "vmc-number"], [words.type], [words.name, "vmc-strong"]],
    (range) => [visible(range.start, 24), visible(range.end, 24), formatBytes(range.size_bytes), visible(range.kind, 20), visible(range.name, 80)],
    (range) => String(range.start),
  );
  const count = h("span");
  const node = h("details", { class: "vmc-fold" }, h("summary", {}, title, " ", count), scroller(title, ranges.node));
  let latest = space;
  const draw = () => node.open && ranges.update(objects(latest.ranges));
  node.addEventListener("toggle", draw);
  const update = (now) => {
    latest = now;
    setText(count, `(${objects(now.ranges).length})`);
    draw();
  };
  return { node, update };
}

// QEMU's objects as a tree, and the functions that the guest's bus lists. Two rows that are one device have the same
// twin: to hover or to focus one lights up both, and each names the other in text.
function drawTwins(words) {
  const tree = h("ul", { class: "vmc-tree" }), facts = h("div", { class: "vmc-soft" }), why = h("div", { class: "vmc-soft" });
  const { node: listed, body } = table(words.pci, [[words.address], [words.type], [words.id, "vmc-optional"], [words.guest_driver]], "vmc-twins");
  const node = h("div", {}, facts, h("div", { class: "vmc-pair" }, h("div", {}, h("div", { class: "vmc-subtitle" }, words.objects), scroller(words.objects, tree)), h("div", {}, h("div", { class: "vmc-subtitle" }, words.pci), scroller(words.pci, listed), why)));
  const light = (twin) => node.querySelectorAll("[data-twin]").forEach((one) => one.classList.toggle("vmc-lit", twin !== null && one.dataset.twin === twin));
  const twinOf = (event) => (event.target instanceof Element ? event.target.closest("[data-twin]")?.dataset.twin ?? null : null);
  for (const name of ["mouseover", "focusin"]) node.addEventListener(name, (event) => light(twinOf(event)));
  for (const name of ["mouseleave", "focusout"]) node.addEventListener(name, () => light(null));
  const twin = (row, id) => {
    if (id === null || id === undefined || row.dataset.twin === String(id)) return;
    row.dataset.twin = String(id);
    row.tabIndex = 0;
  };
  const leaves = keyedRows(tree, () => {
    const name = foreign("vmc-strong"), type = foreign("vmc-soft"), at = h("span", { class: "vmc-mono vmc-twin-mark" });
    const row = h("li", { class: "vmc-leaf" }, name, " ", type, " ", at);
    const update = ({ path, type: kind, depth, address, id }) => {
      row.style.setProperty("--depth", depth);
      setText(name, visible(path.split("/").pop(), 60));
      setText(type, visible(kind, 60));
      setText(at, address ? `⇄ ${address}` : "");
      twin(row, address ? id : null);
    };
    return { node: row, update };
  });
  const functions = keyedRows(body, () => {
    const cells = [foreign("vmc-mono"), foreign("vmc-strong"), foreign(), foreign()];
    const row = h("tr", {}, ...cells.map((cell, i) => h("td", { class: i === 2 ? "vmc-optional" : "" }, cell)));
    const update = (one, told) => {
      const guest = one.guest ?? null, found = guest === null ? (told ? words.guest_not_found : "—") : visible(guest.driver, 60) || words.guest_no_driver;
      [visible(one.address, 20), `${visible(one.class, 60)} ${visible(one.vendor, 8)}:${visible(one.device, 8)}`, one.id ? `⇄ ${visible(one.id, 60)}` : "", found].forEach((text, i) => setText(cells[i], text));
      twin(row, one.id);
    };
    return { node: row, update };
  });
  const update = (part) => {
    const pci = objects(part.pci), missing = part.missing ?? {}, told = lookup(missing, "pci[].guest") === undefined;
    const addresses = new Map(pci.filter((one) => one.id).map((one) => [String(one.id), visible(one.address, 20)]));
    const sockets = objects(part.sockets);
    setText(facts, sockets.length ? put(words.sockets, { filled: sockets.filter((one) => one.present).length, all: sockets.length }) : "");
    setText(why, told ? "" : `${words.guest_driver}: ${reasonOf(words, missing, "pci[].guest")}`);
    leaves(objects(part.objects).map((one) => asLeaf(String(one.path ?? ""), one, addresses)), (leaf) => leaf.path);
    functions(pci, (one) => String(one.address), told);
  };
  return { node, update };
}

function asLeaf(path, one, addresses) {
  const words = path.split("/"), id = words[2] === "peripheral" && words.length === 4 ? words[3] : null;
  return { path, type: one.type, depth: Math.max(0, words.length - 2), id, address: id === null ? undefined : addresses.get(id) };
}

// Where driver and device are in each ring; the line is how many buffers a second the device gave back.
function drawQueues(words, history) {
  const columns = [[words.device], [words.queue, "vmc-number"], [words.offered, "vmc-number"], [words.taken, "vmc-number vmc-optional"], [words.done, "vmc-number"], [words.in_use, "vmc-number"], [words.moving, "vmc-wide vmc-optional"]];
  const { node, body } = table(words.queues, columns);
  const rows = keyedRows(body, () => {
    const device = foreign("vmc-strong"), kind = foreign("vmc-soft"), figures = [1, 2, 3, 4, 5].map(() => h("span")), spark = chart(26);
    const cells = figures.map((one, i) => h("td", { class: columns[i + 1][1] }, one));
    const row = h("tr", {}, h("th", { scope: "row" }, device, " ", kind), ...cells, h("td", { class: columns[6][1] }, spark.node));
    const update = (queue) => {
      const samples = history.level(`queue ${queue.key}`, steadyRate(history, `queue ${queue.key}`, queue.used));
      setText(device, visible(queue.device, 60));
      setText(kind, queue.ready === false ? words.not_set_up : visible(queue.kind, 40));
      const use = isNumber(queue.in_use) ? `${queue.in_use} ${words.of} ${formatCount(queue.size)}` : visible(queue.missing, 120) || "—";
      [formatCount(queue.queue), formatCount(queue.offered), formatCount(queue.taken), formatCount(queue.used), use].forEach((text, i) => setText(figures[i], text));
      spark.update(samples, Math.max(1, ...samples.filter(isNumber)));
    };
    return { node: row, update };
  });
  const update = (part) => {
    const found = objects(part.devices).flatMap((device) => objects(device.queues).map((queue) => ({ ...queue, device: device.device, kind: device.kind, key: `${device.device} ${queue.queue}` })));
    rows(found, (queue) => queue.key);
  };
  return { node: scroller(words.queues, node), update };
}

// How often each line was raised, as QEMU counts it and as the guest does.
function drawInterrupts(words, history) {
  const counted = (title, side, name, columns) =>
    plainTable(title, [...columns, [words.count, "vmc-number"], [words.per_second, "vmc-number"]], (one) => [...name(one), formatCount(one.count), perSecond(steadyRate(history, `interrupt ${side} ${name(one).join(" ")}`, one.count))], (one) => name(one).join(" "));
  const lines = counted(words.lines, "host", (one) => [`${visible(one.controller, 30)} ${formatCount(one.line)}`], [[words.line, "vmc-strong"]]);
  const guest = counted(words.guest_counts, "guest", (one) => [visible(one.line, 12), visible(one.what, 100)], [[words.line, "vmc-strong"], [words.meaning, "vmc-soft"]]);
  const routes = plainTable(words.routes, [[words.pin, "vmc-number"], [words.vector, "vmc-number"], [words.trigger], [words.goes_to]], (one) => [formatCount(one.pin), formatCount(one.vector), visible(one.trigger, 20), visible(one.destination, 20)], (one) => String(one.pin));
  const part = stacked(words, [[words.lines, lines, (one) => one.lines], [words.routes, routes, (one) => one.routes], [words.guest_counts, { node: scroller(words.guest_counts, guest.node), update: guest.update }, (one) => one.guest]]);
  const why = h("div", { class: "vmc-soft" });
  const update = (found) => {
    part.update(found);
    const missing = found.missing ?? {};
    setText(why, Object.keys(missing).map((place) => `${lookup(words.missing_places, place) ?? visible(place, 40)}: ${reasonOf(words, missing, place)}`).join(" · "));
  };
  return { node: h("div", {}, part.node, why), update };
}

// A register a row, a virtual CPU a column.
function drawRegisters(words) {
  const head = h("tr"), body = h("tbody"), why = h("div", { class: "vmc-soft" });
  const node = h("div", {}, scroller(words.registers, h("table", { class: "vmc-table", "aria-label": words.registers }, h("thead", {}, head), body)), why);
  let rows = null, columns = -1;
  const update = (part) => {
    const cpus = objects(part.vcpus);
    setText(why, cpus.length ? "" : reasonOf(words, part.missing, "vcpus"));
    if (cpus.length !== columns) {
      columns = cpus.length;
      head.replaceChildren(h("th", { scope: "col" }, words.register), ...cpus.map((cpu) => h("th", { scope: "col" }, `${words.vcpu} ${formatCount(cpu.index)}`)));
      body.replaceChildren();
      rows = keyedRows(body, (name) => {
        const cells = cpus.map(() => foreign("vmc-mono"));
        const row = h("tr", {}, h("th", { scope: "row", class: "vmc-mono" }, visible(name, 20)), ...cells.map((cell) => h("td", {}, cell)));
        return { node: row, update: (_, now) => now.forEach((cpu, i) => setText(cells[i], registerOf(words, cpu, name))) };
      });
    }
    rows([words.state, words.ring, "flags", ...new Set(cpus.flatMap((cpu) => Object.keys(cpu.values ?? {})))], (name) => name, cpus);
  };
  return { node, update };
}

function registerOf(words, cpu, name) {
  if (name === words.state) return cpu.halted ? words.halted : words.runs;
  if (name === words.ring) return formatCount(cpu.ring);
  return visible(name === "flags" ? cpu.flags : lookup(cpu.values ?? {}, name), 80);
}

// Snapshots as a line that branches: each below the one it came from, and where the machine is now.
function drawSnapshots(words, act) {
  const line = h("ol", { class: "vmc-line-of", "aria-label": words.snapshots }), empty = h("div", { class: "vmc-soft" }, words.no_snapshots);
  const rows = keyedRows(line, () => {
    const name = foreign("vmc-strong"), facts = h("span", { class: "vmc-soft vmc-figures" }), here = h("span", { class: "vmc-pill", "data-tone": "good" }, words.here);
    const back = h("button", { type: "button", class: "vmc-button" }, words.restore), shape = s("svg", { class: "vmc-branch", "aria-hidden": "true" }, s("path"), s("circle", { r: 5 }));
    const row = h("li", { class: "vmc-snapshot" }, shape, name, facts, here, back);
    let title = "";
    back.addEventListener("click", () => pressed(back, () => act("restore", { snapshot: title })));
    const update = ({ snapshot, depth, parentDepth, own, current, off }) => {
      title = String(snapshot.name);
      const x = 10 + 18 * depth, from = 10 + 18 * parentDepth;
      setAttribute(shape, "width", String(x + 10));
      setAttribute(shape.firstChild, "d", depth > 0 ? `M${from} 0 V10 Q${from} 16 ${(from + x) / 2} 16 H${x}` : `M${x} 16 H${x}`);
      for (const [key, value] of [["cx", x], ["cy", 16]]) setAttribute(shape.lastChild, key, String(value));
      setText(name, visible(title, 80));
      setText(facts, `${formatMoment(snapshot.made_s)} · ${formatBytes(snapshot.size_bytes)}`);
      setAttribute(back, "aria-label", put(words.restore_to, { name: visible(title, 80) }));
      setHidden(here, !current);
      setHidden(back, !own);
      setAttribute(back, "aria-disabled", String(off));
    };
    return { node: row, update };
  });
  const update = (view) => {
    const found = objects(view.snapshots), depths = new Map();
    for (const one of found) depths.set(one.name, depths.has(one.of) ? depths.get(one.of) + 1 : 0);
    setHidden(empty, found.length > 0);
    rows(
      found.map((snapshot) => ({ snapshot, depth: depths.get(snapshot.name), parentDepth: depths.get(snapshot.of) ?? 0, own: String(snapshot.name).startsWith(`${view.machine}:`), current: snapshot.name === view.snapshot, off: view.status === "gone" })),
      (row) => String(row.snapshot.name),
    );
  };
  return { node: h("div", {}, line, empty), update };
}
