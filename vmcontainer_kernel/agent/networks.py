"""The requests about networks: ``network.list|create|remove|inspect``."""

from __future__ import annotations

from typing import Any

from ..container.runtime import Runtime
from .protocol import get_bool, get_str
from .server import Call, Server

__all__ = ["NetworkVerbs"]


class NetworkVerbs:
    """The ``network.*`` verbs, as methods that take a `Call`."""

    def __init__(self, server: Server, runtime: Runtime) -> None:
        self._networks = runtime.networks
        server.verbs |= {
            "network.list": self.list,
            "network.create": self.create,
            "network.remove": self.remove,
            "network.inspect": self.inspect,
        }

    def list(self, call: Call) -> dict[str, Any]:
        """Return all networks, oldest first."""
        return {"networks": list(self._networks.list())}

    def create(self, call: Call) -> dict[str, Any]:
        """Make a network: name, subnet (chosen if empty), internal (no way out)."""
        internal = get_bool(call.arguments, "internal", False)
        return self._networks.create(
            get_str(call.arguments, "name"), subnet=get_str(call.arguments, "subnet", ""), internal=internal
        )

    def remove(self, call: Call) -> dict[str, Any]:
        """Remove a network that no container is in: name."""
        self._networks.remove(get_str(call.arguments, "name"))
        return {}

    def inspect(self, call: Call) -> dict[str, Any]:
        """Return a network and the containers in it: name."""
        return self._networks.inspect(get_str(call.arguments, "name"))
