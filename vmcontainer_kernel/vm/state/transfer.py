"""One QEMU sends a machine, another receives it, over a pair of connected sockets: no path, no port, nobody else.

source   getfd, migrate fd:transfer ──────────socketpair──────────▶ getfd, migrate-incoming fd:transfer   target
         setup ─▶ active ─▶ completed                                           active ─▶ completed
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any, Final

from ...errors import UserError
from ..machine import Machine

__all__ = ["check_alike", "load", "offer", "progress", "save", "unthrottle"]

NAME: Final = "transfer"
# The default of 128 MiB/s is for networks.
_BANDWIDTH: Final = 1 << 40
_LONG_MS: Final = 60_000
_STEP_S: Final = 0.005
_ENDED: Final = ("completed", "failed", "cancelled")


async def offer(source: Machine, target: Machine, *, bandwidth: int = _BANDWIDTH) -> None:
    """Connect two QEMUs and begin to send, at most `bandwidth` bytes a second; `progress` tells how far it is."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        await target.monitor.give(theirs.fileno(), NAME)
        await source.monitor.give(ours.fileno(), NAME)
    # A clone was loaded with it on.
    await _set_capability(source, "x-ignore-shared", on=False)
    # 1 ms: it is not to find by itself that the rest would be sent in the time for which a guest may stand still.
    await source.execute("migrate-set-parameters", max_bandwidth=bandwidth, downtime_limit=1)
    await target.execute("migrate-incoming", uri=f"fd:{NAME}")
    await source.execute("migrate", uri=f"fd:{NAME}")


async def unthrottle(source: Machine) -> None:
    """Send the rest as fast as can be."""
    await source.execute("migrate-set-parameters", max_bandwidth=_BANDWIDTH, downtime_limit=_LONG_MS)


async def _set_capability(machine: Machine, name: str, *, on: bool) -> None:
    """Set a migration capability (QMP, ``MigrationCapability``)."""
    await machine.execute("migrate-set-capabilities", capabilities=[{"capability": name, "state": on}])


async def progress(machine: Machine, limit_s: float) -> dict[str, Any]:
    """Wait until a machine has sent or received all, and return QMP's MigrationInfo.

    Raises MachineError with QEMU's reason, or when `limit_s` passes.
    """
    deadline_s = time.monotonic() + limit_s
    while True:
        told: dict[str, Any] = await machine.execute("query-migrate")
        status = told.get("status", "none")
        if status == "completed":
            return told
        if status in _ENDED:
            raise machine.error(f"QEMU could not move machine {machine.config.name}: {told.get('error-desc', status)}")
        if time.monotonic() > deadline_s:
            raise machine.error(f"machine {machine.config.name} could not be moved in {limit_s:g} s")
        await asyncio.sleep(_STEP_S)


async def save(machine: Machine, descriptor: int, limit_s: float) -> None:
    """Write CPU and device state to an open file; memory is left out if it is a shared file's (``x-ignore-shared``)."""
    await _set_capability(machine, "x-ignore-shared", on=True)
    await machine.monitor.give(descriptor, "state")
    await machine.execute("migrate", uri="fd:state")
    await progress(machine, limit_s)


async def load(machine: Machine, descriptor: int, limit_s: float) -> None:
    """Read what `save` wrote; the machine then stands still."""
    await _set_capability(machine, "x-ignore-shared", on=True)
    await machine.monitor.give(descriptor, "state")
    await machine.execute("migrate-incoming", uri="fd:state")
    await progress(machine, limit_s)


async def check_alike(source: Machine, target: Machine) -> None:
    """Refuse to move a machine that has other devices than it was started with, or a disk that it can write to."""
    disks = [one for one in await source.execute("query-block") if "inserted" in one and not one["inserted"]["ro"]]
    if disks:
        raise UserError(
            f"machine {source.config.name} has disks that it can write to; only its memory would be saved or moved",
            where=", ".join(one["inserted"].get("node-name") or one.get("qdev", "?") for one in disks),
            hint=f"detach them first: %vm disk detach {source.config.name} DISK",
        )
    here, there = await _plugged(source), await _plugged(target)
    if here != there:
        raise UserError(
            f"machine {source.config.name} has other devices than it was started with",
            where=", ".join(sorted(here ^ there)),
            hint="unplug what was plugged in: a second QEMU would be started without it",
        )


async def _plugged(machine: Machine) -> set[str]:
    found: list[dict[str, str]] = await machine.execute("qom-list", path="/machine/peripheral")
    return {one["name"] for one in found if one["type"].startswith("child<")}
