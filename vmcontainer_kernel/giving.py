"""Images for machines: they are pulled to this computer's store, and a machine is given those it lacks."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from .errors import LabError
from .node import Node
from .paths import cache_dir

__all__ = ["give_image"]

_given: WeakKeyDictionary[Node, set[str]] = WeakKeyDictionary()  # what nodes have for certain


async def give_image(node: Node, name: str | None) -> None:
    """Copy an image to a machine that lacks it: the blobs it has not got, then the name; None is the default image.

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
        for digest, path in (await node.call("image.missing", digests=digests))["paths"].items():
            await node.put_file(store.blob_path(digest), path)
        layers = [
            {"media_type": one.media_type, "digest": one.digest, "size_bytes": one.size_bytes} for one in image.layers
        ]
        await node.call("image.add", name=wanted, config=image.config, layers=layers)
    _given[node].add(name)
