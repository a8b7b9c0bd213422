// What divides each container from the node, beside its namespaces: one card for each, its long lists folded.

const CARDS = 40;

const idText = (words, maps) => objects(maps).map((map) => put(words.id_map, map)).join(", ");
const linkText = (link) => `${visible(link.name, 20)} ${list(link.addresses).map((address) => visible(address, 50)).join(" ")} ↓ ${formatBytes(link.received_bytes)} ↑ ${formatBytes(link.sent_bytes)}`;
const socketText = (socket) => [socket.protocol, socket.local, socket.remote ? "→ " + socket.remote : "", socket.state].filter(Boolean).map((word) => visible(word, 110)).join(" ");
const mountText = (mount) => `${visible(mount.point, 100)} ${visible(mount.type, 30)} ${visible(mount.options, 100)}`;

// A count that opens to a list; the list is written only while it is open.
function fold(label) {
  const summary = h("summary", { class: "vmc-figures" }), items = h("div", { class: "vmc-code" });
  const node = h("details", { class: "vmc-fold" }, summary, items);
  let latest = [];
  const write = () => node.open && setText(items, latest.join("\n"));
  node.addEventListener("toggle", write);
  const update = (texts, count = texts.length) => {
    latest = texts.length < count ? [...texts, "…"] : texts;
    setText(summary, `${label}: ${formatCount(count)}`);
    write();
  };
  return { node, update };
}

function isolationCard(words) {
  const name = foreign("vmc-strong"), ids = h("div", { class: "vmc-figures" }), guard = h("div");
  const held = fold(words.capabilities_held), bound = fold(words.capabilities_bound), mounts = fold(words.mounts), links = fold(words.links), sockets = fold(words.sockets);
  const node = h("div", { class: "vmc-card", role: "listitem" }, h("div", { class: "vmc-card-head" }, name), ids, guard, ...[held, bound, mounts, links, sockets].map((one) => one.node));
  const update = (now) => {
    const capabilities = now.capabilities ?? {};
    setText(name, visible(now.name, 60));
    setText(ids, `${words.ids}: ${idText(words, now.uid_map) || words.not_known}`);
    setText(guard, [lookup(words.seccomp, now.seccomp) ?? visible(now.seccomp, 20), now.no_new_privs ? words.no_new_privs : words.new_privs].join(" · "));
    held.update(list(capabilities.effective).map((one) => visible(one, 40)));
    bound.update(list(capabilities.bounding).map((one) => visible(one, 40)));
    mounts.update(objects(now.mounts).map(mountText), now.mounts_total);
    links.update(objects(now.links).map(linkText));
    setHidden(sockets.node, !isNumber(now.sockets_total));
    sockets.update(objects(now.sockets).map(socketText), now.sockets_total);
  };
  return { node, update };
}

function drawIsolation(words) {
  const node = h("div", { class: "vmc-cards", role: "list", "aria-label": words.isolation });
  const rows = keyedRows(node, () => isolationCard(words));
  return { node, update: (isolations) => rows(isolations.slice(0, CARDS), (one) => `${one.container ?? ""}\u0000${one.name}`) };
}
