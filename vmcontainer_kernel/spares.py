"""A machine made ahead: a clone of the template that was last used, which has already run a command.

    %%vm a ── clone ──▶ used ── a second later, at a low weight ──▶ spare: cloned, renewed, has run a command, waits
    %%vm b ── take ───▶ it is renewed once more, under its new name, and runs the cell: tens of milliseconds
                        └── nobody took it for ten minutes, or another shape is wanted ──▶ ended

A clone's first cell is slow because each piece of code must be translated before it runs for the first time
(docs/performance.md); a spare has that behind it. It is in no list and no view: its name begins with a dot, which no
user's can, until it gets its own. It ends with the notebook like all machines.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from .errors import LabError
from .memory import available_cpus, available_memory

if TYPE_CHECKING:
    from .guests import Guest
    from .vm.config import MachineConfig

__all__ = ["SETTING", "Spares", "spares_for"]

SETTING: Final = "VMCONTAINER_SPARES"
"""Environment variable: ``0`` makes no machine ahead, ``1`` always one; without it memory and processors decide."""
QUIET_S: Final = 1.0  # after a machine was used: its cell, and the one after it, come first
KEPT_S: Final = 600.0
LOW_SHARES: Final = 64  # while it is made, against 1024
_LEAVE_BYTES: Final = 2 << 30

Make = Callable[["MachineConfig"], Awaitable["Guest"]]
End = Callable[["Guest"], Awaitable[None]]


def spares_for(available_bytes: int, cpus: float, memory_bytes: int, setting: str = "") -> int:
    """Return how many machines of `memory_bytes` to make ahead: one where there is plenty, else none.

    Plenty is a second processor, and memory for the spare, another machine of its size and 2 GiB besides: not on
    mybinder.org, which gives 2 GiB and one processor, and ends what uses much of it.
    """
    if setting in ("0", "1"):
        return int(setting)
    return int(cpus >= 2 and available_bytes >= _LEAVE_BYTES + 2 * memory_bytes)


class Spares:
    """At most one machine made ahead; lives on the session's event loop.

    `make(config)` wakes a clone, renews it and lets it run a command; `end(guest)` ends a machine.
    """

    def __init__(self, make: Make, end: End, *, quiet_s: float = QUIET_S, kept_s: float = KEPT_S) -> None:
        self._make, self._end = make, end
        self.quiet_s, self.kept_s = quiet_s, kept_s
        self._numbers = itertools.count(1)
        self._spare: Guest | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def spare(self) -> Guest | None:
        """The machine that waits, if one does."""
        alive = self._spare and not (self._spare.machine.gone.is_set() or self._spare.node.lost.is_set())
        return self._spare if alive else None

    def take(self, config: MachineConfig) -> Guest | None:
        """Return the spare, which is then the caller's, if it is such a machine."""
        spare = self.spare
        if spare is None or _shape(spare.machine.config) != _shape(config):
            return None
        self._spare = None
        return spare

    def want(self, config: MachineConfig) -> None:
        """Have such a machine ready soon: one like it has just been used."""
        if self._task:
            self._task.cancel()
        self._task = asyncio.create_task(self._provide(config))

    async def _provide(self, config: MachineConfig) -> None:
        """Replace the spare if it is of another shape, and end it when nobody wants it."""
        await asyncio.sleep(self.quiet_s)
        spare = self.spare
        if spare is None or _shape(spare.machine.config) != _shape(config):
            await self.drop()
            if not spares_for(
                available_memory()[0], available_cpus(), config.memory_bytes, os.environ.get(SETTING, "")
            ):
                return
            # Whoever asks for a machine will be told why there can be none.
            with contextlib.suppress(LabError, OSError):
                self._spare = await self._make(config.named(f".spare{next(self._numbers)}", config.mac))
        await asyncio.sleep(self.kept_s)
        await self.drop()

    async def drop(self) -> None:
        """End the spare, if there is one."""
        spare, self._spare = self._spare, None
        if spare:
            with contextlib.suppress(LabError):
                await self._end(spare)

    def close(self) -> None:
        """Make none any more; the one there is ends with the supervisor."""
        if self._task:
            self._task.cancel()
        if self._spare:
            self._spare.node.close()
            self._spare = None


def _shape(config: MachineConfig) -> MachineConfig:
    return replace(config, name="", mac="")
