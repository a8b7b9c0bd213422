"""A machine moved to another QEMU while it runs: its guest goes on, and does not notice but for a moment.

    source    runs ───────── sends all its memory ─────── stops ─ sends what was written to meanwhile ─ quit
    target         started, waits ─ receives ────────────────────────────────────────────────────── runs on
    stream    one socket; both QEMUs have its far end, only the one whose guest runs reads it

What is sent to the agent while neither runs would be lost, so `hold` is called before, and whoever sends waits.

QEMU's own way is to send what was written to again and again while the guest runs, until little is left. That must not
be under emulation: which pages are written to is noted by a slower way of writing, and the emulated TLB has to forget
its pages whenever the notes are read and cleared. QEMU 7.2 does not see to it (cpu_physical_memory_sync_dirty_bitmap in
include/exec/ram_addr.h), later ones, by their source, not for a page that is still to be sent. Some pages then arrive
as they were a moment before, and guests die of it. So here the notes are cleared once, before the guest runs on with an
empty TLB, and read when it stands still: memory is sent in one live round, and the rest after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import MachineError
from ..build import qemu_build
from ..config import Wiring
from ..machine import Launcher, Machine, start
from . import transfer
from .freezing import standing_still

__all__ = ["Migration", "migrate"]

LIMIT_S = 60.0
_DELIVERY_LIMIT_S = 0.1
# So much of the memory is left for the time in which the guest stands still that it surely stops before the end of the
# live round: zeros, which may come last, are sent faster than anybody can ask how far it is.
_LEFT = 0.3
_LIVE_BANDWIDTH = 300 << 20
_STEP_S = 0.002
_UNDER_WAY = ("setup", "active", "device", "cancelling")


@dataclass(frozen=True)
class Migration:
    """How a move went.

    `downtime_s`: for how long the guest stood still; `live_bytes`: sent while it ran; `sent_bytes`: all that was sent;
    `zero_bytes`: memory that was zero and took a few bytes only.
    """

    from_pid: int
    to_pid: int
    total_s: float
    downtime_s: float
    live_bytes: int
    sent_bytes: int
    memory_bytes: int
    zero_bytes: int


class _TooLateError(Exception):
    """The guest still ran when the live round was over."""


async def migrate(
    machine: Machine, launcher: Launcher, run_dir: Path, place: str, hold: Callable[[], int]
) -> tuple[Machine, Migration]:
    """Move a machine to a second QEMU; returns that, and how it went. If it fails the machine goes on where it was.

    `hold()` keeps back what is sent to the agent, and returns how many bytes the agent has yet to read.
    """
    running = await machine.status() == "running"
    move = partial(_attempt, machine, launcher, run_dir, place, hold, time.monotonic(), running=running)
    try:
        return await move(live=running)
    except _TooLateError:
        return await move(live=False)


async def _attempt(
    machine: Machine,
    launcher: Launcher,
    run_dir: Path,
    place: str,
    hold: Callable[[], int],
    began_s: float,
    *,
    live: bool,
    running: bool,
) -> tuple[Machine, Migration]:
    version = qemu_build(machine.config.platform).version
    wiring = Wiring(receive=True, qemu_version=version)
    target = await start(machine.config, wiring, launcher, run_dir, place=place, agent=machine.far)
    try:
        await transfer.check_alike(machine, target)
        live_bytes = await _live_round(machine, target) if live else 0
        stopped_s = time.monotonic()
        told = await _last_round(machine, target, hold, live=live, running=running)
    except BaseException:
        await _stay(machine, running=running)
        await target.stop()
        target.discard()
        raise
    ended_s = time.monotonic()
    target.take_stream(machine)
    await machine.stop()
    machine.discard()
    return target, _measured(machine, target, told, live_bytes, (ended_s - began_s, ended_s - stopped_s))


async def _live_round(machine: Machine, target: Machine) -> int:
    """Send memory while the guest runs, but not all of it; return how many bytes that were."""
    async with standing_still(machine):
        await transfer.offer(machine, target, bandwidth=_LIVE_BANDWIDTH)
        # The virtual CPUs empty their TLBs before they run on, after the notes were cleared.
        while (await _told(machine)).get("status") == "setup":
            await asyncio.sleep(_STEP_S)
    while True:
        told = await _told(machine)
        if told.get("status") != "active" or told["ram"]["remaining"] < _LEFT * told["ram"]["total"]:
            return int(told.get("ram", {}).get("transferred", 0))
        await asyncio.sleep(_STEP_S)


async def _last_round(
    machine: Machine, target: Machine, hold: Callable[[], int], *, live: bool, running: bool
) -> dict[str, Any]:
    """Stop the guest, send the rest, and let it run on at the target; returns QMP's MigrationInfo."""
    if running:
        await machine.pause()
    told = await _told(machine) if live else {}
    if live and (told.get("status") != "active" or told["ram"]["dirty-sync-count"] > 1):
        raise _TooLateError
    deadline_s = time.monotonic() + _DELIVERY_LIMIT_S
    # QEMU takes it from the socket into the guest's memory, which is sent afterwards. If the guest has no room for it,
    # it stays in the socket, and the other QEMU takes it.
    while hold() and time.monotonic() < deadline_s:
        await asyncio.sleep(0.001)
    if live:
        await transfer.unthrottle(machine)
    else:
        await transfer.offer(machine, target)
    told = await transfer.progress(machine, LIMIT_S)
    await transfer.progress(target, LIMIT_S)
    if running:
        await target.resume()
    return told


async def _told(machine: Machine) -> dict[str, Any]:
    told: dict[str, Any] = await machine.execute("query-migrate")
    return told


async def _stay(machine: Machine, *, running: bool) -> None:
    """Take a move back: the machine goes on where it was."""
    with contextlib.suppress(MachineError):
        await machine.execute("migrate_cancel")
        while (await _told(machine)).get("status") in _UNDER_WAY:
            await asyncio.sleep(_STEP_S)
        if running and await machine.status() != "running":
            await machine.resume()


def _measured(
    machine: Machine, target: Machine, told: dict[str, Any], live_bytes: int, times_s: tuple[float, float]
) -> Migration:
    ram = told["ram"]
    return Migration(
        from_pid=machine.pid,
        to_pid=target.pid,
        total_s=times_s[0],
        downtime_s=times_s[1],
        live_bytes=live_bytes,
        sent_bytes=ram["transferred"],
        memory_bytes=ram["total"],
        zero_bytes=ram["duplicate"] * ram["page-size"],
    )
