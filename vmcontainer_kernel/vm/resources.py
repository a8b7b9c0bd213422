"""What a machine has of its host: bounds of its QEMU, and how it grows and shrinks while it runs. Nothing is done here.

    MachineConfig ──limits_of──▶ Limits ──cage──▶ agent/cage.py: a control group
    MachineConfig, what is wished for ──plan──▶ Growth: memory modules, processors, a target for the balloon

A guest's memory grows by modules (pc-dimm), in the blocks in which Linux takes memory in, and shrinks by the balloon,
which is a request: a guest may keep its memory, and take it back. So the control group's bound is all it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ..errors import UserError
from .config import MEMORY_MIN_BYTES, MIB, MachineConfig, Wiring

__all__ = [
    "BLOCK_BYTES",
    "OVERHEAD_BYTES",
    "PERIOD_US",
    "Growth",
    "Limits",
    "Room",
    "cage",
    "fitting",
    "grown",
    "limits_of",
    "plan",
    "processor",
]

OVERHEAD_BYTES: Final = 256 * MIB
"""What QEMU may need besides the guest's memory: 96 MiB of translated code, its own heap, copies in flight."""
BLOCK_BYTES: Final = 128 * MIB
"""Linux takes memory in by blocks of this size on x86-64 (Documentation/admin-guide/mm/memory-hotplug.rst)."""
PERIOD_US: Final = 100_000
_THREADS: Final = 128
"""QEMU's pool for disk requests has up to 64 threads (util/thread-pool.c); the rest are few."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a QEMU process; None is no limit.

    `cpu_shares`: weight against others (1024 is usual); `cpu_quota_us`: CPU time in each 100 ms.
    """

    memory_bytes: int
    threads: int
    cpu_shares: int | None = None
    cpu_quota_us: int | None = None

    def document(self) -> dict[str, int]:
        """Return the words of `agent.cage.read_resources`."""
        document = {"memory_bytes": self.memory_bytes, "pids": self.threads}
        if self.cpu_shares is not None:
            document["cpu_shares"] = self.cpu_shares
        if self.cpu_quota_us is not None:
            document |= {"cpu_quota_us": self.cpu_quota_us, "cpu_period_us": PERIOD_US}
        return document


def limits_of(config: MachineConfig) -> Limits:
    """Return what bounds a machine's QEMU."""
    threads = _THREADS + max(config.cpus, config.max_cpus)
    return Limits(config.total_bytes + OVERHEAD_BYTES, threads, config.cpu_shares, config.cpu_quota_us)


def cage(config: MachineConfig, wiring: Wiring, groups: Sequence[int], place: str) -> dict[str, Any]:
    """Return how a machine's QEMU is to be held (`agent.cage.CageVerbs.spawn`).

    `place` is the name of this QEMU: for a moment, a machine that moves to another has two.
    """
    return {
        "name": config.name,
        "place": place,
        "resources": limits_of(config).document(),
        "groups": list(groups),
        "devices": ["/dev/kvm"] if config.accelerator.name == "kvm" else [],
        "network": config.network,
        "private": wiring.ram is not None and not wiring.save,
    }


# -- growing and shrinking


@dataclass(frozen=True)
class Growth:
    """What is to be done to a running machine: a memory module of so many bytes (0: none), so many more processors,
    and what the balloon is to leave to the guest (None: as it is).
    """

    module_bytes: int = 0
    cpus: int = 0
    balloon_bytes: int | None = None


def plan(config: MachineConfig, memory_bytes: int | None, cpus: int | None) -> Growth:
    """Return what leads to so much memory and so many processors; raises UserError for what cannot be."""
    growth = Growth()
    if config.hosts_others and (memory_bytes, cpus) != (None, None):
        raise UserError(
            f"machine {config.name} keeps what it was started with: its guest is a hypervisor, which shares it out",
            hint="give its domains more or less there (xl mem-set), or make a larger machine",
            where="--memory" if memory_bytes else "--cpus",
        )
    if cpus is not None:
        growth = replace(growth, cpus=_more_cpus(config, cpus))
    if memory_bytes is None:
        return growth
    if memory_bytes < MEMORY_MIN_BYTES:
        raise UserError(
            f"{memory_bytes // MIB} MiB are too few for a guest",
            hint=f"leave it {MEMORY_MIN_BYTES // MIB} MiB or more",
            where="--memory",
        )
    lacking = memory_bytes - config.total_bytes
    if lacking > 0:
        growth = replace(growth, module_bytes=-(-lacking // BLOCK_BYTES) * BLOCK_BYTES)
        _check_slots(config, growth.module_bytes)
    return replace(growth, balloon_bytes=memory_bytes)


def _more_cpus(config: MachineConfig, cpus: int) -> int:
    if cpus < config.total_cpus:
        raise UserError(
            f"machine {config.name} has {config.total_cpus} CPUs, and none can be taken away while it runs",
            hint="give it less time instead: --cpu-quota; or make a new machine",
            where="--cpus",
        )
    if cpus > max(config.max_cpus, config.total_cpus):
        raise UserError(
            f"machine {config.name} was made for at most {max(config.max_cpus, config.cpus)} CPUs",
            hint=f"make one that can grow: %%vm NAME --max-cpus {cpus}",
            where="--cpus",
        )
    return cpus - config.total_cpus


def _check_slots(config: MachineConfig, module_bytes: int) -> None:
    if not config.growable:
        what = "its processor's board takes no memory modules" if config.agent else "its guest has no agent of ours"
        raise UserError(
            f"the memory of machine {config.name} cannot grow: {what}", hint="make a larger one", where="--memory"
        )
    if config.plugged_modules >= config.SLOTS or config.plugged_bytes + module_bytes > config.ROOM_BYTES:
        raise UserError(
            f"machine {config.name} has no room for {module_bytes // MIB} MiB more: it takes {config.SLOTS} modules "
            f"and {config.ROOM_BYTES // MIB} MiB beyond what it was made with",
            hint="make a larger one",
            where="--memory",
        )


def grown(config: MachineConfig, *, module_bytes: int = 0, slot: Mapping[str, Any] | None = None) -> MachineConfig:
    """Return the description of a machine that got a module, or the processor of a slot: a later start of it has
    them from the beginning, under the same names.
    """
    if module_bytes:
        name = f"module{config.plugged_modules}"
        memory = f"memory-backend-ram,id={name}-ram,size={module_bytes}"
        words = ("-object", memory, "-device", f"pc-dimm,id={name},memdev={name}-ram")
        return replace(config, plugged=config.plugged + words, plugged_bytes=config.plugged_bytes + module_bytes)
    assert slot
    place = "".join(f",{key}={value}" for key, value in slot["props"].items())
    device = f"{slot['type']},id=processor{config.plugged_cpus}{place}"
    return replace(config, plugged=(*config.plugged, "-device", device), plugged_cpus=config.plugged_cpus + 1)


def processor(slots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the first free slot of ``query-hotpluggable-cpus``, in the order of sockets and cores."""
    free = [one for one in slots if "qom-path" not in one]
    return min(free, key=lambda one: sorted(one["props"].items()), default=None)


# -- how many fit


@dataclass(frozen=True)
class Room:
    """What is left here for machines: memory in bytes, and who says so; threads."""

    memory_bytes: int
    source: str
    threads: int


def fitting(room: Room, each_bytes: int, each_threads: int) -> tuple[int, str]:
    """Return how many machines of a kind fit, and what bounds their number."""
    by_memory = max(0, room.memory_bytes // each_bytes)
    if room.threads // each_threads < by_memory:
        return max(0, room.threads // each_threads), f"{room.threads} threads are left"
    return (
        by_memory,
        f"{max(0, room.memory_bytes // MIB)} MiB are free ({room.source}), a machine needs {each_bytes // MIB}",
    )
