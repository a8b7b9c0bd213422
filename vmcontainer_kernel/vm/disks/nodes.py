"""A disk as QEMU's block nodes: what ``blockdev-add`` and ``-blockdev`` are told, layer by layer.

    data0          qcow2 ── file ──▶ data0-file      file, /dev/fdset/10
      └─ backing ▶ data0-1       ──▶ data0-1-file    file, /dev/fdset/11, read-only

Each node names the one below by its node name, so QEMU never looks at the file name that a layer has for its own
backing file (QEMU QMP Reference Manual, BlockdevOptionsGenericCOWFormat, ``backing``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .disk import Disk, layers

__all__ = ["Node", "blockdev", "file_name", "image", "names", "words"]

Node = dict[str, Any]
_BACKED = ("qcow2", "qcow", "qed", "vmdk")  # formats in which a layer may name the one below


def blockdev(disk: Disk, files: Sequence[str], top: str) -> list[Node]:
    """Return the arguments of one ``blockdev-add`` for each node, lowest first; the last is the node `top`.

    `files` are what QEMU opens for each of `layers(disk)`: paths, or ``/dev/fdset/N`` for descriptors it was given
    (QMP ``add-fd``, ``-add-fd``). `top` may have 24 characters: a node's name has at most 31.
    """
    found: list[Node] = []
    below: str | None = None
    for depth, (layer, file) in reversed(list(enumerate(zip(layers(disk), files, strict=True)))):
        name = top if depth == 0 else f"{top}-{depth}"
        read_only = disk.read_only or depth > 0
        found += [
            _file(f"{name}-file", file, read_only=read_only),
            _format(name, layer.format, below, read_only=read_only),
        ]
        below = name
    return found


def _file(name: str, file: str, *, read_only: bool) -> Node:
    # Without discard=unmap: QEMU would take a hole for zeros, and some holes are not made (`agent.cage.keep_the_file`).
    return {"driver": "file", "node-name": name, "filename": file, "read-only": read_only, "locking": "on"}


def _format(name: str, driver: str, below: str | None, *, read_only: bool) -> Node:
    node: Node = {"driver": driver, "node-name": name, "file": f"{name}-file", "read-only": read_only}
    if driver in _BACKED:
        # Null where there is nothing below: a name in the file would be followed otherwise.
        node["backing"] = below
    return node | _discarding(read_only=read_only)


def _discarding(*, read_only: bool) -> Node:
    """What a guest trims, the format may use again."""
    return {} if read_only else {"discard": "unmap"}


def names(nodes: Sequence[Node]) -> list[str]:
    """Return the nodes' names in the order in which they are deleted again."""
    return [str(node["node-name"]) for node in reversed(nodes)]


def words(nodes: Sequence[Node]) -> tuple[str, ...]:
    """Return the command line's words for nodes (qemu-system-x86_64(1), ``-blockdev`` takes JSON)."""
    return tuple(word for node in nodes for word in ("-blockdev", json.dumps(node)))


def image(driver: str, file: Node, below: Node | None = None) -> Node:
    """Return an image as one tree, for programs without a monitor; ``below`` None: it lies on nothing."""
    node: Node = {"driver": driver, "file": file}
    if driver in _BACKED:
        node["backing"] = below
    if driver == "vpc":
        # As Hyper-V does: the size that is told, not the one that cylinders, heads and sectors multiply to.
        node["force_size_calc"] = "current_size"
    return node


def file_name(node: Node) -> str:
    """Return what qemu-img(1) takes in the place of a file name."""
    return f"json:{json.dumps(node)}"
