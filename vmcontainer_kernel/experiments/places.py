"""The four places a cell can run in, made anew for one run and gone after it.

process               a child of this computer's agent
container             beside this computer's kernel
machine               a clone of the template, with a kernel of its own
machine-container     a container in such a machine
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..container.ladder import GUEST
from ..errors import HostError, LabError
from ..giving import give_image
from ..machines import Report, quiet
from ..node import Node
from ..probe import footing
from ..session import Session
from .commands import Command

if TYPE_CHECKING:
    from ..guests import Guest

__all__ = ["PLACES", "Kind", "Place", "throw_away"]


@dataclass(frozen=True)
class Kind:
    """One of the four: whose kernel, and whether a container is made there."""

    name: str
    machine: bool = False
    container: bool = False


PLACES: Final = (
    Kind("process"),
    Kind("container", container=True),
    Kind("machine", machine=True),
    Kind("machine-container", machine=True, container=True),
)


class Place:
    """One of them while it is there, on the session's event loop: ``async with Place(…) as place``.

    `begun_s`: when its making began. `host_pid`: the process that it is to this computer, a machine's QEMU; 0 for what
    has no process before a command runs in it.
    """

    def __init__(self, session: Session, kind: Kind, image: str = "", report: Report = quiet) -> None:
        self.kind = kind
        self.begun_s = time.monotonic()
        self.start = ""
        self._session, self._image, self._report = session, image, report
        self._name = f"compare-{secrets.token_hex(3)}"
        self._guest: Guest | None = None
        self._node: Node | None = None

    async def __aenter__(self) -> Place:
        try:
            await self._make()
        except BaseException:
            await self._end()
            raise
        return self

    async def _make(self) -> None:
        if self.kind.machine:
            self._guest = await self._session.machines.ensure(self._name, report=self._report)
            self._node = self._guest.node
            self.start = str(self._guest.machine.timeline().get("way") or "")
        else:
            _check_containers(self.kind)
            self._node = await self._session.host()
        if self.kind.container and self._image:
            await give_image(self._node, self._image, self._report)

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _end(self) -> None:
        await throw_away(self._session, self._name)

    @property
    def node(self) -> Node:
        """Where its commands run."""
        assert self._node is not None
        return self._node

    @property
    def host_pid(self) -> int:
        """The machine's QEMU; 0 where there is none."""
        return self._guest.machine.pid if self._guest else 0

    def run(
        self,
        argv: Sequence[str],
        *,
        begun_s: float | None = None,
        name: str = "",
        marker: str = "",
        stdin: bool = False,
    ) -> Command:
        """Start a command; one in a container gets a new one, which ends with it, under a `name` if it has one."""
        given: dict[str, Any] = {"argv": list(argv), "stdin": stdin}
        if self.kind.container:
            options = {"argv": list(argv), **({"image": self._image} if self._image else {})}
            given = {"name": name, "remove": True, "options": options, "stdin": stdin}
        verb = "container.run" if self.kind.container else "exec"
        return Command(self.node, verb, given, begun_s=begun_s, marker=marker)


def _check_containers(kind: Kind) -> None:
    where = footing()
    if kind.container and where.rung == GUEST.name:
        reason = where.why[-1][1] if where.why else "this kernel allows none"
        raise HostError(f"no containers beside this computer's kernel: {reason}", hint="%lab doctor says more")


async def throw_away(session: Session, name: str) -> None:
    """End a machine that nobody will use again, if it is there; it holds nothing that would be missed."""
    guest = session.machines.guests.get(name)
    if guest is None:
        return
    # Who waits here may be cancelled, and the machine must end all the same.
    ending = asyncio.ensure_future(session.machines.drop(guest))
    with contextlib.suppress(LabError):
        await asyncio.shield(ending)
