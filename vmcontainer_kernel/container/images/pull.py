"""Pulling an image from a registry (distribution-spec), by skopeo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.images import shelf
from vmcontainer_kernel.container.images.store import Image, Store
from vmcontainer_kernel.container.images.transport import Progress, bring, run_skopeo, silent
from vmcontainer_kernel.errors import ImageError

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
    source, what = f"docker://{reference}", f"image {reference}"
    progress("asking", 0, None)
    raw = run_skopeo(["inspect", "--raw", f"--tls-verify={str(tls_verify).lower()}", *access, source], what=what)
    return bring(
        store,
        source,
        name,
        what=what,
        options=[f"--src-tls-verify={str(tls_verify).lower()}", *access],
        total_bytes=_missing_bytes(store, _manifest(raw, what)),
        progress=progress,
    )


def _manifest(raw: str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise ImageError(f"{what}: the registry sent no manifest", where=raw[:200]) from error
    return document if isinstance(document, dict) else {}


def _missing_bytes(store: Store, manifest: dict[str, Any]) -> int | None:
    """Return how much is to be fetched; None for a list of manifests, of which skopeo takes the one that fits."""
    layers = manifest.get("layers")
    if not isinstance(layers, list):
        return None
    return sum(int(one["size"]) for one in layers if not store.blob_path(str(one.get("digest"))).exists())
