"""The parts of the kernel view that are made when asked for, as tables of text: mounts, layers, networks, sockets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..rows import Document, Words, format_bytes, items, part, visible

__all__ = ["Table", "kernel_tables"]

Table = tuple[str, Sequence[str], list[list[str]]]
_ROWS_LIMIT = 100
_HOST = "host"


def kernel_tables(view: Document, w: Words) -> list[Table]:
    """Caption, columns and rows of each part that is there."""
    mounts, network, sockets = (_to_show(view, name) for name in ("mounts", "network", "sockets"))
    layers = [w["who"], "", w["layers"], ""]
    links = [w["who"], w["link_name"], w["link_addresses"], w["link_traffic"]]
    columns = [w["who"], w["socket_protocol"], w["socket_local"], w["socket_remote"], w["state"], w["socket_holders"]]
    return [
        (w["mounts_title"], layers, _cut(_layers(mounts, w))),
        (w["mounts"], [w["who"], w["mount_point"], w["mount_type"], w["mount_options"]], _cut(_mounts(mounts))),
        (w["network_title"], links, _cut(_links(network))),
        (w["bridges"], [w["bridge_name"], w["bridge_subnet"], w["bridge_members"]], _cut(_bridges(network))),
        (w["sockets_title"], columns, _cut(_sockets(sockets))),
    ]


def _to_show(view: Document, name: str) -> dict[str, Any]:
    """Return a part without what is the host's own: a picture travels with its notebook, and nobody needs to know
    which disks, addresses and open ports there are beside the containers.
    """
    found = dict(part(part(view, "parts"), name))
    if view.get("node") == _HOST:
        found["spaces"] = [one for one in items(found, "spaces") if one.get("name") != _HOST]
    return found


def _cut(rows: Iterable[list[str]]) -> list[list[str]]:
    return [row for row, _ in zip(rows, range(_ROWS_LIMIT), strict=False)]


def _many(document: Mapping[str, Any], name: str) -> list[Any]:
    found = document.get(name)
    return found if isinstance(found, list) else []


def _spaces(document: Document, name: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for space in items(document, "spaces"):
        for row in items(space, name):
            yield visible(space.get("name")), row


def _layers(mounts: Document, w: Words) -> Iterable[list[str]]:
    for who, row in _spaces(mounts, "mounts"):
        overlay = part(row, "overlay")
        if not overlay or row.get("point") != "/":
            continue
        yield [who, w["layer_upper"], visible(overlay.get("upper")), ""]
        for layer in items(overlay, "lower"):
            users = ", ".join(visible(user) for user in _many(layer, "shared_with"))
            shared = w["shared_with"].format(names=users) if users else w["layer_alone"]
            yield [who, w["layer_lower"], visible(layer.get("digest") or layer.get("path")), shared]


def _mounts(mounts: Document) -> Iterable[list[str]]:
    for who, row in _spaces(mounts, "mounts"):
        yield [who, *(visible(row.get(key)) for key in ("point", "type", "options"))]


def _links(network: Document) -> Iterable[list[str]]:
    for who, row in _spaces(network, "links"):
        addresses = " ".join(visible(address) for address in _many(row, "addresses"))
        traffic = f"↓ {format_bytes(row.get('received_bytes'))} ↑ {format_bytes(row.get('sent_bytes'))}"
        yield [who, visible(row.get("name")), addresses, traffic]


def _bridges(network: Document) -> Iterable[list[str]]:
    for row in items(network, "bridges"):
        members = [f"{visible(one.get('container'))} {visible(one.get('ip'))}" for one in items(row, "containers")]
        name = f"{visible(row.get('name'))} ({visible(row.get('interface'))})"
        yield [name, visible(row.get("subnet")), ", ".join(members)]


def _sockets(sockets: Document) -> Iterable[list[str]]:
    for who, row in _spaces(sockets, "sockets"):
        texts = [visible(row.get(key)) for key in ("protocol", "local", "remote", "state")]
        yield [who, *texts, " ".join(visible(pid) for pid in _many(row, "pids"))]
