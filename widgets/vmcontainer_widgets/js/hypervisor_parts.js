// The hypervisor view's first level: what it shows of every machine without asking for more.

function drawVcpus(words, history) {
  const { node, body } = table(words.vcpus, [[words.vcpu], [words.thread], [words.state, "vmc-optional"], [words.use, "vmc-wide"], ["%", "vmc-number"], [words.cpu_time, "vmc-number"]]);
  const rows = keyedRows(body, (vcpu) => {
    const thread = h("span", { class: "vmc-thread" }), state = h("td", { class: "vmc-optional" }), spark = chart(26);
    const percent = h("td", { class: "vmc-number" }), time = h("td", { class: "vmc-number" });
    const name = h("th", { scope: "row", class: "vmc-vcpu" }, h("span", { class: "vmc-chip" }, `${words.vcpu} ${formatCount(vcpu.index)}`));
    const link = s("svg", { class: "vmc-link", viewBox: "0 0 24 10", "aria-hidden": "true" }, s("path", { d: "M0 5 H18 M14 1 L20 5 L14 9" }));
    const row = h("tr", {}, name, h("td", { class: "vmc-linked" }, link, thread), state, h("td", { class: "vmc-wide" }, spark.node), percent, time);
    const update = (now) => {
      const samples = history.counter(`vcpu ${now.index}`, now.cpu_s);
      setText(thread, formatCount(now.thread_id));
      setText(state, lookup(words.states, now.state) ?? visible(now.state, 12));
      setText(percent, formatPercent(samples[samples.length - 1]));
      setText(time, formatSeconds(now.cpu_s));
      spark.update(samples, 1);
    };
    return { node: row, update };
  });
  return { node, update: (vcpus) => rows(vcpus, (vcpu) => String(vcpu.index)) };
}

let patterns = 0;

function memoryBar(label, parts) {
  const pattern = `vmc-hatch-${Math.random().toString(36).slice(2)}-${patterns++}`;
  const lines = s("path", { d: "M-1 7 L7 -1 M5 9 L9 5", class: "vmc-hatch-line" });
  const hatch = s("pattern", { id: pattern, width: 6, height: 6, patternUnits: "userSpaceOnUse" }, s("rect", { width: 6, height: 6, class: "vmc-hatch-ground" }), lines);
  const rects = parts.map((part) => s("rect", { class: "vmc-bar vmc-bar-" + part, y: 1, height: 16, rx: 2, ...(part === "shared" ? { style: `fill: url(#${pattern})` } : {}) }));
  const mark = s("line", { class: "vmc-mark", y1: 0, y2: 18, visibility: "hidden" });
  const svg = s("svg", { class: "vmc-bars", "aria-hidden": "true" }, s("defs", {}, hatch), ...rects, mark);
  const value = h("span", { class: "vmc-amount vmc-strong" }), note = h("div", { class: "vmc-note vmc-soft" });
  const node = h("div", { class: "vmc-memory-row" }, h("div", { class: "vmc-soft" }, label), value, svg, note);
  const update = (sizes, scale, text, remark = "", marked = null) => {
    let at = 0;
    rects.forEach((rect, i) => {
      const width = isNumber(sizes[i]) ? (100 * sizes[i]) / scale : 0;
      setAttribute(rect, "x", `${at.toFixed(2)}%`);
      setAttribute(rect, "width", `${width.toFixed(2)}%`);
      at += width;
    });
    setAttribute(mark, "visibility", isNumber(marked) ? "visible" : "hidden");
    if (isNumber(marked)) for (const end of ["x1", "x2"]) setAttribute(mark, end, `${((100 * marked) / scale).toFixed(2)}%`);
    setText(value, text);
    setText(note, remark);
    setHidden(note, remark === "");
  };
  return { node, update };
}

// Which pattern is which: beside the amount, a small piece of the bar itself.
function legend(word, part) {
  const amount = h("span", { class: "vmc-amount" });
  const swatch = s("svg", { class: "vmc-swatch", viewBox: "0 0 12 12", "aria-hidden": "true" }, s("rect", { class: "vmc-bar vmc-bar-" + part, x: 1, y: 1, width: 10, height: 10 }), s("path", { class: "vmc-hatch-line", d: part === "shared" ? "M1 7 L7 1 M5 11 L11 5" : "M0 0" }));
  return { node: h("span", { class: "vmc-legend" }, swatch, `${word} `, amount), update: (bytes) => setText(amount, formatBytes(bytes)) };
}

function drawMemory(words) {
  const given = memoryBar(words.memory_given, ["given"]), used = memoryBar(words.memory_used, ["used"]);
  const resident = memoryBar(words.memory_resident, ["private", "shared"]);
  const parts = [legend(words.private, "private"), legend(words.shared, "shared")];
  const node = h("div", { class: "vmc-memory" }, given.node, used.node, resident.node, h("div", { class: "vmc-memory-row" }, h("div", { class: "vmc-legends" }, ...parts.map((part) => part.node))));
  const update = (memory, missing) => {
    const scale = Math.max(memory.given_bytes || 0, memory.resident_bytes || 0, 1);
    const balloon = isNumber(memory.balloon_bytes) && memory.balloon_bytes < memory.given_bytes ? memory.balloon_bytes : null;
    given.update([memory.given_bytes], scale, formatBytes(memory.given_bytes), balloon === null ? "" : `${words.balloon} ${formatBytes(balloon)}`, balloon);
    const why = (name) => (isNumber(memory[name]) ? "" : visible(missing["memory." + name], 160) || words.not_known);
    used.update([memory.guest_used_bytes], scale, formatBytes(memory.guest_used_bytes), why("guest_used_bytes"));
    resident.update([memory.private_bytes, memory.shared_bytes], scale, formatBytes(memory.resident_bytes), why("resident_bytes"));
    parts[0].update(memory.private_bytes);
    parts[1].update(memory.shared_bytes);
  };
  return { node, update };
}

// A table whose cells are the foreign words or figures that `cells(item)` gives.
function plainTable(label, columns, cells, keyOf, className) {
  const { node, body } = table(label, columns, className);
  const rows = keyedRows(body, () => {
    const made = columns.map(([, kind]) => foreign(kind ?? ""));
    const row = h("tr", {}, ...made.map((cell, i) => h("td", { class: columns[i][1] ?? "" }, cell)));
    return { node: row, update: (item) => cells(item).forEach((text, i) => setText(made[i], text)) };
  });
  return { node, update: (items) => rows(items, keyOf) };
}

// QEMU stamps events with the time of day; anything else is seconds of some start.
function formatMoment(time_s) {
  if (!isNumber(time_s)) return "—";
  return time_s < 1e9 ? formatSeconds(time_s) : new Date(time_s * 1000).toTimeString().slice(0, 8);
}

const drawDevices = (words) =>
  plainTable(
    words.devices,
    [[words.address, "vmc-mono"], [words.type, "vmc-strong"], [words.id], [words.description, "vmc-soft vmc-optional"]],
    (device) => [visible(device.address, 40), visible(device.type, 60), visible(device.id, 60), visible(device.description, 120)],
    (device) => `${device.bus} ${device.address} ${device.id}`,
  );

const drawBlocks = (words) =>
  plainTable(
    words.blocks,
    [[words.device, "vmc-strong"], [words.read, "vmc-number"], [words.written, "vmc-number"], [words.requests, "vmc-number"]],
    (block) => [visible(block.device, 60), formatBytes(block.read_bytes), formatBytes(block.written_bytes), `${formatCount(block.read_operations)} / ${formatCount(block.write_operations)}`],
    (block) => String(block.device),
  );

const drawEvents = (words) =>
  plainTable(
    words.events,
    [[words.time, "vmc-mono"], [words.event, "vmc-strong"], [words.meaning, "vmc-soft"]],
    (event) => [formatMoment(event.time_s), visible(event.name, 40), [lookup(words.meanings, event.name), visible(event.detail, 120)].filter(Boolean).join(": ")],
    (event) => `${event.time_s} ${event.name}`,
  );

const drawNetworks = (words) =>
  plainTable(
    words.networks,
    [[words.device, "vmc-strong"], [words.mac, "vmc-mono vmc-optional"], [words.received, "vmc-number"], [words.sent, "vmc-number"]],
    (card) => [visible(card.device, 60), visible(card.mac, 40), formatCount(card.received_buffers), formatCount(card.sent_buffers)],
    (card) => String(card.device),
  );

// One table under another, each with its name; a table without rows says so.
function stacked(words, pieces) {
  const made = pieces.map(([title, part, rows]) => {
    const empty = h("div", { class: "vmc-soft" }, words.none), name = h("div", { class: "vmc-subtitle" }, title);
    return { part, rows, empty, node: h("div", { class: "vmc-part" }, name, part.node, empty) };
  });
  const node = h("div", { class: "vmc-stack" }, ...made.map((one) => one.node));
  const update = (view) => {
    for (const { part, rows, empty } of made) {
      const found = objects(rows(view));
      setHidden(part.node, found.length === 0);
      setHidden(empty, found.length > 0);
      part.update(found, view);
    }
  };
  return { node, update };
}

const drawTraffic = (words) => stacked(words, [[words.blocks, drawBlocks(words), (view) => view.blocks], [words.networks, drawNetworks(words), (view) => view.networks]]);

// What is unknown, and why: the document's `missing` has a reason for each place.
function reasonOf(words, missing, place) {
  const why = missing && typeof missing === "object" ? lookup(missing, place) : undefined;
  return why === undefined ? words.not_known : put(words.not_available, { why: visible(why, 240) });
}

// Translated code under TCG, exits under KVM: of the two one is always missing, and says why.
function drawEngine(words, history) {
  const code = memoryBar(words.code, ["used"]), facts = h("div", { class: "vmc-soft" }), no = h("div", { class: "vmc-soft" });
  const exits = plainTable(
    words.exits,
    [[words.reason, "vmc-strong"], [words.count, "vmc-number"], [words.per_second, "vmc-number"]],
    (exit) => [visible(exit.name, 60), formatCount(exit.count), perSecond(steadyRate(history, `exit ${exit.name}`, exit.count))],
    (exit) => String(exit.name),
  );
  const noExits = h("div", { class: "vmc-soft" });
  const node = h("div", {}, h("div", { class: "vmc-subtitle" }, words.translation), h("div", { class: "vmc-memory" }, code.node), facts, no, h("div", { class: "vmc-subtitle" }, words.exits), exits.node, noExits);
  const update = (view) => {
    const told = view.translation ?? null, rows = objects(view.exits);
    for (const one of [code.node, facts]) setHidden(one, told === null);
    setHidden(no, told !== null);
    setText(no, told === null ? reasonOf(words, view.missing, "translation") : "");
    if (told !== null) {
      const speed = perSecond(steadyRate(history, "translated blocks", told.blocks));
      code.update([told.code_bytes], told.code_limit_bytes || 1, formatBytes(told.code_bytes), `${words.of} ${formatBytes(told.code_limit_bytes)}`);
      setText(facts, put(words.blocks_translated, { blocks: formatCount(told.blocks), speed, flushes: formatCount(told.flushes), invalidations: formatCount(told.invalidations) }));
    }
    setHidden(exits.node, rows.length === 0);
    setHidden(noExits, rows.length > 0);
    setText(noExits, rows.length ? "" : reasonOf(words, view.missing, "exits"));
    exits.update(rows);
  };
  return { node, update };
}

// Speed of a counter that is not asked for with every document: from the last time it changed to this one.
const STALE_S = 6;

function steadyRate(history, name, value) {
  const key = `steady ${name}`, last = history.counters.get(key), { time_s } = history;
  if (!isNumber(value)) return null;
  if (last === undefined || time_s < last.time_s) history.counters.set(key, { value, time_s, speed: null });
  else if (value !== last.value) Object.assign(last, { speed: rate(last.value, value, time_s - last.time_s), value, time_s });
  else if (time_s - last.time_s > STALE_S) last.speed = 0;
  return history.counters.get(key).speed;
}

const perSecond = (speed) => (isNumber(speed) ? `${speed.toFixed(speed < 10 ? 1 : 0)}/s` : "—");

// QEMU's command line, one option a row, each with what it is for.
function drawCommand(words) {
  const rows = plainTable(
    words.command,
    [[words.option, "vmc-mono vmc-strong"], [words.value, "vmc-code vmc-value"], [words.meaning, "vmc-soft"]],
    (row) => [row.name, row.value, row.meaning],
    (row) => `${row.name} ${row.value}`,
  );
  const update = (view) => {
    const [program = "", ...given] = list(view.qemu?.command).map((word) => visible(word, 2000));
    const found = [{ name: words.program, value: program, meaning: words.program_meaning }];
    for (let at = 0; at < given.length; at++) {
      const value = given[at + 1]?.startsWith("-") ? "" : given[at + 1] ?? "";
      const device = given[at] === "-device" ? objects(view.devices).find((one) => value.startsWith(`${one.type},`) || one.type === value) : null;
      found.push({ name: given[at], value, meaning: [lookup(words.options, given[at]) ?? "", visible(device?.description, 120)].filter(Boolean).join(": ") });
      if (value) at++;
    }
    rows.update(found);
  };
  return { node: scroller(words.command, rows.node), update };
}

// A section that can be closed. Only open ones are drawn; and the `parts` of the document that they need are asked for
// only while they are open (`stage.want`). What was open stays so when the view is drawn again (another language).
function fold(stage, name, part, { open = false, needs = null } = {}) {
  const { words, memory } = stage, key = `open ${name}`;
  const note = h("div", { class: "vmc-soft" });
  const title = h("span", { role: "heading", "aria-level": 3 }, words[name]);
  const node = h("details", { class: "vmc-fold vmc-section" }, h("summary", { class: "vmc-heading" }, title), note, part.node);
  node.open = memory.get(key) ?? open;
  memory.set(key, node.open);
  node.addEventListener("toggle", () => {
    if (memory.get(key) === node.open) return;
    memory.set(key, node.open);
    stage.opened();
  });
  const update = (view) => {
    if (!node.open) return;
    const there = needs === null || (needs === "snapshots" ? Array.isArray(view.snapshots) : view.parts?.[needs] !== undefined);
    const text = there ? "" : view.status === "gone" ? words.gone_part : stage.replays ? words.not_recorded : words.asked;
    setHidden(part.node, !there);
    setHidden(note, there);
    setText(note, text);
    if (there) part.update(needs === null || needs === "snapshots" ? view : view.parts[needs], view);
  };
  return { node, update, needs: () => (node.open && needs ? [needs] : []) };
}
