"""What is in the store: list, name, remove, look at. Blobs and unpacked layers go with the last image that needs
them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

from vmcontainer_kernel.container.images.documents import blob_of, name_of
from vmcontainer_kernel.container.images.store import Image, Store
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import ImageError, UserError

__all__ = [
    "Listed",
    "discard",
    "full_name",
    "history",
    "inspect",
    "list_images",
    "prune",
    "remove",
    "sweep_layers",
    "tag",
]

_PUNCTUATION = frozenset("._-:@/+")


class Listed(Record):
    """One line of the list of images; `name` is empty for one whose name went to another, `created` for none told."""

    name: str
    digest: str
    size_bytes: int
    created: str


def list_images(store: Store) -> list[Listed]:
    """List the images by name, then those without a name."""
    found = []
    for entry in store.index():
        image = store.resolve(str(entry.get("digest")))
        found.append(
            Listed(name_of(entry) or "", str(entry["digest"]), image.size_bytes, str(image.config.get("created") or ""))
        )
    return sorted(found, key=lambda one: (not one.name, one.name))


def full_name(name: str) -> str:
    """Return a name with its tag; raise `UserError` if it can be none."""
    rest = name.replace("@sha256:", ":")
    if (
        not name
        or not name[0].isalnum()
        or not all(one.isascii() and (one.isalnum() or one in _PUNCTUATION) for one in rest)
    ):
        raise UserError(f"{name!r} is no name for an image", hint="letters, digits and . _ - / then perhaps :TAG")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def tag(store: Store, reference: str, name: str) -> Image:
    """Give an image one more name; the name's former image stays, without it."""
    return store.name(full_name(name), blob_of(_entry(store, reference)))


def _entry(store: Store, reference: str) -> dict[str, Any]:
    """Return the index entry of a name or digest; raise `NotFound` with what there is."""
    name = store.resolve(reference).name
    return next(
        one for one in store.index() if (name_of(one) or one.get("digest")) == name or one["digest"] == reference
    )


def remove(store: Store, reference: str, *, in_use: Collection[str] = ()) -> int:
    """Remove a name, and with its last name the image (by its digest: all its names); return how many bytes of blobs
    went.

    `in_use`: names or digests of images that containers run on; such an image is not removed (`ImageError`).
    """
    with store.locked():
        index, name = store.index(), full_name(reference)
        going = [one for one in index if name_of(one) in (reference, name)][:1]
        going = going or [one for one in index if one.get("digest") == reference]
        if not going:
            store.resolve(reference)  # raises NotFound with what there is
        digest = str(going[0].get("digest"))
        others = [one for one in index if one not in going]
        if not any(one.get("digest") == digest for one in others) and _used(index, digest, in_use):
            raise ImageError(
                f"a container runs on image {reference}", hint="remove the container first: %container rm NAME"
            )
        store.write_index(others)
        return _collect(store, [digest], others, in_use)


def prune(store: Store, *, in_use: Collection[str] = ()) -> int:
    """Remove the images whose names went to others, unless a container runs on them; return how many bytes went."""
    with store.locked():
        index = store.index()
        going = [one for one in index if name_of(one) is None and not _used(index, str(one.get("digest")), in_use)]
        others = [one for one in index if one not in going]
        store.write_index(others)
        return _collect(store, [str(one.get("digest")) for one in going], others, in_use)


def sweep_layers(store: Store, *, in_use: Collection[str] = ()) -> None:
    """Remove layers unpacked for an ordinary user's ids that no image has any more: who removes an image may not be
    the one who can remove these. `in_use`: names or digests of images that containers run on.
    """
    folder = store.path / "unpacked" / store.steward.layers
    if store.steward.ids is None or not folder.is_dir():
        return
    with store.locked():
        kept = {one for entry in store.index() for one in _reach(store, str(entry.get("digest")))}
        kept |= {one for digest in in_use for one in _reach(store, digest)}
        for path in folder.iterdir():
            if f"sha256:{path.name}" not in kept and not path.name.startswith("."):
                store.forget_layer(f"sha256:{path.name}")


def discard(store: Store, digest: str) -> None:
    """Remove what a refused image brought, where no other image needs it."""
    with store.locked():
        index = store.index()
        if not any(one.get("digest") == digest for one in index):
            _collect(store, [digest], index, ())


def _used(index: list[dict[str, Any]], digest: str, in_use: Collection[str]) -> bool:
    names = {name_of(one) for one in index if one.get("digest") == digest}
    return any(one == digest or one in names or f"{one}:latest" in names for one in in_use)


def _collect(store: Store, going: list[str], others: list[dict[str, Any]], in_use: Collection[str]) -> int:
    """Remove what only the images `going` led to. Blobs that nothing leads to are left: they may be on their way in."""
    kept: set[str] = set()
    for entry in others:
        kept |= _reach(store, str(entry.get("digest")))
    for reference in in_use:
        if reference.startswith("sha256:"):
            kept |= _reach(store, reference)
    freed_bytes = 0
    for digest in set().union(*(_reach(store, digest) for digest in going)) - kept:
        try:
            path = store.blob_path(digest)
        except ImageError:  # a damaged document's
            continue
        with contextlib.suppress(FileNotFoundError):
            size_bytes = path.stat().st_size
            path.unlink()
            freed_bytes += size_bytes
        store.forget_layer(digest)
    return freed_bytes


def _reach(store: Store, digest: str) -> set[str]:
    """Return the digests that lead from this one: blobs and diff_ids; what is damaged or missing leads nowhere."""
    found = {digest}
    with contextlib.suppress(ImageError, TypeError, KeyError, AttributeError):
        document = store.read_json(digest)
        below = [document.get("config"), *(document.get("layers") or ())]
        found |= {str(one["digest"]) for one in below if isinstance(one, dict) and "digest" in one}
        for one in document.get("manifests") or ():
            found |= _reach(store, str(one.get("digest")))
        if "config" in document:
            found |= set(store.read_json(str(document["config"]["digest"]))["rootfs"]["diff_ids"])
    return found


def history(store: Store, reference: str) -> list[dict[str, Any]]:
    """Return how an image came to be, the newest first: ``created``, ``created_by``, ``comment``, ``layer`` (its digest
    or None) and ``size_bytes`` (image-spec, config.md, "history").
    """
    image = store.resolve(reference)
    layers = iter(image.layers)
    steps = []
    for step in image.config.get("history") or [{} for _ in image.layers]:
        layer = None if step.get("empty_layer") else next(layers, None)
        told: dict[str, Any] = {key: str(step.get(key, "")) for key in ("created", "created_by", "comment")}
        steps.append(told | {"layer": layer and layer.digest, "size_bytes": layer.size_bytes if layer else 0})
    return steps[::-1]


def inspect(store: Store, reference: str) -> dict[str, Any]:
    """Describe an image: its names, digests, sizes, configuration, and what could not be kept when it was unpacked."""
    image = store.resolve(reference)
    digest = _entry(store, reference)["digest"]
    return {
        "names": sorted(str(name_of(one)) for one in store.index() if one.get("digest") == digest and name_of(one)),
        "digest": image.digest,
        "size_bytes": image.size_bytes,
        "layers": [
            {"digest": layer.digest, "diff_id": diff_id, "media_type": layer.media_type, "size_bytes": layer.size_bytes}
            for layer, diff_id in zip(image.layers, image.diff_ids, strict=True)
        ],
        **{key: image.config.get(key) for key in ("created", "architecture", "os", "author")},
        "config": image.config.get("config") or {},
        "left_out": store.left_out(image),
    }
