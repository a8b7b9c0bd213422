// The kernel view: one Linux kernel and how it is divided.

function drawKernelHead(words) {
  const release = foreign("vmc-strong"), node = foreign("vmc-strong"), facts = foreign("vmc-soft vmc-figures"), waits = h("div", { class: "vmc-soft vmc-figures" });
  const title = h("div", { class: "vmc-title", role: "heading", "aria-level": 2 }, h("span", { class: "vmc-soft" }, words.kernel), " ", release, " ", h("span", { class: "vmc-soft" }, words.of_node), " ", node);
  const update = (view) => {
    const kernel = view.kernel ?? {}, memory = view.memory ?? {};
    setText(release, `Linux ${visible(kernel.release, 60)}`);
    setText(node, visible(view.node, 60));
    const free = `${words.memory_free} ${formatBytes(memory.available_bytes)} ${words.of} ${formatBytes(memory.total_bytes)}`;
    const load = `${words.load} ${isNumber(kernel.load_1min) ? kernel.load_1min.toFixed(2) : "—"}`;
    setText(facts, [`${words.hostname} ${visible(kernel.hostname, 60)}`, visible(kernel.machine, 20), `${formatCount(kernel.cpus)} ${words.cpus}`, `${words.up} ${formatSeconds(kernel.uptime_s)}`, load, free, `${words.cgroup} ${visible(kernel.cgroup, 20)}`].join(" · "));
    const why = view.missing?.pressure, texts = pressureTexts(view.pressure, words);
    setText(waits, texts ? `${words.pressure}: ${texts}` : why ? `${words.pressure}: ${put(words.not_available, { why: visible(why) })}` : "");
  };
  return { node: h("header", {}, h("div", { class: "vmc-head" }, title), h("div", {}, facts), waits), update };
}

// Speaks when a container comes, goes or changes its status; the first document is no change.
function speaker(words, say) {
  const struck = strikes(words);
  let before = null;
  return (containers) => {
    const now = new Map(containers.map((c) => [visible(c.name, 60), lookup(words.status, c.status) ?? visible(c.status, 30)]));
    const changes = [struck(containers)].filter(Boolean);
    for (const [name, status] of now) if (before && before.get(name) !== status) changes.push(put(words.container_is, { name, status }));
    for (const name of before?.keys() ?? []) if (!now.has(name)) changes.push(put(words.container_gone, { name }));
    before = now;
    if (changes.length) say(changes.join(" "));
  };
}

// What cannot be told of containers, in words.
const missingOf = (view, words) => entries(view.missing).filter(([path]) => path.startsWith("containers[].")).map(([path, why]) => [words["chart_" + path.slice(13)] ?? path.slice(13), why]);

function draw(stage) {
  const { body, root, words, say, again, history } = stage;
  const head = drawKernelHead(words), speak = speaker(words, say), namespaces = drawNamespaces(words, again);
  body.append(head.node);
  const { add, tell } = sections(stage);
  const shown = {
    containers: add(words.cgroups, { name: "containers", ...drawContainers(words, history) }),
    processes: add(words.processes, { name: "processes", ...drawProcesses(words, again) }),
    namespaces: add(words.namespaces, { name: "namespaces", ...namespaces }),
    isolation: add(words.isolation, { name: "isolation", ...drawIsolation(words) }),
    mounts: add(words.mounts_title, { name: "mounts", part: "mounts", open: false, ...drawMounts(words) }),
    network: add(words.network_title, { name: "network", part: "network", open: false, ...drawNetwork(words) }),
    sockets: add(words.sockets_title, { name: "sockets", part: "sockets", open: false, ...drawSockets(words) }),
  };
  tell();
  const show = (view) => {
    const ours = objects(view.processes).filter((process) => process.role !== "process" || process.container);
    const all = namespaceRows(ours), owners = new Map(all.flatMap((row) => (row.ids[0] === null ? [] : [[row.ids[0], row.owners[0]]])));
    head.update(view);
    setAttribute(root, "aria-label", `${words.kernel} ${visible(view.kernel?.release, 60)}, ${words.of_node} ${visible(view.node, 60)}`);
    shown.containers.update(objects(view.containers), missingOf(view, words));
    shown.processes.update(objects(view.processes), (process) => owners.get(process.namespaces?.pid) ?? 0, view.processes_total);
    shown.namespaces.update(namespaces.each() ? namespaceRows(ours, true) : all);
    shown.isolation.update(objects(view.isolation));
    for (const part of ["mounts", "network", "sockets"]) shown[part].update(partOf(view, part));
    speak(objects(view.containers));
  };
  return (view) => {
    history.begin(view.time_s);
    show(view);
    history.fresh = false;
  };
}
