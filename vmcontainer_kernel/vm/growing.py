"""A machine grows and shrinks while it runs: the effects of `resources.Growth`, by QMP.

The guest has its part in it: the kernel takes new memory into use by itself (``memhp_default_state=online``), new
processors are switched on by whoever calls, and the balloon takes as much as the guest's driver lets go of.
"""

from __future__ import annotations

import asyncio
import time

from ..errors import MachineError
from .machine import Machine
from .qemu import ROOM
from .resources import Growth, grown, processor

__all__ = ["grow", "hypervisor_sees", "make_room"]

_BALLOON_LIMIT_S = 10.0
_ROOM_LIMIT_S = 30.0
_CLOSE_BYTES = 1 << 20


async def make_room(machine: Machine) -> None:
    """Pull out the processors that a guest was to find when it booted (`qemu.room`); its kernel gives them up."""
    if machine.config.max_cpus > machine.config.cpus:
        for name in await _rooms(machine):
            await machine.execute("device_del", id=name)
        await machine.within(_emptied(machine), _ROOM_LIMIT_S, "give up a processor")


async def _emptied(machine: Machine) -> None:
    # Asked for: QEMU has no event for a processor that has gone, only for a part of it.
    while await _rooms(machine):
        await asyncio.sleep(0.02)


async def _rooms(machine: Machine) -> list[str]:
    found: list[dict[str, str]] = await machine.execute("qom-list", path="/machine/peripheral")
    return [one["name"] for one in found if one["name"].startswith(ROOM)]


async def grow(machine: Machine, growth: Growth) -> None:
    """Carry out a growth, step by step; what is done stays done if a later step fails, and `machine.config` tells it.

    Raises MachineError with QEMU's words.
    """
    if growth.module_bytes:
        await _plug_module(machine, growth.module_bytes)
    for _ in range(growth.cpus):
        await _plug_processor(machine)
    if growth.balloon_bytes is not None:
        await _inflate(machine, growth.balloon_bytes)


async def _plug_module(machine: Machine, size_bytes: int) -> None:
    name = f"module{machine.config.plugged_modules}"
    await machine.execute("object-add", qom_type="memory-backend-ram", id=f"{name}-ram", size=size_bytes)
    try:
        await machine.execute("device_add", driver="pc-dimm", id=name, memdev=f"{name}-ram")
    except MachineError:
        await machine.execute("object-del", id=f"{name}-ram")
        raise
    machine.config = grown(machine.config, module_bytes=size_bytes)


async def _plug_processor(machine: Machine) -> None:
    slot = processor(await machine.execute("query-hotpluggable-cpus"))
    if slot is None:
        raise machine.error("there is no free socket for one more processor")
    name = f"processor{machine.config.plugged_cpus}"
    await machine.execute("device_add", driver=slot["type"], id=name, **slot["props"])
    machine.config = grown(machine.config, slot=slot)


async def _inflate(machine: Machine, left_bytes: int) -> None:
    """Ask the guest to keep `left_bytes`, and wait a while until it does, or until it lets go of no more."""
    await machine.execute("balloon", value=left_bytes)
    deadline_s, before = time.monotonic() + _BALLOON_LIMIT_S, -1
    while time.monotonic() < deadline_s:
        actual = await _balloon(machine)
        if abs(actual - left_bytes) < _CLOSE_BYTES:
            return
        # A busy computer's guest may pause for a moment.
        deadline_s += 0.5 if actual != before else 0.0
        before = actual
        await asyncio.sleep(0.1)


async def _balloon(machine: Machine) -> int:
    return int((await machine.execute("query-balloon"))["actual"])


async def hypervisor_sees(machine: Machine) -> tuple[int, int]:
    """Return what a machine has now, as QEMU counts it: bytes of memory outside of the balloon, processors."""
    return await _balloon(machine), len(await machine.execute("query-cpus-fast"))
