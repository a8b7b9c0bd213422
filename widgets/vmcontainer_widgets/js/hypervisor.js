// The hypervisor view: a virtual machine as its host sees it — one process, its threads, its memory.

const STATUS_SHAPES = {
  running: ["good", "M4 2 L14 8 L4 14 Z"],
  paused: ["warn", "M3 2 H7 V14 H3 Z M9 2 H13 V14 H9 Z"],
  shutdown: ["off", "M3 3 H13 V13 H3 Z"],
  gone: ["off", "M3 3 H13 V13 H3 Z"],
  "guest-panicked": ["bad", "M3 5 L5 3 L8 6 L11 3 L13 5 L10 8 L13 11 L11 13 L8 10 L5 13 L3 11 L6 8 Z"],
};
const OTHER_STATUS = ["off", "M8 2 A6 6 0 1 1 7.9 2 Z"];
const ACTIONS = {
  pause: ["M3 2 H7 V14 H3 Z M9 2 H13 V14 H9 Z", (status) => status === "running"],
  resume: ["M4 2 L14 8 L4 14 Z", (status) => status === "paused"],
  reset: ["M8 3 A5 5 0 1 0 13 8 H11 A3 3 0 1 1 8 5 V8 L13 4 L8 0 Z", (status) => status !== "shutdown" && status !== "gone"],
};
const icon = (d) => s("svg", { class: "vmc-icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d }));

function drawStatus(words) {
  const shape = icon(OTHER_STATUS[1]), text = h("span");
  const node = h("span", { class: "vmc-status" }, shape, text);
  const update = (status) => {
    const [tone, d] = lookup(STATUS_SHAPES, status) ?? OTHER_STATUS;
    setAttribute(node, "data-tone", tone);
    setAttribute(shape.firstChild, "d", d);
    setText(text, lookup(words.status, status) ?? visible(status, 40));
  };
  return { node, update };
}

// Buttons stay focusable when they do not apply (aria-disabled), so that pressing one with a key loses no focus.
function drawButtons(words, act) {
  const buttons = Object.entries(ACTIONS).map(([name, [d, applies]]) => {
    const node = h("button", { type: "button", class: "vmc-button vmc-" + name }, icon(d), h("span", {}, words[name]));
    node.addEventListener("click", async () => {
      if (node.getAttribute("aria-disabled") === "true" || node.getAttribute("aria-busy") === "true") return;
      setAttribute(node, "aria-busy", "true");
      await act(name);
      setAttribute(node, "aria-busy", "false");
    });
    return { node, applies };
  });
  const node = h("div", { class: "vmc-buttons", role: "group", "aria-label": words.buttons }, ...buttons.map((b) => b.node));
  const update = (status, failure) => {
    for (const button of buttons) setAttribute(button.node, "aria-disabled", String(failure !== "" || !button.applies(status)));
  };
  return { node, update };
}

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

function section(words, name, part, className = "") {
  const empty = h("div", { class: "vmc-soft" }, words.none);
  const node = h("div", { class: "vmc-part " + className }, heading(words[name]), part.node, empty);
  const update = (items) => {
    setHidden(part.node, items.length === 0);
    setHidden(empty, items.length > 0);
    part.update(items);
  };
  return { node, update };
}

function drawHead(words, act) {
  const status = drawStatus(words), buttons = drawButtons(words, act);
  const name = foreign(), uptime = h("span", { class: "vmc-soft vmc-figures" });
  const title = h("div", { class: "vmc-title", role: "heading", "aria-level": 2 }, h("span", { class: "vmc-soft" }, words.machine), " ", name);
  const accelerator = h("span", { class: "vmc-strong" }), reason = foreign();
  const why = h("div", { class: "vmc-why" }, accelerator, h("span", { class: "vmc-soft" }, ` ${words.why}: `, reason));
  const node = h("header", {}, h("div", { class: "vmc-head" }, status.node, title, uptime, buttons.node), why);
  const update = (view, failure) => {
    const kind = visible(view.accelerator?.name, 20);
    setText(name, visible(view.machine, 60));
    setText(uptime, `${words.up} ${formatSeconds(view.uptime_s)}`);
    status.update(view.status);
    buttons.update(view.status, failure);
    setText(accelerator, `${words["accelerator_" + kind] ?? `${words.accelerator} ${kind}`}.`);
    setText(reason, visible(view.accelerator?.reason) || "—");
  };
  return { node, update };
}

function draw({ body, root, words, say, act, history }) {
  const head = drawHead(words, act), vcpus = drawVcpus(words, history), memory = drawMemory(words);
  const devices = section(words, "devices", drawDevices(words), "vmc-span"), blocks = section(words, "blocks", drawBlocks(words));
  const events = section(words, "events", drawEvents(words)), caption = h("div", { class: "vmc-box-caption" });
  const command = foreign("vmc-mono");
  const box = h("div", { class: "vmc-box", role: "group" }, caption, heading(words.vcpus), vcpus.node, heading(words.memory), memory.node);
  const line = h("details", { class: "vmc-command" }, h("summary", {}, words.command), h("div", { class: "vmc-code" }, command));
  body.append(head.node, box, h("div", { class: "vmc-columns" }, devices.node, blocks.node, events.node), line);
  let spokenStatus = null;
  return (view, failure) => {
    history.begin(view.time_s);
    head.update(view, failure);
    setText(caption, put(view.status === "gone" ? words.process_gone : words.process_box, { version: visible(view.qemu?.version, 30), pid: formatCount(view.qemu?.pid) }));
    setAttribute(box, "aria-label", caption.textContent);
    setAttribute(root, "aria-label", `${words.machine} ${visible(view.machine, 60)}`);
    vcpus.update(objects(view.vcpus));
    memory.update(view.memory ?? {}, view.missing ?? {});
    devices.update(objects(view.devices));
    blocks.update(objects(view.blocks));
    events.update(objects(view.events).slice(-12).reverse());
    setText(command, visible(list(view.qemu?.command).join(" "), 6000));
    const status = lookup(words.status, view.status) ?? visible(view.status, 40);
    if (spokenStatus !== null && spokenStatus !== status) say(put(words.machine_is, { name: visible(view.machine, 60), status }));
    spokenStatus = status;
  };
}
