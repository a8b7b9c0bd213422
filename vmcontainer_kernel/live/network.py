"""The network view of a node: the hops of each packet; beyond a guest's own, those that its hypervisor knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..session import Session
from .base import Json, Source, join, repeated

__all__ = ["beyond", "network_document", "network_source", "network_view"]

# The helper asks the kernel for all its rules: 2 ms.
PERIOD_S: Final = 1.0


def beyond(document: Json, hypervisor: Json | None, ports: Mapping[str, list[Json]]) -> Json:
    """Return a network view whose paths go on through a machine's hypervisor, where the node is a guest; pure.

    `hypervisor`: its view, None of a host; `ports`: container → published ports with this computer's in their place.
    """
    paths = [{**path, "published": ports.get(path["container"], path["published"])} for path in document["paths"]]
    if hypervisor is None:
        return {**document, "paths": paths}
    return {**document, "paths": [_through(path, hypervisor) if _leaves(path) else path for path in paths]}


def _leaves(path: Json) -> bool:
    return bool(path["hops"]) and path["hops"][-1]["kind"] == "interface" and path["hops"][-1]["where"] == "node"


def _through(path: Json, hypervisor: Json) -> Json:
    cards = hypervisor.get("networks") or []
    empty = {"out": None, "in": None}
    card: Json = {"kind": "card", "name": cards[0]["device"] if cards else "", "where": "host", **empty}
    if cards:
        card["address"] = cards[0].get("mac")
    queues = "of a virtual card QEMU tells the indexes of its queues only: see the machine's own view"
    network: Json = {"kind": "usernet", "name": f"QEMU {hypervisor['qemu']['pid'] or ''}".strip(), "where": "host"}
    last = len(path["hops"])
    missing = {f"hops[{last}].out": queues, f"hops[{last + 1}].out": "QEMU's user network counts nothing"}
    return {**path, "hops": [*path["hops"], card, network | empty], "missing": {**path["missing"], **missing}}


async def network_document(session: Session, node_name: str) -> Json:
    """Return the network view, with what a guest's hypervisor adds to it."""
    node = await session.node(node_name)
    document = await node.call("network.view", node=node_name)
    ports = {
        path["container"]: session.ports.shown(node_name, path["container"], path["published"])
        for path in document["paths"]
    }
    machine = session.machines.find(node_name)
    return beyond(document, await machine.view() if machine else None, ports)


def network_source(session: Session, node_name: str) -> Source:
    """Return where a node's network views come from."""

    async def fetch(_wanted: frozenset[str]) -> Json:
        return await network_document(session, node_name)

    return Source(repeated(fetch, PERIOD_S))


def network_view(session: Session, node_name: str, language: str) -> Any:
    """Return a live NetworkView of a node."""
    from vmcontainer_widgets.views import NetworkView

    view = NetworkView(document=session.wait(network_document(session, node_name)), language=language)
    join(session, view, network_source(session, node_name))
    return view
