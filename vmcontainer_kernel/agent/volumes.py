"""The requests about named volumes."""

from __future__ import annotations

from typing import Any

from ..container.runtime import Runtime
from ..container.volumes import Volumes
from ..errors import HostError
from .protocol import get_map, get_str
from .server import Call, Server

__all__ = ["VolumeVerbs"]

Names = list[str]


class VolumeVerbs:
    """The ``volume.*`` verbs, as methods that take a `Call`."""

    def __init__(self, server: Server, runtime: Runtime) -> None:
        self._runtime = runtime
        server.verbs |= {
            "volume.list": self.list,
            "volume.create": self.create,
            "volume.remove": self.remove,
            "volume.inspect": self.inspect,
        }

    def list(self, call: Call) -> dict[str, Any]:
        """Return every volume, with its size and the containers that have it mounted."""
        volumes = self._volumes()
        return {"volumes": [{**volumes.inspect(name), "used_by": self._users(name)} for name in volumes.names()]}

    def create(self, call: Call) -> dict[str, Any]:
        """Make a volume: name, labels."""
        name = get_str(call.arguments, "name")
        labels = {key: str(value) for key, value in get_map(call.arguments, "labels", {}).items()}
        self._volumes().create(name, labels)
        return {"name": name}

    def remove(self, call: Call) -> dict[str, Any]:
        """Remove a volume that no container has: name."""
        name = get_str(call.arguments, "name")
        self._volumes().remove(name, self._users(name))
        return {}

    def inspect(self, call: Call) -> dict[str, Any]:
        """Return all about a volume: name."""
        name = get_str(call.arguments, "name")
        return {**self._volumes().inspect(name), "used_by": self._users(name)}

    def _volumes(self) -> Volumes:
        if self._runtime.volumes is None:
            raise HostError("this node keeps no volumes")
        return self._runtime.volumes

    def _users(self, name: str) -> Names:
        return [
            one.name
            for one in self._runtime.list()
            if any(volume.kind == "volume" and volume.source == name for volume in one.options.volumes)
        ]
