// The hypervisor view: a virtual machine as its host sees it — one process, its threads, its memory. hypervisor_parts.js
// has the sections that cost nothing more, hypervisor_inside.js those that are asked for when they are opened.

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
// How long a second press has to come, where one is asked for twice.
const SURE_MS = 6000;
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
async function pressed(node, action) {
  if (node.getAttribute("aria-disabled") === "true" || node.getAttribute("aria-busy") === "true") return;
  setAttribute(node, "aria-busy", "true");
  await action();
  setAttribute(node, "aria-busy", "false");
}

function drawButtons(words, act) {
  const buttons = Object.entries(ACTIONS).map(([name, [d, applies]]) => {
    const node = h("button", { type: "button", class: "vmc-button vmc-" + name }, icon(d), h("span", {}, words[name]));
    node.addEventListener("click", () => pressed(node, () => act(name)));
    return { node, applies };
  });
  const node = h("div", { class: "vmc-buttons", role: "group", "aria-label": words.buttons }, ...buttons.map((b) => b.node));
  const update = (status, failure) => {
    for (const button of buttons) setAttribute(button.node, "aria-disabled", String(failure !== "" || !button.applies(status)));
  };
  return { node, update };
}

// What changes a machine: processors and memory, a snapshot, and a panic, which is asked for twice.
function drawChanges(words, act, say) {
  const button = (name, action) => {
    const node = h("button", { type: "button", class: "vmc-button" }, words[name]);
    node.addEventListener("click", () => pressed(node, action));
    return node;
  };
  const size = h("input", { type: "number", class: "vmc-size", min: "1", step: "64", "aria-label": words.memory_wanted });
  const cpu = button("add_cpu", () => act("add_cpu"));
  const memory = button("set_memory", () => act("set_memory", { mebibytes: Number(size.value) }));
  const snapshot = button("take_snapshot", () => act("snapshot"));
  let sure = 0;
  const panic = button("panic", async () => {
    if (Date.now() - sure < SURE_MS) {
      sure = 0;
      setText(panic, words.panic);
      return void (await act("panic", { sure: true }));
    }
    sure = Date.now();
    setText(panic, words.panic_sure);
    say(words.panic_sure);
    setTimeout(() => setText(panic, words.panic), SURE_MS);
  });
  panic.classList.add("vmc-panic");
  size.addEventListener("keydown", (event) => event.key === "Enter" && memory.click());
  const fields = h("span", { class: "vmc-field" }, size, h("span", { class: "vmc-soft" }, "MiB"), memory);
  const node = h("div", { class: "vmc-buttons vmc-changes", role: "group", "aria-label": words.changes }, cpu, fields, snapshot, panic);
  const update = (view, failure) => {
    const given = view.memory?.given_bytes;
    if (size.value === "" && isNumber(given)) size.value = String(Math.round(given / 1048576));
    for (const one of [cpu, memory, snapshot, panic]) setAttribute(one, "aria-disabled", String(failure !== "" || view.status !== "running"));
  };
  return { node, update };
}

function drawHead(words, act, say) {
  const status = drawStatus(words), buttons = drawButtons(words, act), changes = drawChanges(words, act, say);
  const name = foreign(), uptime = h("span", { class: "vmc-soft vmc-figures" });
  const title = h("div", { class: "vmc-title", role: "heading", "aria-level": 2 }, h("span", { class: "vmc-soft" }, words.machine), " ", name);
  const accelerator = h("span", { class: "vmc-strong" }), reason = foreign();
  const why = h("div", { class: "vmc-why" }, accelerator, h("span", { class: "vmc-soft" }, ` ${words.why}: `, reason));
  const node = h("header", {}, h("div", { class: "vmc-head" }, status.node, title, uptime, buttons.node), why, changes.node);
  const update = (view, failure) => {
    const kind = visible(view.accelerator?.name, 20);
    setText(name, visible(view.machine, 60));
    setText(uptime, `${words.up} ${formatSeconds(view.uptime_s)}`);
    status.update(view.status);
    buttons.update(view.status, failure);
    changes.update(view, failure);
    setText(accelerator, `${words["accelerator_" + kind] ?? `${words.accelerator} ${kind}`}.`);
    setText(reason, visible(view.accelerator?.reason) || "—");
  };
  return { node, update };
}

function draw({ body, root, words, say, act, want, history, memory, replays, again }) {
  const folds = [];
  const tell = () => want([...new Set(folds.flatMap((one) => one.needs()))].sort());
  const stage = { words, memory, replays, opened: () => (tell(), again()) };
  const add = (name, part, options) => {
    folds.push(fold(stage, name, part, options));
    return folds[folds.length - 1].node;
  };
  const head = drawHead(words, act, say), caption = h("div", { class: "vmc-box-caption" });
  const vcpus = drawVcpus(words, history), sizes = drawMemory(words), events = drawEvents(words);
  const rows = (part, of) => ({ node: part.node, update: (view) => part.update(of(view)) });
  const box = h("div", { class: "vmc-box", role: "group" }, caption,
    add("vcpus", rows(vcpus, (view) => objects(view.vcpus)), { open: true }),
    add("memory", { node: sizes.node, update: (view) => sizes.update(view.memory ?? {}, view.missing ?? {}) }, { open: true }),
    add("map", drawMap(words), { needs: "memory" }),
    add("registers", drawRegisters(words), { needs: "registers" }),
    add("engine", drawEngine(words, history)),
    add("command", drawCommand(words)));
  const outside = h("div", { class: "vmc-outside" },
    add("devices", rows(drawDevices(words), (view) => objects(view.devices)), { open: true }),
    add("twins", drawTwins(words), { needs: "devices" }),
    add("traffic", drawTraffic(words), { open: true }),
    add("queues", drawQueues(words, history), { needs: "queues" }),
    add("interrupts", drawInterrupts(words, history), { needs: "interrupts" }),
    add("snapshots", drawSnapshots(words, act), { needs: "snapshots" }),
    add("events", rows(events, (view) => objects(view.events).slice(-12).reverse()), { open: true }));
  body.append(head.node, box, outside);
  tell();
  let spokenStatus = null;
  return (view, failure) => {
    history.begin(view.time_s);
    head.update(view, failure);
    setText(caption, put(view.status === "gone" ? words.process_gone : words.process_box, { version: visible(view.qemu?.version, 30), pid: formatCount(view.qemu?.pid) }));
    setAttribute(box, "aria-label", caption.textContent);
    setAttribute(root, "aria-label", `${words.machine} ${visible(view.machine, 60)}`);
    for (const one of folds) one.update(view);
    const status = lookup(words.status, view.status) ?? visible(view.status, 40);
    if (spokenStatus !== null && spokenStatus !== status) say(put(words.machine_is, { name: visible(view.machine, 60), status }));
    spokenStatus = status;
  };
}
