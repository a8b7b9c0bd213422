"""The lab for Python cells: ``from vmcontainer_kernel import lab``. Everything here waits for its answer.

lab.run("uname -r", on="vm").out          lab.host.view()["processes"]          lab.machine("vm").view()["vcpus"]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .agent.protocol import Kind
from .cells import CAPTURE_LIMIT_BYTES, follow
from .errors import NodeLost
from .fetching import fetch_bytes
from .node import Request
from .run import Captured, Run
from .session import current
from .timelines import document
from .verbs import default_node_name

__all__ = ["Completed", "MachineHandle", "NodeHandle", "give_runc", "host", "machine", "node", "run"]

_HOST = "host"


@dataclass(frozen=True)
class Completed:
    """A command that has ended: its status (128 + N after signal N), what it wrote, and how long it took."""

    status: int
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class NodeHandle:
    """A node by its name."""

    name: str

    def view(self, *parts: str) -> dict[str, Any]:
        """Return the kernel view of this node: a JSON document (docs/architecture.md, "Views").

        `parts`: the dear ones to be in it: mounts, network, sockets.
        """

        async def ask() -> dict[str, Any]:
            return await (await current().node(self.name)).view(parts)

        return current().wait(ask())

    def image(self, name: str) -> dict[str, Any]:
        """Return the image view: an image's layers, and what its containers write above them. Raises NotFound."""
        from .live.images import image_document

        return current().wait(image_document(current(), self.name, name))

    def network(self) -> dict[str, Any]:
        """Return the network view: the way of a packet from each container, hop by hop."""
        from .live.network import network_document

        return current().wait(network_document(current(), self.name))

    def put(self, data: bytes, path: str, mode: int = 0o644) -> int:
        """Write a file there, whole or not at all; return its size in bytes."""

        async def send() -> int:
            return await (await current().node(self.name)).put(data, path, mode)

        return current().wait(send())

    def get(self, path: str) -> bytes:
        """Read a file from there; one of more than 256 MiB is an error."""

        async def collect() -> bytes:
            node = await current().node(self.name)
            return await fetch_bytes(node, "get", {"path": path}, CAPTURE_LIMIT_BYTES, what=path)

        return current().wait(collect())


@dataclass(frozen=True)
class MachineHandle:
    """A machine by its name."""

    name: str

    def view(self) -> dict[str, Any]:
        """Return the hypervisor view of this machine: a JSON document (docs/architecture.md, "Views")."""
        session = current()
        return session.wait(session.machines.guest(self.name).machine.view())

    def timeline(self) -> dict[str, Any]:
        """Return what its start consisted of: a JSON document (docs/architecture.md, "Views")."""
        return document([current().machines.guest(self.name).machine.timeline()], time.time())


host = NodeHandle(_HOST)


def node(name: str) -> NodeHandle:
    """Return a node: ``host``, or a machine's name. Raises NotFound if it is not there."""
    if name != _HOST:
        current().machines.guest(name)
    return NodeHandle(name)


def machine(name: str) -> MachineHandle:
    """Return a machine. Raises NotFound if it is not there."""
    current().machines.guest(name)
    return MachineHandle(name)


def run(
    command: str | Sequence[str], on: str = _HOST, container: str = "", timeout_s: float | None = None
) -> Completed:
    """Run a shell text or an argument list on a node (a machine is made if it does not exist), or in a container there.

    A status other than 0 is no error here. Raises TimeLimit, NodeLost, NotFound.
    """
    session = current()
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    streams = {Kind.STDOUT: Captured(CAPTURE_LIMIT_BYTES), Kind.STDERR: Captured(CAPTURE_LIMIT_BYTES)}

    async def start(run: Run) -> Request:
        place = await session.host() if on == _HOST else (await session.machines.ensure(on)).node
        if container:
            return await session.start_on(place, "container.exec", {"name": container, "options": {"argv": argv}}, run)
        return await session.start_on(place, "exec", {"argv": argv}, run)

    begin_s = time.monotonic()
    started = session.run(f"node {on}", start)
    try:
        answer = follow(started, {kind: stream.add for kind, stream in streams.items()}, timeout_s, lambda: None)
    except NodeLost as error:
        raise session.wait(session.machines.explain_loss(on, error)) from None
    seconds = time.monotonic() - begin_s
    return Completed(int(answer["status"]), streams[Kind.STDOUT].text(), streams[Kind.STDERR].text(), seconds)


def give_runc(on: str) -> None:
    """Put runc, another OCI runtime, into a machine (made if it does not exist); it is fetched once for this computer.

    Raises HostError where there is neither a network nor one that was fetched before.
    """
    from .runtimes import give_runc as give

    async def send() -> None:
        await give((await current().machines.ensure(on)).node)

    current().wait(send())


def __getattr__(name: str) -> str:
    """Return `default_node`, the node of a ``%%container`` that names none; asking for it may take a moment."""
    if name == "default_node":
        return default_node_name()
    raise AttributeError(name)
