// What is mounted where each container lives, and its root as a stack: what it writes on top, the image's layers below.

const short = (digest) => visible(digest ?? "", 80).replace(/^sha256:/, "").slice(0, 12);

function layerRow(words) {
  const what = h("span", { class: "vmc-strong" }), digest = h("code", { class: "vmc-mono" }), shared = h("bdi", { class: "vmc-soft" });
  const node = h("li", { class: "vmc-layer" }, what, " ", digest, " ", shared);
  const update = ({ kind, text, title, users }) => {
    setAttribute(node, "data-kind", kind);
    setText(what, words["layer_" + kind]);
    setText(digest, text);
    setAttribute(digest, "title", title);
    setText(shared, users.length ? put(words.shared_with, { names: users.join(", ") }) : kind === "lower" ? words.layer_alone : "");
  };
  return { node, update };
}

// From the top down, as the kernel looks a name up.
function stackOf(overlay) {
  const upper = overlay.upper ? [{ kind: "upper", text: visible(overlay.upper, 200), title: visible(overlay.upper, 300), users: [] }] : [];
  const lower = objects(overlay.lower).map((one) => ({ kind: "lower", text: short(one.digest) || visible(one.path, 200), title: visible(one.path, 300), users: list(one.shared_with).map((user) => visible(user, 60)) }));
  return [...upper, ...lower];
}

function mountSpace(words) {
  const name = foreign("vmc-strong"), count = h("span", { class: "vmc-soft" }), stack = h("ol", { class: "vmc-stack", "aria-label": words.layers });
  const columns = [[words.mount_point], [words.mount_type], [words.mount_source, "vmc-optional"], [words.mount_options, "vmc-optional"]];
  const grid = plainTable(words.mounts, columns);
  const layers = keyedRows(stack, () => layerRow(words));
  const node = h("div", { class: "vmc-space" }, h("div", { class: "vmc-card-head" }, name, count), stack, scroller(words.mounts, grid.node));
  const update = (space) => {
    const mounts = objects(space.mounts), root = mounts.find((one) => one.overlay && one.point === "/") ?? mounts.find((one) => one.overlay);
    const overlay = space.container !== null && root ? root.overlay : null;
    setText(name, visible(space.name, 60));
    setText(count, `${formatCount(space.total)} ${words.mounts}`);
    setHidden(stack, !overlay);
    layers(overlay ? stackOf(overlay) : [], (one) => one.title);
    grid.update(mounts.map((one) => [visible(one.point, 100), visible(one.type, 30), visible(one.source, 80), `${visible(one.options, 100)} · ${visible(one.propagation, 60)}`]));
  };
  return { node, update };
}

// Containers first: what is mounted on the node itself is long, and folded away at the end.
function drawMounts(words) {
  const node = h("div", {}), waiting = h("div", { class: "vmc-soft" }, words.asking);
  const place = h("div"), rows = keyedRows(place, () => mountSpace(words));
  node.append(waiting, place);
  const changed = changes();
  const update = (part) => {
    if (!changed(part)) return;
    setHidden(waiting, part !== null);
    const spaces = objects(part?.spaces), own = spaces.filter((one) => one.container === null);
    rows([...spaces.filter((one) => one.container !== null), ...own], (one) => `${one.container ?? ""}\u0000${one.name}`);
  };
  return { node, update };
}
