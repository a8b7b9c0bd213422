"""Published ports of containers in machines: this computer's port, through QEMU, to a port of the guest, and on.

    127.0.0.1:8080 ── QEMU (`Machine.publish`) ──▶ guest 0.0.0.0:20000 ── the node's helper ──▶ container :80

The guest's port is ours to choose, so that whether this computer's is free is known before anything is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .container.publish import read_publish
from .errors import LabError, UserError

if TYPE_CHECKING:
    from .vm.machine import Machine

__all__ = ["Delivery", "Ports", "deliver"]

Keep = Callable[[str], None]
_FIRST_PORT = 20_000  # below the ports that Linux gives to whoever asks for any: ip(7), ip_local_port_range


class Delivery(NamedTuple):
    """One port of this computer, and the guest's that it leads to."""

    protocol: str
    host_ip: str
    host_port: int
    guest_port: int


async def deliver(machine: Machine, open_already: list[Delivery], wanted: Sequence[str]) -> None:
    """Publish ports of a machine itself, in the words of ``docker run --publish``; those `open_already` grow by them.

    Raises SpecError for what makes no sense, UserError for a port that is taken and for a machine without a network.
    """
    if wanted and not machine.config.network:
        raise UserError(f"machine {machine.config.name} has no network", hint="make one without --network none")
    for one in [read_publish(text, "--publish") for text in wanted]:
        there = [(made.protocol, made.host_ip, made.guest_port, made.host_port) for made in open_already]
        same = (one.protocol, one.host_ip, one.container_port)
        if any(same == made[:3] and one.host_port in (0, made[3]) for made in there):
            continue
        port = await machine.publish(one.protocol, one.host_ip, one.host_port, one.container_port)
        open_already.append(Delivery(one.protocol, one.host_ip, port, one.container_port))


class Ports:
    """What is published of containers in machines; `machine_of`: a node's machine, None for the host."""

    def __init__(self, machine_of: Callable[[str], Machine | None]) -> None:
        self._machine_of = machine_of
        self._free = itertools.count(_FIRST_PORT)
        self._ending: set[asyncio.Task[None]] = set()
        self._open: dict[tuple[str, str], list[Delivery]] = {}

    @contextlib.asynccontextmanager
    async def published(self, node: str, options: dict[str, Any]) -> AsyncIterator[tuple[dict[str, Any], Keep]]:
        """Publish what a container's `options` ask for; give the options for its node, and what is to be called with
        its name once it is made. Raises UserError for a port that is taken.
        """
        machine, made, words = self._machine_of(node), list[Delivery](), list[str]()
        wanted = options.get("publish") or [] if machine else []

        def keep(container: str) -> None:
            if made:
                self._open[node, container] = made

        try:
            for one in map(read_publish, wanted):
                assert machine
                inner = next(self._free)
                port = await machine.publish(one.protocol, one.host_ip, one.host_port, inner)
                made.append(Delivery(one.protocol, one.host_ip, port, inner))
                words.append(f"{inner}:{one.container_port}/{one.protocol}")
            yield {**options, "publish": words} if made else options, keep
        except BaseException:
            await self._withdraw(node, made)
            raise

    async def release(self, node: str, container: str) -> None:
        """End what is published of a container."""
        await self._withdraw(node, self._open.pop((node, container), []))

    def release_after(self, answer: asyncio.Future[Any], node: str, container: str, *, stays: bool) -> None:
        """Do so when `answer` is there; of a container that `stays`, only if that is an error."""

        def end(_: asyncio.Future[Any]) -> None:
            if not stays or answer.cancelled() or answer.exception():
                task = asyncio.ensure_future(self.release(node, container))
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

        if (node, container) in self._open:
            answer.add_done_callback(end)

    async def reopen(self, node: str, own: Sequence[Delivery]) -> None:
        """Publish again what was, after a machine got another QEMU; `own` are the machine's own ports."""
        machine = self._machine_of(node)
        of_containers = [one for (where, _), made in self._open.items() if where == node for one in made]
        for one in [*own, *of_containers] if machine else ():
            assert machine
            await machine.publish(one.protocol, one.host_ip, one.host_port, one.guest_port)

    async def _withdraw(self, node: str, made: Sequence[Delivery]) -> None:
        machine = self._machine_of(node)
        for one in made:
            with contextlib.suppress(LabError):  # those of a machine that is gone have ended with it
                if machine:
                    await machine.unpublish(one.protocol, one.host_ip, one.host_port)

    def shown(self, node: str, container: str, published: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return a container's published ports with this computer's in the place of the guest's."""
        mine = {one.guest_port: one for one in self._open.get((node, container), [])}
        return [
            {**one, "host_ip": found.host_ip, "host_port": found.host_port}
            if (found := mine.get(one["host_port"]))
            else one
            for one in published
        ]
