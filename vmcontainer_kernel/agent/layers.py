"""The image view: an image's layers, who else is made of each, and the containers that write above them.

image ─▶ layers, the lowest first ─▶ other images, and containers, of which each is a part too
                                  ─▶ its containers' upper folders (``container.changes`` tells what is in them)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from ..container.container import Container
from ..container.images import Store, shelf

__all__ = ["UNITS", "image_view"]

UNITS: Final = {
    "size_bytes": ("B", "level"),
    "layers[].size_bytes": ("B", "level"),
    "containers[].changes.rows[].size_bytes": ("B", "level"),
    "containers[].changes.rows[].time_s": ("s", "level"),
}


def image_view(node: str, name: str, store: Store, containers: Sequence[Container]) -> dict[str, Any]:
    """Return the image view; raises `NotFound`. `containers`: all of the node."""
    image, told = store.resolve(name), shelf.inspect(store, name)
    sharing = _others(store, image.digest)
    steps = {step["layer"]: step for step in shelf.history(store, name) if step["layer"]}
    layers = []
    for layer in told["layers"]:
        step = steps.get(layer["digest"], {})
        layers.append(
            {
                **layer,
                "created_by": str(step.get("created_by") or step.get("comment") or ""),
                "images": sharing.get(layer["diff_id"], []),
                "containers": [one.name for one in containers if layer["diff_id"] in one.image.diff_ids],
            }
        )
    return {
        "kind": "image",
        "version": 1,
        "time_s": round(time.time(), 3),
        "node": node,
        "name": image.name,
        **{key: told[key] for key in ("names", "digest", "size_bytes", "created", "architecture")},
        "layers": layers,
        "containers": [
            {"name": one.name, "status": one.shown_status, "upper": str(one.bundle / "upper")}
            for one in containers
            if one.image.digest == image.digest
        ],
        "missing": {},
        "units": UNITS,
    }


def _others(store: Store, digest: str) -> dict[str, list[str]]:
    """Return diff_id of a layer → the names of other images that have it."""
    found: dict[str, list[str]] = {}
    for listed in shelf.list_images(store):
        other = store.resolve(listed.digest)
        for diff_id in other.diff_ids if other.digest != digest else ():
            found.setdefault(diff_id, []).append(listed.name or other.digest[:19])
    return found
