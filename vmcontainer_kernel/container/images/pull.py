"""Pulling an image from a registry (distribution-spec), by skopeo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.images import documents, shelf
from vmcontainer_kernel.container.images.store import Image, Store
from vmcontainer_kernel.container.images.transport import Progress, bring, run_skopeo, silent

__all__ = ["pull"]


def pull(
    store: Store,
    reference: str,
    *,
    name: str = "",
    tls_verify: bool = True,
    authfile: Path | None = None,
    progress: Progress = silent,
) -> Image:
    """Fetch ``[REGISTRY/]NAME[:TAG|@DIGEST]`` and return it under `name`, or else as it was asked for.

    Without a registry it is Docker Hub. `authfile`: passwords as ``skopeo login`` keeps them (containers-auth.json(5));
    None means skopeo's own. Only blobs that the store does not have are fetched. Raises `ImageError` saying which of
    name, access, network, certificate or content is wrong.
    """
    name = shelf.full_name(name or reference)
    access = [f"--authfile={authfile.absolute()}"] if authfile else []
    what = f"image {reference}"
    progress("asking", 0, None)

    def ask(source: str) -> dict[str, Any]:
        verify = f"--tls-verify={str(tls_verify).lower()}"
        return documents.parse(run_skopeo(["inspect", "--raw", verify, *access, source], what=what).encode(), what)

    source = f"docker://{reference}"
    manifest = ask(source)
    if "manifests" in manifest:  # one for each kind of computer; only of one's own is known how much is to come
        source = f"docker://{_bare(reference)}@{documents.choose(manifest, reference).digest}"
        manifest = ask(source)
    return bring(
        store,
        source,
        name,
        what=what,
        options=[f"--src-tls-verify={str(tls_verify).lower()}", *access],
        total_bytes=_missing_bytes(store, manifest),
        progress=progress,
    )


def _bare(reference: str) -> str:
    """Return a reference without tag and digest."""
    place, slash, last = reference.partition("@")[0].rpartition("/")
    return place + slash + last.partition(":")[0]


def _missing_bytes(store: Store, manifest: dict[str, Any]) -> int | None:
    """Return how much is to be fetched; None for a manifest of long ago, which names no sizes."""
    layers = manifest.get("layers")
    if not isinstance(layers, list):
        return None
    blobs = {blob.digest: blob for blob in map(documents.blob_of, layers)}
    return sum(blob.size_bytes for blob in blobs.values() if not store.blob_path(blob.digest).exists())
