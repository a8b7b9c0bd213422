"""Images for nodes: the default one is built, others are pulled to this computer's store, and a machine is given those
it lacks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from weakref import WeakKeyDictionary

from .errors import LabError
from .node import Node
from .paths import cache_dir

__all__ = ["ensure_default_image", "give_image"]

_given: WeakKeyDictionary[Node, set[str]] = WeakKeyDictionary()  # what nodes have for certain


def _quiet(phase: str, fraction: float) -> None:
    """Report to nobody."""


async def give_image(node: Node, name: str | None, report: Callable[[str, float], None] = _quiet) -> None:
    """Copy an image to a machine that lacks it: the blobs it has not got, then the name; None is the default image.

    `report` is told the phase and which part is done; an empty phase when there is nothing more to wait for.
    Nothing happens for an image that is not here either: the node's own error tells which there are.
    """
    if name is None or node.passes_fds or name in _given.setdefault(node, set()):
        return
    from .container.images import Store
    from .container.images.shelf import full_name

    store, wanted = Store(cache_dir("images")), full_name(name)
    there = (await node.call("image.list"))["names"]
    if not {name, wanted} & {*there, *(f"{one}:latest" for one in there)}:
        try:
            image = await asyncio.to_thread(store.resolve, name)
        except LabError:
            return
        digests = [layer.digest for layer in image.layers]
        missing = (await node.call("image.missing", digests=digests))["paths"]
        sizes = {layer.digest: layer.size_bytes for layer in image.layers if layer.digest in missing}
        total_bytes, done_bytes = sum(sizes.values()), 0
        phase = f"giving {node.name} the image {name}, {total_bytes >> 20} MiB"
        for digest, path in missing.items():
            before = done_bytes

            def sent(count: int, before: int = before) -> None:
                report(phase, min(0.9, (before + count) / max(total_bytes, 1)))

            await _put_file(node, store.blob_path(digest), path, sent)
            done_bytes += sizes[digest]
        report(f"{node.name} unpacks the image {name}", 0.95)
        layers = [
            {"media_type": one.media_type, "digest": one.digest, "size_bytes": one.size_bytes} for one in image.layers
        ]
        await node.call("image.add", name=wanted, config=image.config, layers=layers)
        report("", 1.0)
    _given[node].add(name)


async def _put_file(node: Node, source: Path, path: str, sent: Callable[[int], None]) -> None:
    """Copy a file of this computer to a node, whole or not at all; `sent` is told how many bytes are on their way."""
    request = node.start("put", {"path": path, "mode": 0o644})
    with source.open("rb") as file:
        while (chunk := file.read(1 << 20)) and not request.done.done():
            await request.feed(chunk)
            sent(file.tell())
    if not request.done.done():
        request.end_input()
    await request.done


def ensure_default_image() -> None:
    """Build the image that a cell without ``--image`` runs, if the store is empty; a second is enough for it."""
    from .container.images import Store
    from .container.images.busybox import build_busybox

    store = Store(cache_dir("images"))
    if not store.names():
        with contextlib.suppress(LabError):  # no busybox here: the cell that needs the image says so
            build_busybox(store)
