"""The network view: the way of a packet from each container to the world, hop by hop, with what each hop counted.

    container's eth0 ═ veth ─ bridge ─ rules ─ NAT ─ the node's way out

`path_of` is pure; what it is told was read from the network namespaces on the way (proc_pid_net(5)) and from the
process that makes networks. ``out`` is away from the container, ``in`` towards it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..container.network.networks import SLIRP, Networks
from .links import link_rows, route_rows
from .proc import PROC, read_text

__all__ = ["UNITS", "Surroundings", "closed_path", "hop", "network_view", "path_of", "rule_hops"]

_DIRECTIONS: Final = ("out", "in")
UNITS: Final = {
    **{f"paths[].hops[].{way}.{what}": (unit, "counter") for way in _DIRECTIONS
       for what, unit in (("packets", "packets"), ("bytes", "B"))},
    "paths[].hops[].refused.packets": ("packets", "counter"),
    "paths[].published[].conversations": ("conversations", "counter"),
    "paths[].published[].in_bytes": ("B", "counter"),
    "paths[].published[].out_bytes": ("B", "counter"),
}  # fmt: skip

Json = dict[str, Any]
Links = Mapping[str, Mapping[str, Any]]


class Surroundings:
    """What the paths of a node have in common."""

    def __init__(self, *, guest: bool, place: Links, node: Links, way_out: str, counts: Mapping[str, Any]) -> None:
        """`place`, `node`: interfaces by name where the bridges are, and of the node; `way_out`: the node's interface
        that its default route leads through, if any.
        """
        self.guest, self.place, self.node, self.way_out, self.counts = guest, place, node, way_out, counts


def hop(kind: str, name: str, where: str, link: Mapping[str, Any] | None = None, *, sent: bool = True) -> Json:
    """Return one hop. `sent`: what the interface sends goes away from the container; the other end of a cable
    receives that.
    """
    row: Json = {"kind": kind, "name": name, "where": where, "out": None, "in": None}
    if link:
        ways = ("sent", "received") if sent else ("received", "sent")
        for key, way in zip(_DIRECTIONS, ways, strict=True):
            row[key] = {"packets": link[f"{way}_packets"], "bytes": link[f"{way}_bytes"]}
    return row


def rule_hops(rules: Sequence[Sequence[Any]], network: Mapping[str, Any]) -> list[Json]:
    """Return the hops of a network's table, whose rules are in the order of `firewall.firewall`."""
    forward = [row for row in rules if row[0] == "forward"]
    if len(forward) < 3:
        return []
    wall = hop("rules", network["interface"], "bridges")
    wall["in"] = _counted(forward[1])
    wall["refused"] = _counted(forward[2])
    if network["internal"]:
        return [wall | {"refused": _counted(forward[3] if len(forward) > 3 else forward[2])}]
    nat = hop("nat", network["subnet"], "bridges")
    nat["out"] = next((_counted(row) for row in rules if row[0] == "postrouting"), None)
    return [wall, nat]


def _counted(row: Sequence[Any]) -> Json:
    return {"packets": row[1], "bytes": row[2]}


def path_of(endpoint: Mapping[str, Any], network: Mapping[str, Any] | None, inside: Links, about: Surroundings) -> Json:
    """Return the path of one endpoint (`Networks.endpoints`): container, network, ip, hops, published, missing.

    `inside`: the interfaces in the container; none of a machine, whose card is no interface of this kernel.
    """
    name, where = str(endpoint["interface"]), str(endpoint["container"])
    missing: dict[str, str] = {}
    hops = [
        {**hop("interface", name, "container", inside.get(name)), "address": endpoint["ip"], "mac": endpoint["mac"]}
    ]
    if endpoint["network"] == SLIRP or network is None:
        hops += [hop("program", "slirp4netns", "node"), hop("sockets", "", "node")]
        missing["hops[].out"] = "slirp4netns(1) makes a socket of the node's of each conversation, and counts nothing"
    else:
        hops += _bridge_hops(endpoint, network, about, machine=not inside)
        missing |= {"hops[0].out": "the card of a machine is told by its hypervisor"} if not inside else {}
        if not network["internal"]:
            missing["hops[].in"] = "address translation looks at the first packet of a conversation only"
    ports = [_published(one, about.counts.get("ports", {})) for one in endpoint["published"]]
    shared = {"container": where, "network": endpoint["network"], "ip": endpoint["ip"], "gateway": endpoint["gateway"]}
    return {**shared, "hops": hops, "published": ports, "missing": missing}


def _bridge_hops(
    endpoint: Mapping[str, Any], network: Mapping[str, Any], about: Surroundings, *, machine: bool
) -> list[Json]:
    peer, bridge = str(endpoint["peer"]), str(network["interface"])
    rules = about.counts.get("rules", {}).get(bridge, ())
    hops = [
        hop("tap" if machine else "veth", peer, "bridges", about.place.get(peer), sent=False),
        {**hop("bridge", bridge, "bridges", about.place.get(bridge), sent=False), "address": network["gateway"]},
        *rule_hops(rules, network),
    ]
    if network["internal"]:
        return hops
    if about.guest:
        return [*hops, hop("interface", about.way_out, "node", about.node.get(about.way_out))]
    uplink = [hop("tap", name, "bridges", about.place[name]) for name in about.place if name.startswith("uplink")]
    return [*hops, *uplink, hop("program", "slirp4netns", "node"), hop("sockets", "", "node")]


def _published(one: Mapping[str, Any], ports: Mapping[str, Any]) -> Json:
    """Return a published port with what went through it; None where slirp4netns serves it, which counts nothing."""
    found = ports.get(f"{one['protocol']} {one['host_ip']}:{one['host_port']}", {})
    return {**one} | {key: found.get(key) for key in ("conversations", "in_bytes", "out_bytes")}


def closed_path(name: str, network: str) -> Json:
    """Return the path of a container that is in no network of ours: ``none``, the node's own, or another's."""
    reasons = {
        "none": "it has no network: only lo, which leads back to it",
        "host": "it has the node's own interfaces: there is nothing in between",
    }
    reason = reasons.get(network, f"it shares the network of {network}")
    base: Json = {"container": name, "network": network, "ip": None, "gateway": None, "published": []}
    return {**base, "hops": [], "missing": {"hops": reason}}


def network_view(node: str, networks: Networks, running: Mapping[str, tuple[int, str]], proc: str = PROC) -> Json:
    """Return the network view; `running`: container → its first process, and the network that it asked for."""
    about = Surroundings(
        guest=networks.guest,
        place=_links(networks.place_pid or "self", proc),
        node=_links("self", proc),
        way_out=_way_out(proc),
        counts=networks.counts(),
    )
    known = {network["name"]: network for network in networks.list()}
    endpoints = networks.endpoints()
    inside = {name: _links(pid, proc) for name, (pid, _) in running.items()}
    paths = [path_of(one, known.get(one["network"]), inside.get(one["container"], {}), about) for one in endpoints]
    connected = {one["container"] for one in endpoints}
    paths += [closed_path(name, asked) for name, (_, asked) in running.items() if name not in connected]
    return {
        "kind": "network",
        "version": 1,
        "time_s": round(time.time(), 3),
        "node": node,
        "networks": [*known.values()],
        "paths": paths,
        "missing": {},
        "units": UNITS,
    }


def _links(pid: int | str, proc: str) -> Links:
    return {row["name"]: row for row in link_rows(read_text(f"{proc}/{pid}/net/dev"))}


def _way_out(proc: str) -> str:
    """Return the interface of the node's default route; empty if it has none."""
    routes = [row for row in route_rows(read_text(f"{proc}/self/net/route")) if row["to"] == "default"]
    return str(min(routes, key=lambda row: row["metric"])["interface"]) if routes else ""
