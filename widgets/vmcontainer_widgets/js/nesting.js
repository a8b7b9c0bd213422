// Boxes in boxes: the host, its machines, their kernels, containers, processes. The process that is chosen shows its PID
// on every box around it, and that it has none where it has none.

const kindName = (words, box) => (box.id === "host" ? words.host_kernel : box.kind === "kernel" ? words.guest_kernel : lookup(words.box_kinds, box.kind) ?? visible(box.kind, 20));
const pidText = (words, pid) => (isNumber(pid) ? put(words.pid_is, { pid }) : words.no_pid);

// What a box is, in ids that can be looked up: pids, thread ids, a boot id, inode numbers of namespaces.
function boxFacts(words, box) {
  const facts = [];
  if (box.kind === "kernel") facts.push(`Linux ${visible(box.release, 60)}`, put(words.boot_id, { id: visible(box.boot_id, 40) }));
  if (box.kind === "machine") {
    facts.push(lookup(words.status, box.status) ?? visible(box.status, 30));
    if (isNumber(box.pid)) facts.push(put(words.qemu_pid, { pid: box.pid }));
    const threads = objects(box.threads).map((one) => one.thread_id).filter(isNumber);
    if (threads.length) facts.push(put(words.vcpu_threads, { ids: threads.join(", ") }));
  }
  if (box.kind === "container") {
    facts.push(lookup(words.status, box.status) ?? visible(box.status, 30));
    if (isNumber(box.pid)) facts.push(put(words.first_pid, { pid: box.pid }));
    const ids = Object.entries(box.namespaces ?? {}).filter(([, id]) => isNumber(id)).map(([name, id]) => `${visible(name, 10)} ${id}`);
    if (ids.length) facts.push(`${words.namespaces_of}: ${ids.join(" · ")}`);
  }
  return facts.join(" · ");
}

function processButton(words, stage) {
  const name = foreign("vmc-strong"), pid = h("span", { class: "vmc-mono" });
  const button = h("button", { type: "button", class: "vmc-nest-process", "aria-pressed": "false" }, pid, " ", name);
  let key = "";
  button.addEventListener("click", () => stage.choose(key));
  const update = (process, box) => {
    const own = objects(process.levels).at(-1)?.pid;
    key = `${box.id} ${process.id}`;
    button.processKey = key;
    setText(pid, isNumber(own) ? String(own) : "—");
    setText(name, visible(process.name, 40));
    setAttribute(button, "title", visible(process.command, 160));
    setAttribute(button, "aria-pressed", String(stage.chosen() === key));
  };
  return { node: h("li", {}, button), update };
}

function boxOf(words, stage, depth) {
  const kind = h("span", { class: "vmc-soft" }), name = foreign("vmc-strong"), facts = foreign("vmc-soft vmc-figures vmc-nest-facts");
  const chip = h("span", { class: "vmc-pill vmc-nest-pid", hidden: "" }), missing = h("div", { class: "vmc-soft" });
  const processes = h("ul", { class: "vmc-nest-processes" }), more = h("div", { class: "vmc-soft" }), inner = h("div", { class: "vmc-nest-inner" });
  const head = h("div", { class: "vmc-nest-head" }, kind, name, chip);
  const node = h("section", { class: "vmc-nest", role: "group", "data-depth": depth }, head, facts, missing, inner, processes, more);
  const rows = keyedRows(processes, () => processButton(words, stage)), boxes = keyedRows(inner, () => boxOf(words, stage, depth + 1));
  const update = (box, level) => {
    setAttribute(node, "data-kind", visible(box.kind, 20));
    setText(kind, kindName(words, box));
    setText(name, visible(box.name, 60));
    setText(facts, boxFacts(words, box));
    setAttribute(node, "aria-label", `${kind.shownText} ${name.shownText}`);
    setAttribute(processes, "aria-label", put(words.processes_of, { name: `${kind.shownText} ${name.shownText}` }));
    setText(missing, box.missing ? put(words.kernel_unknown, { why: visible(box.missing) }) : "");
    setHidden(missing, !box.missing);
    const found = level.get(String(box.id));
    setHidden(chip, !found);
    if (found) setText(chip, found.map((one) => pidText(words, one.pid)).join(" → ")), setAttribute(chip, "data-tone", isNumber(found[0].pid) ? "good" : "off");
    setAttribute(node, "data-on", String(Boolean(found)));
    rows(objects(box.processes), (process) => String(process.id), box);
    setHidden(processes, objects(box.processes).length === 0);
    const others = (box.processes_total ?? 0) - objects(box.processes).length;
    setText(more, others > 0 ? put(words.more_processes, { count: others }) : "");
    setHidden(more, others <= 0);
    boxes(objects(box.boxes), (one) => String(one.id), level);
    setHidden(inner, objects(box.boxes).length === 0);
  };
  return { node, update };
}

// The chosen process's PID at every level, as a table: what the picture says, for who hears it.
function levelTable(words) {
  const title = h("div", { class: "vmc-heading", role: "heading", "aria-level": 4 }), { node, body } = table(words.nesting, [[words.level], [words.pid, "vmc-number"], [words.why]], "vmc-nest-levels");
  const rows = keyedRows(body, () => {
    const name = h("bdi", {}), pid = h("td", { class: "vmc-number vmc-mono" }), why = h("td");
    const update = (level) => {
      setText(name, visible(level.label, 80));
      setText(pid, isNumber(level.pid) ? String(level.pid) : words.none);
      setText(why, put(lookup(words.whys, level.why ?? "") ?? "", { qemu: isNumber(level.qemu) ? level.qemu : "—" }));
    };
    return { node: h("tr", {}, h("th", { scope: "row" }, name), pid, why), update };
  });
  const whole = h("div", { class: "vmc-nest-told", hidden: "" }, title, node);
  const update = (process, labels) => {
    setHidden(whole, !process);
    if (!process) return;
    const levels = objects(process.levels).map((one, index) => ({ ...one, index, label: labels.get(String(one.box)) ?? visible(one.name, 60) }));
    setText(title, put(words.pids_of, { name: visible(process.name, 40) }));
    setAttribute(node, "aria-label", title.shownText);
    rows(levels, (level) => String(level.index));
  };
  return { node: whole, update };
}

// Every box and process by its key, the outermost first.
function flat(words, box, boxes = new Map(), processes = new Map()) {
  boxes.set(String(box.id), `${kindName(words, box)} ${visible(box.name, 60)}`);
  for (const process of objects(box.processes)) processes.set(`${box.id} ${process.id}`, process);
  for (const one of objects(box.boxes)) flat(words, one, boxes, processes);
  return { boxes, processes };
}

function draw({ body, root, words, say, again, memory }) {
  const title = h("div", { class: "vmc-title", role: "heading", "aria-level": 3 }, words.nesting), hint = h("div", { class: "vmc-soft" }, words.nesting_hint);
  const state = h("div", { class: "vmc-soft" }), told = levelTable(words), place = h("div", { class: "vmc-nest-whole" });
  const stage = {
    chosen: () => memory.get("chosen") ?? null,
    choose: (key) => {
      memory.set("chosen", stage.chosen() === key ? null : key);
      again();
      const process = memory.get("process");
      if (process) say(`${put(words.pids_of, { name: visible(process.name, 40) })}: ${objects(process.levels).map((one) => `${memory.get("labels").get(String(one.box)) ?? ""} ${pidText(words, one.pid)}`).join(", ")}`);
    },
  };
  const whole = boxOf(words, stage, 0);
  place.append(whole.node);
  body.append(title, hint, place, state, told.node);
  setAttribute(root, "aria-label", words.nesting);
  place.addEventListener("keydown", (event) => {
    const buttons = [...place.querySelectorAll(".vmc-nest-process")], at = buttons.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    buttons[(to + buttons.length) % buttons.length].focus();
  });
  return (view) => {
    const box = view.box ?? {}, { boxes, processes } = flat(words, box), chosen = stage.chosen(), process = processes.get(chosen) ?? null;
    memory.set("process", process);
    memory.set("labels", boxes);
    const levels = new Map();
    for (const one of objects(process?.levels)) levels.set(String(one.box), [...(levels.get(String(one.box)) ?? []), one]);
    whole.update(box, levels);
    told.update(process, boxes);
    setText(state, process ? "" : chosen === null ? words.nothing_chosen : words.gone);
  };
}
