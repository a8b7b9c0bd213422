"""The layer cache: STORE/build/HEX, one small file a step, says which layer it made.

A step's name is the digest of everything it could see: the layers below it, its words with their variables replaced,
for RUN the environment, user and folder, for COPY the files' content, modes and names (not their times). What it could
not see, such as a LABEL above it, makes no difference.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from vmcontainer_kernel.container.build.plan import Action, Copy, Folder, Run
from vmcontainer_kernel.container.images import LAYER_TYPE, Blob, Store
from vmcontainer_kernel.errors import ImageError

__all__ = ["Cache", "key_of"]

_FORM = 1


def key_of(action: Action, below: Sequence[str], config: dict[str, Any], *, content: str = "", time_s: int = 0) -> str:
    """Return the name of a step in hexadecimal; `below`: the layers' diff_ids, lowest first; `content`: what is copied
    (a digest), `config`: the image's at this point.
    """
    seen: dict[str, Any] = {"form": _FORM, "kind": type(action).__name__, "below": list(below), "time_s": time_s}
    if isinstance(action, Run):
        surroundings = {key: config.get(key) for key in ("Env", "User", "WorkingDir")}
        seen |= surroundings | {"argv": action.argv, "variables": action.variables, "network": action.network}
    elif isinstance(action, Copy):
        documents = [(one.name, one.text) for one in action.documents]
        seen |= {"content": content, "target": action.target, "owner": action.owner, "mode": action.mode}
        seen |= {"sources": action.sources, "extracts": action.extracts, "documents": documents}
    elif isinstance(action, Folder):
        seen |= {"path": action.path}
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


class Cache:
    """The steps that a store remembers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.path / "build"

    def find(self, key: str) -> tuple[Blob | None] | None:
        """Return the layer that a step made, None within for a step that changed nothing; None if it is not known, or
        its layer was removed with the image it was in.
        """
        try:
            document = json.loads((self._folder / key).read_bytes())
            if document["layer"] is None:
                return (None,)
            layer = Blob(LAYER_TYPE, str(document["layer"]), int(document["size_bytes"]))
            if self._store.blob_path(layer.digest).stat().st_size != layer.size_bytes:
                return None
        except (OSError, ValueError, KeyError, TypeError, ImageError):
            return None
        return (layer,)

    def keep(self, key: str, layer: Blob | None) -> None:
        """Remember what a step made; the file is seen whole or not at all."""
        self._folder.mkdir(mode=0o755, exist_ok=True)
        document = {"layer": layer and layer.digest, "size_bytes": layer.size_bytes if layer else 0}
        unfinished = self._folder / f".{key}.{os.getpid()}"
        try:
            unfinished.write_text(json.dumps(document))
            unfinished.replace(self._folder / key)
        finally:
            unfinished.unlink(missing_ok=True)

    def prune(self) -> int:
        """Forget all steps, and remove the layers that no image has; return how many bytes went."""
        freed_bytes = 0
        with self._store.locked():
            kept = _digests_in_use(self._store)
            for path in sorted(self._folder.glob("*")):
                found = self.find(path.name)
                path.unlink()
                layer = found[0] if found else None
                if layer is None or layer.digest in kept:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    self._store.blob_path(layer.digest).unlink()
                    freed_bytes += layer.size_bytes
                self._store.forget_layer(layer.digest)
        return freed_bytes


def _digests_in_use(store: Store) -> set[str]:
    images = [store.resolve(str(one.get("digest"))) for one in store.index()]
    return {digest for image in images for digest in (*(one.digest for one in image.layers), *image.diff_ids)}
