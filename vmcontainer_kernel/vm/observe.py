"""The hypervisor view: what QEMU and the host's kernel can tell of a machine without asking its guest.

    QMP answers ─┐
    /proc text ──┼──document──▶ {"kind": "hypervisor", …}     pure functions; docs/architecture.md names the fields
    our facts ───┘

A virtual CPU is a thread of the host and guest memory is a mapping of a host process: both are read from proc(5), so
the numbers are there under every accelerator (``query-stats`` answers nothing under TCG).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import MachineError

__all__ = [
    "UNITS",
    "BalloonStatistics",
    "Facts",
    "ProcTexts",
    "ask",
    "devices",
    "document",
    "event_detail",
    "gone_document",
    "read_proc",
    "why_gone",
]

Execute = Callable[..., Awaitable[Any]]
Json = dict[str, Any]
_NONE: Final[Mapping[str, int]] = {}

UNITS: Final[dict[str, list[str]]] = {
    "uptime_s": ["s", "level"],
    "vcpus[].cpu_s": ["s", "counter"],
    "memory.given_bytes": ["bytes", "level"],
    "memory.balloon_bytes": ["bytes", "level"],
    "memory.guest_used_bytes": ["bytes", "level"],
    "memory.resident_bytes": ["bytes", "level"],
    "memory.private_bytes": ["bytes", "level"],
    "memory.shared_bytes": ["bytes", "level"],
    "blocks[].read_bytes": ["bytes", "counter"],
    "blocks[].written_bytes": ["bytes", "counter"],
    "blocks[].read_operations": ["operations", "counter"],
    "blocks[].write_operations": ["operations", "counter"],
}

DESCRIPTIONS: Final = {
    "virtio-balloon-pci": "gives guest memory back to the host, and counts it",
    "virtio-blk-pci": "the root disk, read-only",
    "virtio-net-pci": "a network card on QEMU's user-mode network",
    "virtio-rng-pci": "random numbers from the host",
    "virtio-serial-pci": "a bus of byte streams",
    "virtserialport": "the stream to the agent in the guest",
    "pvpanic-pci": "a bell that the guest's kernel rings when it panics",
}


@dataclass(frozen=True)
class Facts:
    """What we know of a machine ourselves."""

    machine: str
    uptime_s: float
    accelerator: str
    accelerator_reason: str
    qemu_version: str
    pid: int
    command: tuple[str, ...]
    given_bytes: int
    events: tuple[tuple[float, str, str], ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class ProcTexts:
    """Files of proc(5) about QEMU: ``smaps_rollup`` (None if we may not read it), and each thread's ``stat``."""

    smaps_rollup: str | None
    stats: Mapping[int, str]


async def ask(execute: Execute) -> Json:
    """Ask QEMU what `document` needs."""
    names = ("query-status", "query-cpus-fast", "query-balloon", "query-blockstats")
    return {name: await execute(name) for name in names}


async def devices(execute: Execute) -> list[Json]:
    """List the devices we gave the machine, with their PCI addresses."""
    given = await execute("qom-list", path="/machine/peripheral")
    return device_list(given, await execute("query-pci"))


def device_list(peripheral: Sequence[Json], pci: Sequence[Json]) -> list[Json]:
    """Join QEMU's object tree (names and types) with its PCI buses (addresses)."""
    on_pci = {device["qdev_id"]: device for device in _pci_devices(bus["devices"] for bus in pci)}
    found = []
    for entry in peripheral:
        kind = entry["type"].removeprefix("child<").removesuffix(">")
        if kind == "string" or kind == entry["type"]:
            continue
        device = on_pci.get(entry["name"])
        address = f"{device['bus']:02x}:{device['slot']:02x}.{device['function']}" if device else None
        bus = "pci" if device else "virtio-serial" if kind == "virtserialport" else "other"
        description = DESCRIPTIONS.get(kind) or (device or {}).get("class_info", {}).get("desc", "")
        found.append(
            {"id": entry["name"], "type": kind, "bus": bus, "address": address, "description": description},
        )
    return sorted(found, key=lambda one: (one["address"] is None, one["address"] or "", one["id"]))


def _pci_devices(lists: Iterable[Sequence[Json]]) -> Iterable[Json]:
    for devices_of_bus in lists:
        for device in devices_of_bus:
            if device.get("qdev_id"):
                yield device
            yield from _pci_devices([device.get("pci_bridge", {}).get("devices", [])])


def read_proc(proc: Path, pid: int) -> ProcTexts:
    """Read what proc(5) has about a process; what vanishes meanwhile is left out."""
    stats = {}
    for task in _folders(proc / str(pid) / "task"):
        text = _text(task / "stat")
        if text is not None:
            stats[int(task.name)] = text
    return ProcTexts(_text(proc / str(pid) / "smaps_rollup"), stats)


def _folders(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def document(facts: Facts, answers: Json, proc: ProcTexts, device_documents: list[Json], time_s: float) -> Json:
    """Make the hypervisor view."""
    memory = memory_document(facts, answers, proc.smaps_rollup)
    view = _frame(facts, str(answers["query-status"]["status"]), time_s)
    view |= {
        "vcpus": [vcpu_document(cpu, proc.stats) for cpu in answers["query-cpus-fast"]],
        "memory": memory,
        "devices": device_documents,
        "blocks": [block_document(block) for block in answers["query-blockstats"]],
    }
    missing = _missing(memory)
    return view | {"missing": missing} if missing else view


def gone_document(facts: Facts, time_s: float) -> Json:
    """Make the view of a machine whose QEMU has ended."""
    nothing = dict.fromkeys(f"{name}_bytes" for name in ("balloon", "guest_used", "resident", "private", "shared"))
    view = _frame(facts, "gone", time_s)
    view |= {"vcpus": [], "memory": {"given_bytes": facts.given_bytes, **nothing}, "devices": [], "blocks": []}
    return view | {"missing": {f"memory.{name}": f"QEMU has ended: {facts.reason}" for name in nothing}}


def _frame(facts: Facts, status: str, time_s: float) -> Json:
    return {
        "kind": "hypervisor",
        "version": 1,
        "time_s": time_s,
        "machine": facts.machine,
        "status": status,
        "uptime_s": round(facts.uptime_s, 3),
        "accelerator": {"name": facts.accelerator, "reason": facts.accelerator_reason},
        "qemu": {"version": facts.qemu_version, "pid": facts.pid, "command": list(facts.command)},
        "events": [{"time_s": when, "name": name, "detail": detail} for when, name, detail in facts.events],
        "units": UNITS,
    }


def vcpu_document(cpu: Json, stats: Mapping[int, str]) -> Json:
    """Describe one virtual CPU by its host thread: CPU time and state of ``/proc/PID/task/TID/stat``."""
    thread = cpu["thread-id"]
    cpu_s, state = parse_stat(stats[thread]) if thread in stats else (None, None)
    return {"index": cpu["cpu-index"], "thread_id": thread, "cpu_s": cpu_s, "state": state}


def parse_stat(text: str, ticks_per_s: int = os.sysconf("SC_CLK_TCK")) -> tuple[float, str]:
    """Return (CPU seconds, state) of a ``stat`` line; the name in parentheses may hold anything (proc(5))."""
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / ticks_per_s, fields[0]


def memory_document(facts: Facts, answers: Json, smaps_rollup: str | None) -> Json:
    """Describe the guest's memory from outside: given, ballooned, used by the guest, and present on the host."""
    kib = parse_smaps_rollup(smaps_rollup) if smaps_rollup else {}
    return {
        "given_bytes": facts.given_bytes,
        "balloon_bytes": answers["query-balloon"]["actual"],
        "guest_used_bytes": guest_used_bytes(answers.get("guest-stats") or {}),
        "resident_bytes": _sum_bytes(kib, "Rss"),
        "private_bytes": _sum_bytes(kib, "Private_Clean", "Private_Dirty"),
        "shared_bytes": _sum_bytes(kib, "Shared_Clean", "Shared_Dirty"),
    }


def parse_smaps_rollup(text: str) -> dict[str, int]:
    """Return the KiB of each line of ``/proc/PID/smaps_rollup``."""
    rows = (line.split() for line in text.splitlines()[1:])
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3}


def _sum_bytes(kib: Mapping[str, int], *names: str) -> int | None:
    return sum(kib.get(name, 0) for name in names) * 1024 if kib else None


def guest_used_bytes(statistics: Json) -> int | None:
    """Return total minus available of the balloon's statistics; a driver that does not know a value sends -1."""
    total, available = (statistics.get(f"stat-{name}-memory", -1) for name in ("total", "available"))
    # -1 as an unsigned 64-bit number.
    known = all(0 <= value < 1 << 63 for value in (total, available))
    return total - available if known else None


def block_document(block: Json) -> Json:
    """Describe one disk's traffic."""
    stats = block["stats"]
    return {
        "device": (block.get("qdev") or block.get("node-name") or "").split("/")[-2:][0] or block.get("device", ""),
        "read_bytes": stats["rd_bytes"],
        "written_bytes": stats["wr_bytes"],
        "read_operations": stats["rd_operations"],
        "write_operations": stats["wr_operations"],
    }


def _missing(memory: Json) -> dict[str, str]:
    reasons = {
        "guest_used_bytes": "the guest's balloon driver has not answered yet",
        "resident_bytes": "/proc/PID/smaps_rollup of QEMU cannot be read",
        "private_bytes": "/proc/PID/smaps_rollup of QEMU cannot be read",
        "shared_bytes": "/proc/PID/smaps_rollup of QEMU cannot be read",
    }
    return {f"memory.{name}": reason for name, reason in reasons.items() if memory[name] is None}


class BalloonStatistics:
    """The guest's memory statistics, asked for only while somebody looks.

    QEMU's balloon device polls its guest at an interval, which would keep an idle guest awake; so a view switches
    polling on (`read`), and it is switched off (`rest`) when no view was asked for in a while.
    """

    PATH: Final = "/machine/peripheral/balloon"
    INTERVAL_S: Final = 2

    def __init__(self) -> None:
        self.polling = False

    async def read(self, execute: Execute) -> Json:
        """Return the statistics that are there and see to it that there will be newer ones."""
        try:
            if not self.polling:
                await self._poll(execute, self.INTERVAL_S)
            answer = await execute("qom-get", path=self.PATH, property="guest-stats")
        except MachineError:
            return {}
        statistics: Json = answer["stats"] if answer["last-update"] else {}
        return statistics

    async def rest(self, execute: Execute) -> None:
        """Stop polling: nobody looks."""
        with contextlib.suppress(MachineError):
            await self._poll(execute, 0)

    async def _poll(self, execute: Execute, interval_s: int) -> None:
        self.polling = interval_s > 0
        await execute("qom-set", path=self.PATH, property="guest-stats-polling-interval", value=interval_s)


def event_detail(data: Mapping[str, Any]) -> str:
    """Write an event's data as ``key=value`` words."""
    return " ".join(f"{key}={value}" for key, value in data.items() if not isinstance(value, (dict, list)))


def why_gone(
    events: Iterable[tuple[float, str, str]], status: int, struck: Mapping[str, int] = _NONE, *, panicked: bool = False
) -> str:
    """Tell why QEMU ended, from its last events, its exit status (-N: signal N), how often limits of its group struck
    and what its console says.
    """
    if status == -signal.SIGKILL and struck.get("oom_kills"):
        return "QEMU was killed by the host's kernel: it reached the memory limit of its control group (OOM)"
    seen = [(name, detail) for _, name, detail in events]
    if panicked or any(name == "GUEST_PANICKED" for name, _ in seen):
        return "the guest's kernel panicked"
    shutdown = next((detail for name, detail in reversed(seen) if name == "SHUTDOWN"), "")
    reasons = {
        "guest-shutdown": "the guest powered off",
        "guest-reset": "the guest rebooted",
        "guest-panic": "the guest's kernel panicked",
        "host-qmp-quit": "it was stopped",
        "host-signal": "QEMU was told to end by a signal",
    }
    for reason, words in reasons.items():
        if f"reason={reason}" in shutdown:
            return words
    if status == -signal.SIGKILL:
        return "QEMU was ended by signal 9 (SIGKILL): somebody sent it, or the host's kernel had no memory left"
    return f"QEMU was ended by signal {-status}" if status < 0 else f"QEMU ended with status {status}"
