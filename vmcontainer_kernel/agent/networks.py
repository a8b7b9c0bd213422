"""The requests about networks: ``network.list|create|remove|inspect|view``, and ``connect|disconnect`` of machines."""

from __future__ import annotations

import os
import socket
from typing import Any

from ..container.runtime import Runtime
from ..errors import UserError
from .protocol import get_bool, get_str
from .server import Call, Server

__all__ = ["NetworkVerbs"]


class NetworkVerbs:
    """The ``network.*`` verbs, as methods that take a `Call`."""

    def __init__(self, server: Server, runtime: Runtime) -> None:
        self._runtime, self._networks = runtime, runtime.networks
        server.verbs |= {
            "network.list": self.list,
            "network.create": self.create,
            "network.remove": self.remove,
            "network.inspect": self.inspect,
            "network.view": self.view,
            "network.connect": self.connect,
            "network.disconnect": self.disconnect,
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

    def view(self, call: Call) -> dict[str, Any]:
        """Return the network view (docs/architecture.md, "Views"): node."""
        from .paths import network_view  # which nothing else needs

        running = [one for one in self._runtime.list() if one.status == "running"]
        pids = {one.name: (one.pid, one.options.network) for one in running}
        return network_view(get_str(call.arguments, "node", "host"), self._networks, pids)

    def connect(self, call: Call) -> dict[str, Any]:
        """Make a card for a machine in a network: network, machine, and a socket beside the call, by which the end of
        its cable is sent (SCM_RIGHTS). Returns ip, mac, gateway, prefix_length, and the text of its /etc/hosts.
        """
        if len(call.fds) != 1:
            raise UserError("a machine joins networks of the host only", hint="leave --on out")
        machine = get_str(call.arguments, "machine")
        card = self._networks.tap(machine, get_str(call.arguments, "network"))
        cable = card.pop("fd")
        try:
            with socket.socket(fileno=os.dup(call.fds[0])) as way:
                socket.send_fds(way, [b"+"], [cable])
        except BaseException:
            self._networks.detach(machine)
            raise
        finally:
            os.close(cable)
        return card | {"hosts": self._networks.hosts_text(machine)}

    def disconnect(self, call: Call) -> dict[str, Any]:
        """Forget a machine, whose card has gone with it, or was never plugged in: machine."""
        self._networks.forget(get_str(call.arguments, "machine"))
        return {}
