// What divides each container from the node, beside its namespaces: one card for each, its long lists folded.

const CARDS = 40;

const idText = (words, maps) => objects(maps).map((map) => put(words.id_map, map)).join(", ");
const names = (value) => list(value).map((one) => visible(one, 60));

// What our filter leaves open of the kernel, in numbers of system calls.
function filterText(words, filter) {
  if (filter === null || typeof filter !== "object" || !isNumber(filter.known)) return "";
  return put(words.filter_numbers, { open: filter.open, known: filter.known, conditional: filter.conditional, closed: filter.closed });
}

function isolationCard(words) {
  const name = foreign("vmc-strong"), ids = h("div", { class: "vmc-figures" }), groups = h("div", { class: "vmc-figures" });
  const guard = h("div"), numbers = h("div", { class: "vmc-figures" }), clocks = h("div", { class: "vmc-figures" });
  const folds = Object.fromEntries(["capabilities_held", "capabilities_bound", "capabilities_ambient", "calls_closed", "calls_conditional"].map((key) => [key, fold(words[key])]));
  const node = h("div", { class: "vmc-card", role: "listitem" }, h("div", { class: "vmc-card-head" }, name), ids, groups, guard, numbers, clocks, ...Object.values(folds).map((one) => one.node));
  const optional = (one, items) => (setHidden(one.node, items.length === 0), one.update(items));
  const update = (now) => {
    const capabilities = now.capabilities ?? {}, filter = now.filter ?? {}, offsets = entries(now.time_offsets).filter(([, value]) => value !== 0);
    setText(name, visible(now.name, 60));
    setText(ids, `${words.ids}: ${idText(words, now.uid_map) || words.not_known}`);
    setText(groups, `${words.group_ids}: ${idText(words, now.gid_map) || words.not_known}${now.groups_denied ? " · " + words.groups_denied : ""}`);
    setText(guard, [lookup(words.seccomp, now.seccomp) ?? visible(now.seccomp, 20), now.no_new_privs ? words.no_new_privs : words.new_privs].join(" · "));
    setText(numbers, filterText(words, now.filter));
    setText(clocks, offsets.length ? `${words.clocks}: ${offsets.map(([clock, value]) => `${visible(clock, 20)} ${formatSeconds(value)}`).join(" · ")}` : "");
    folds.capabilities_held.update(names(capabilities.effective));
    folds.capabilities_bound.update(names(capabilities.bounding));
    optional(folds.capabilities_ambient, names(capabilities.ambient));
    optional(folds.calls_closed, names(filter.closed_names));
    optional(folds.calls_conditional, names(filter.conditional_names));
  };
  return { node, update };
}

function drawIsolation(words) {
  const node = h("div", { class: "vmc-cards", role: "list", "aria-label": words.isolation });
  const rows = keyedRows(node, () => isolationCard(words));
  const changed = changes();
  return { node, update: (isolations) => changed(isolations) && rows(isolations.slice(0, CARDS), (one) => `${one.container ?? ""}\u0000${one.name}`) };
}
