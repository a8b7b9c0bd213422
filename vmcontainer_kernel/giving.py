"""Images for nodes: the default one is built, others are pulled to this computer's store, and a machine is given those
it lacks. What the default node makes comes back, as the store is where images are listed and exported.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from .errors import ImageError, LabError
from .fetching import fetch_file
from .node import Node
from .paths import cache_dir

if TYPE_CHECKING:
    from .container.images import Blob, Image, Store

__all__ = ["TAKEN_MAX_BYTES", "ensure_default_image", "give_image", "take_image"]

TAKEN_MAX_BYTES: Final = 4 << 30
_MOST_LAYERS: Final = 500  # of an overlay (fs/overlayfs/params.c, OVL_MAX_STACK)

_given: WeakKeyDictionary[Node, dict[str, str]] = WeakKeyDictionary()  # what nodes have for certain: name → digest


def _quiet(phase: str, fraction: float) -> None:
    """Report to nobody."""


async def give_image(node: Node, name: str | None, report: Callable[[str, float], None] = _quiet) -> None:
    """Copy an image to a machine that lacks it: the blobs it has not got, then the name; None is the default image.

    `report` is told the phase and which part is done; an empty phase when there is nothing more to wait for.
    Nothing happens for an image that is not here either: the node's own error tells which there are.
    """
    if name is None or node.passes_fds:
        return
    from .container.images import Store
    from .container.images.shelf import full_name

    store, wanted, known = Store(cache_dir("images")), full_name(name), _given.setdefault(node, {})
    try:
        image = await asyncio.to_thread(store.resolve, name)
    except LabError:
        return
    if known.get(wanted) == image.digest:
        return
    # A name that the machine has from elsewhere, such as a build of its own, is its own affair.
    if wanted in known or not {name, wanted} & await _names(node):
        await _give(node, store, image, wanted, report)
    known[wanted] = image.digest


async def _names(node: Node) -> set[str]:
    there = (await node.call("image.list"))["names"]
    return {*there, *(f"{one}:latest" for one in there)}


async def _give(node: Node, store: Store, image: Image, name: str, report: Callable[[str, float], None]) -> None:
    manifest, config = store.documents(image)
    sizes = {one.digest: one.size_bytes for one in (manifest, config, *image.layers)}
    missing = (await node.call("image.missing", digests=[*sizes]))["paths"]
    total_bytes, done_bytes = sum(sizes[digest] for digest in missing), 0
    phase = f"giving {node.name} the image {name}, {total_bytes >> 20} MiB"
    for digest, path in missing.items():
        before = done_bytes

        def sent(count: int, before: int = before) -> None:
            report(phase, min(0.9, (before + count) / max(total_bytes, 1)))

        await _put_file(node, store.blob_path(digest), path, sent)
        done_bytes += sizes[digest]
    report(f"{node.name} unpacks the image {name}", 0.95)
    descriptor = {"media_type": manifest.media_type, "digest": manifest.digest, "size_bytes": manifest.size_bytes}
    await node.call("image.add", name=name, **descriptor)
    report("", 1.0)


async def take_image(node: Node, name: str) -> None:
    """Copy an image that a machine made to this computer's store, where it is listed, exported and given to others.

    A guest may say anything: raises ImageError for what is no image or not of the sizes that its manifest tells, and
    for more than `TAKEN_MAX_BYTES` or than the disk has room for. Of an image that is refused nothing is kept.
    """
    from .container.images import Store
    from .container.images.shelf import full_name
    from .container.images.transport import adopt, incoming

    store, wanted = Store(cache_dir("images")), full_name(name)
    digest = (await node.call("image.view", node=node.name, name=wanted))["digest"]
    with incoming(store) as folder:
        came = Store(folder / "image")
        manifest = await _take_manifest(node, came, digest, wanted)
        blobs = _wanted_of(came, manifest, wanted)
        for one in blobs:
            if not came.blob_path(one.digest).exists():
                await _take(node, came, one)
        came.name(wanted, manifest)  # or it is no image
        adopt(store, came.path, [one.digest for one in (manifest, *blobs)], wanted)
        _given.setdefault(node, {})[wanted] = store.name(wanted, manifest).digest


async def _take_manifest(node: Node, store: Store, digest: str, name: str) -> Blob:
    from .container.images import Blob, documents

    data = bytearray()
    await fetch_file(node, _place(digest), data.extend, documents.MAX_BYTES)
    document = documents.parse(bytes(data), name)
    blob = store.put(bytes(data), str(document.get("mediaType") or documents.MANIFEST_TYPE))
    _check(node, Blob("", digest, blob.size_bytes), blob)
    return blob


def _wanted_of(store: Store, manifest: Blob, name: str) -> list[Blob]:
    """Return an image's configuration and layers; raises ImageError for more than there may be of them."""
    from .container.files import room_bytes
    from .container.images import documents

    document = store.read_json(manifest.digest)
    layers = document.get("layers")
    config, *rest = map(documents.blob_of, [document.get("config"), *(layers if isinstance(layers, list) else [None])])
    total_bytes = sum(one.size_bytes for one in rest)
    most_bytes = min(TAKEN_MAX_BYTES, room_bytes(store.path))
    if total_bytes > most_bytes or config.size_bytes > documents.MAX_BYTES or len(rest) > _MOST_LAYERS:
        raise ImageError(
            f"{name}: a machine made {total_bytes >> 20} MiB of it, and {most_bytes >> 20} MiB may come from there",
            hint="it stays in the machine that made it: use it there (--on), or make it smaller",
        )
    return [config, *rest]


async def _take(node: Node, store: Store, blob: Blob) -> None:
    with store.new_blob(blob.media_type) as new:
        await fetch_file(node, _place(blob.digest), new.write, blob.size_bytes)
        _check(node, blob, new.blob)


def _place(digest: str) -> str:
    from .agent.engine import GUEST_IMAGES
    from .container.images import documents

    return f"{GUEST_IMAGES}/blobs/sha256/{documents.digest_value(digest)}"


def _check(node: Node, wanted: Blob, found: Blob) -> None:
    if (found.digest, found.size_bytes) != (wanted.digest, wanted.size_bytes):
        raise ImageError(
            f"{node.name}: blob {wanted.digest} is damaged: its content has another digest", hint="build it anew"
        )


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
