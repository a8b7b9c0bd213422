// Networks of a kernel: interfaces with addresses and counters, routes and neighbours of each namespace, bridges with who is
// plugged into them; and open sockets with who holds them.

const traffic = (words, link) => `↓ ${formatBytes(link.received_bytes)} (${formatCount(link.received_packets)}) ↑ ${formatBytes(link.sent_bytes)} (${formatCount(link.sent_packets)})`;
const routeText = (words, route) => `${visible(route.to, 50)} ${route.gateway ? put(words.route_via, { gateway: visible(route.gateway, 50) }) : words.route_direct} ${visible(route.interface, 20)}`;

function linkSpace(words) {
  const name = foreign("vmc-strong"), grid = plainTable(words.links, [[words.link_name], [words.link_addresses], [words.link_traffic, "vmc-number"]]);
  const routes = fold(words.routes), neighbours = fold(words.neighbours);
  const node = h("div", { class: "vmc-space" }, h("div", { class: "vmc-card-head" }, name), scroller(words.links, grid.node), routes.node, neighbours.node);
  const update = (space) => {
    setText(name, space.name === "bridges" && space.container === null ? words.bridges_space : visible(space.name, 60));
    grid.update(objects(space.links).map((one) => [visible(one.name, 20), list(one.addresses).map((address) => visible(address, 50)).join(" "), traffic(words, one)]));
    routes.update(objects(space.routes).map((one) => routeText(words, one)));
    neighbours.update(objects(space.neighbours).map((one) => `${visible(one.address, 50)} ${visible(one.mac, 20)} ${visible(one.interface, 20)}`));
  };
  return { node, update };
}

function drawNetwork(words) {
  const waiting = h("div", { class: "vmc-soft" }, words.asking), place = h("div"), title = heading(words.bridges, 4);
  const bridges = plainTable(words.bridges, [[words.bridge_name], [words.bridge_subnet], [words.bridge_members]]);
  const rows = keyedRows(place, () => linkSpace(words)), box = h("div", {}, title, scroller(words.bridges, bridges.node));
  const update = (part) => {
    setHidden(waiting, part !== null);
    rows(objects(part?.spaces), (one) => `${one.container ?? ""}\u0000${one.name}`);
    const found = objects(part?.bridges);
    setHidden(box, found.length === 0);
    bridges.update(found.map((one) => [`${visible(one.name, 40)} (${visible(one.interface, 20)})`, visible(one.subnet, 40), objects(one.containers).map((who) => `${visible(who.container, 40)} ${visible(who.ip, 40)} (${visible(who.peer, 20)})`).join(", ")]));
  };
  return { node: h("div", {}, waiting, place, box), update };
}

function drawSockets(words) {
  const waiting = h("div", { class: "vmc-soft" }, words.asking), missing = reasons(words);
  const columns = [[words.who], [words.socket_local], [words.socket_protocol], [words.socket_remote, "vmc-optional"], [words.state], [words.socket_waiting, "vmc-number vmc-optional"], [words.socket_holders, "vmc-number"]];
  const grid = plainTable(words.sockets, columns), empty = h("div", { class: "vmc-soft" }, words.no_sockets);
  const box = scroller(words.sockets, grid.node);
  const waitingText = (one) => (isNumber(one.unread_bytes) && isNumber(one.unsent_bytes) ? `${formatBytes(one.unread_bytes)} / ${formatBytes(one.unsent_bytes)}` : "—");
  const update = (part) => {
    const rows = objects(part?.spaces).flatMap((space) => objects(space.sockets).map((one) => [visible(space.name, 60), visible(one.local, 110), visible(one.protocol, 10), visible(one.remote, 110), visible(one.state, 20), waitingText(one), list(one.pids).map((pid) => visible(pid, 12)).join(" ") || "—"]));
    setHidden(waiting, part !== null);
    setHidden(box, rows.length === 0);
    setHidden(empty, part === null || rows.length > 0);
    grid.update(rows);
    missing.update(entries(part?.missing).map(([, why]) => [words.of_node, why]));
  };
  return { node: h("div", {}, waiting, box, empty, missing.node), update };
}
