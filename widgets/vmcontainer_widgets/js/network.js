// The network view: the way of a packet from each container, hop by hop, with what each hop counted. An arrow that carries
// something since the last look says so, by its look and in words.

const bothWays = ["out", "in"];

// A packet that leaves, and one that comes: a count, its bytes, and how many came by in the last second.
function wayRow(words, way) {
  const arrow = h("span", { class: "vmc-arrow", "aria-hidden": "true" }, way === "out" ? "→" : "←");
  const figure = h("span", { class: "vmc-figures" }), speed = h("span", { class: "vmc-soft vmc-figures" });
  const node = h("div", { class: "vmc-way", role: "group", "aria-label": words[way] }, arrow, " ", figure, " ", speed);
  const update = (count, perSecond) => {
    setHidden(node, count === null);
    if (count === null) return;
    setText(figure, `${put(words.packets, { count: formatCount(count.packets) })} · ${formatBytes(count.bytes)}`);
    setText(speed, perSecond > 0 ? put(words.rate, { count: perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond) }) : "");
    setAttribute(node, "data-moving", String(perSecond > 0));
  };
  return { node, update };
}

function hopCard(words, history) {
  const kind = h("div", { class: "vmc-strong" }), name = foreign("vmc-mono"), address = foreign("vmc-soft"), where = h("div", { class: "vmc-soft vmc-where" });
  const ways = Object.fromEntries(bothWays.map((way) => [way, wayRow(words, way)])), refused = h("div", { class: "vmc-alarm" });
  const node = h("li", { class: "vmc-hop" }, kind, h("div", {}, name), h("div", {}, address), ways.out.node, ways.in.node, refused, where);
  const update = (hop, path) => {
    const key = `${path} ${hop.index}`;
    setText(kind, lookup(words.hops, hop.kind) ?? visible(hop.kind, 30));
    setAttribute(node, "title", lookup(words.explain, hop.kind) ?? "");
    setAttribute(node, "data-where", String(hop.where));
    setText(name, visible(hop.name, 40));
    setText(address, visible(hop.address ?? "", 50));
    setText(where, lookup(words.where, hop.where) ?? visible(hop.where, 30));
    for (const way of bothWays) {
      const count = hop[way] !== null && typeof hop[way] === "object" ? hop[way] : null;
      const speeds = history.counter(`${key} ${way}`, count?.packets ?? null);
      ways[way].update(count, speeds[speeds.length - 1] ?? 0);
    }
    setText(refused, hop.refused?.packets > 0 ? `⚠ ${put(words.refused, { count: formatCount(hop.refused.packets) })}` : "");
  };
  return { node, update };
}

const portText = (one) => `${visible(one.host_ip, 50)}:${formatCount(one.host_port)}/${visible(one.protocol, 5)}`;

function pathCard(words, history) {
  const name = foreign("vmc-strong"), network = foreign("vmc-soft"), chain = h("ol", { class: "vmc-path", "aria-label": words.path_of });
  const hops = keyedRows(chain, () => hopCard(words, history)), missing = reasons(words);
  const ports = plainTable(words.published, [[words.port_node], [words.port_inside, "vmc-number"], [words.conversations, "vmc-number"], [words.in_out, "vmc-number"]]);
  const box = h("div", {}, heading(words.published, 3), scroller(words.published, ports.node));
  const node = h("article", { class: "vmc-card" }, h("div", { class: "vmc-card-head" }, name, network), chain, box, missing.node);
  const update = (path) => {
    const key = `${path.container} ${path.network}`, found = objects(path.hops);
    setText(name, visible(path.container, 60));
    setText(network, `${visible(path.network, 60)}${path.ip ? ` · ${visible(path.ip, 50)}` : ""}`);
    setAttribute(node, "aria-label", visible(path.container, 60));
    setHidden(chain, found.length === 0);
    hops(found.map((hop, index) => ({ ...hop, index })), (hop) => `${hop.index} ${hop.kind} ${hop.name}`, key);
    setHidden(box, objects(path.published).length === 0);
    ports.update(objects(path.published).map((one) => [portText(one), formatCount(one.port), formatCount(one.conversations), `${formatBytes(one.in_bytes)} / ${formatBytes(one.out_bytes)}`]));
    missing.update(entries(path.missing).map(([place, why]) => [hopOf(words, found, place), why]));
  };
  const hopOf = (words, found, place) => {
    const index = /^hops\[(\d+)\]/.exec(place)?.[1], hop = index === undefined ? null : found[Number(index)];
    return hop ? lookup(words.hops, hop.kind) ?? words.hop : words[place.split(".")[1]] ?? words.path_of;
  };
  return { node, update };
}

function draw({ body, root, words, history }) {
  const node = foreign("vmc-strong"), empty = h("div", { class: "vmc-soft" }, words.no_paths), place = h("div", { class: "vmc-paths" });
  const title = h("div", { class: "vmc-title", role: "heading", "aria-level": 2 }, h("span", { class: "vmc-soft" }, words.network_of), " ", node);
  const rows = keyedRows(place, () => pathCard(words, history));
  body.append(h("header", {}, title), empty, place);
  return (view) => {
    history.begin(view.time_s);
    setText(node, visible(view.node, 60));
    setAttribute(root, "aria-label", `${words.network_of} ${visible(view.node, 60)}`);
    const paths = objects(view.paths);
    setHidden(empty, paths.length > 0);
    rows(paths, (path) => `${path.container}\u0000${path.network}`);
    history.fresh = false;
  };
}
