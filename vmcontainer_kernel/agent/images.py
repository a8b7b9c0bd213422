"""The requests about images that only the node can answer: what a container changed, and images given to a node.

image.missing (digests of manifest, configuration, layers) ──▶ those to be put ──put──▶ image.add ──▶ the store has it
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from ..container.container import Container
from ..container.ids import Steward
from ..container.images import Blob
from ..container.runtime import Runtime
from .copies import begin
from .jobs import Job
from .kept import Keeper
from .protocol import get_bool, get_int, get_str, get_strs
from .server import Call, Server

__all__ = ["ImageVerbs"]


class ImageVerbs:
    """The verbs ``image.list|missing|add|sweep|view`` and ``container.diff|changes|commit``."""

    def __init__(self, server: Server, runtime: Runtime, keeper: Keeper) -> None:
        self._server, self._runtime, self._keeper = server, runtime, keeper
        server.verbs |= {
            "image.list": self.list,
            "image.missing": self.missing,
            "image.add": self.add,
            "image.sweep": self.sweep,
            "image.view": self.view,
            "container.diff": self.diff,
            "container.changes": self.changes,
            "container.commit": self.commit,
        }

    def list(self, call: Call) -> dict[str, Any]:
        """Return the names of this node's images."""
        return {"names": self._runtime.store.names()}

    def missing(self, call: Call) -> dict[str, Any]:
        """Return where blobs belong that the store does not have: digests."""
        paths = {digest: self._runtime.store.blob_path(digest) for digest in get_strs(call.arguments, "digests")}
        absent = {digest: path for digest, path in paths.items() if not path.exists()}
        for path in absent.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        return {"paths": {digest: str(path) for digest, path in absent.items()}}

    def add(self, call: Call) -> None:
        """Let a name mean an image whose blobs are there: name, and of its manifest media_type, digest, size_bytes."""
        arguments, store = call.arguments, self._runtime.store
        manifest = Blob(
            get_str(arguments, "media_type"), get_str(arguments, "digest"), get_int(arguments, "size_bytes")
        )
        image = store.name(get_str(arguments, "name"), manifest)

        def unpack() -> None:
            store.steward = Steward(store.steward.ids)  # this one's namespace is closed in the child
            store.rootfs_layers(image)  # checks every digest

        begin(self._server, call.request, unpack)

    def sweep(self, call: Call) -> dict[str, Any]:
        """Remove what is still unpacked of images that were removed."""
        from ..container.images import shelf

        in_use = [container.image.digest for container in self._runtime.list()]
        shelf.sweep_layers(self._runtime.store, in_use=in_use)
        return {}

    def view(self, call: Call) -> dict[str, Any]:
        """Return the image view (docs/architecture.md, "Views"): node, name."""
        from .layers import image_view  # which nothing else needs

        node, name = get_str(call.arguments, "node", "host"), get_str(call.arguments, "name")
        return image_view(node, name, self._runtime.store, self._runtime.list())

    def changes(self, call: Call) -> None:
        """Send what is in a container's upper folder now, as one JSON document: name, most (rows)."""
        from ..container.images import changes

        steward, most = self._runtime.store.steward, get_int(call.arguments, "most", 200)

        def write(container: Container) -> None:
            steward.enter()
            rows, cut = changes.upper_rows(container.bundle / "upper", container.layers, most=min(max(most, 0), 2000))
            with open(1, "wb", closefd=False) as out:
                out.write(json.dumps({"rows": rows, "cut": cut}).encode())

        self._start(call, write)

    def diff(self, call: Call) -> None:
        """Send what a container changed as lines of A, C or D and a path: name."""
        from ..container.images import changes

        steward = self._runtime.store.steward

        def write(container: Container) -> None:
            steward.enter()
            lines = [f"{one.kind} {one.path}\n" for one in changes.diff(container.bundle / "upper", container.layers)]
            with open(1, "wb", closefd=False) as out:
                out.write("".join(lines).encode("utf-8", "surrogateescape"))

        self._start(call, write)

    def commit(self, call: Call) -> None:
        """Make an image of a container and send its digest: name, image, comment, pause (as long as it is read, where
        it runs and can be; default: yes).
        """
        from ..container.images import changes, shelf

        kept = self._keeper.get(get_str(call.arguments, "name"))
        container = kept.container
        image, comment = shelf.full_name(get_str(call.arguments, "image")), get_str(call.arguments, "comment", "")
        steward = self._runtime.store.steward
        alone = steward.ids is None

        def write(container: Container) -> None:
            steward.enter()
            linux, upper = container.spec.linux, container.bundle / "upper"
            maps = [
                [(one.container_id, one.host_id, one.size) for one in some]
                for some in (linux.uid_mappings, linux.gid_mappings)
            ]
            owners = changes.id_owners(*maps) if maps[0] and alone else None  # among the ids they are as inside
            made_by = " ".join(container.spec.process.args)[:200]
            made = changes.commit(
                self._runtime.store, container.image, upper, image, created_by=made_by, comment=comment, owners=owners
            )
            os.write(1, made.digest.encode())

        rests = container.status == "running" and not container.paused and container.cgroup is not None
        if not (rests and get_bool(call.arguments, "pause", True)):
            self._start(call, write)
            return
        self._runtime.pause(container)

        def go_on(_: Job | None = None) -> None:
            if container.paused:
                self._runtime.resume(container)

        try:
            self._start(call, write, go_on)
        except BaseException:
            go_on()
            raise

    def _start(self, call: Call, action: Any, on_end: Callable[[Job], None] | None = None) -> None:
        container = self._keeper.get(get_str(call.arguments, "name")).container
        begin(self._server, call.request, lambda: action(container), on_end=on_end)
