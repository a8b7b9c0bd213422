"""The hypervisor view as a document: pure functions of QEMU's answers, texts of proc(5) and our own facts.

What cannot be told is null, or an empty list, and `missing` says why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from . import texts
from .asking import Answers, Json
from .balloon import STATISTICS
from .devices import device_list
from .proc import parse_smaps_rollup, parse_stat, sum_bytes

__all__ = ["EVENTS_SHOWN", "UNITS", "Facts", "ProcTexts", "document", "gone_document", "queue_name"]

EVENTS_SHOWN: Final = 24

UNITS: Final[dict[str, list[str]]] = {
    "uptime_s": ["s", "level"],
    "vcpus[].cpu_s": ["s", "counter"],
    "memory.given_bytes": ["bytes", "level"],
    "memory.balloon_bytes": ["bytes", "level"],
    "memory.guest_used_bytes": ["bytes", "level"],
    "memory.resident_bytes": ["bytes", "level"],
    "memory.proportional_bytes": ["bytes", "level"],
    "memory.private_bytes": ["bytes", "level"],
    "memory.shared_bytes": ["bytes", "level"],
    "blocks[].read_bytes": ["bytes", "counter"],
    "blocks[].written_bytes": ["bytes", "counter"],
    "blocks[].read_operations": ["operations", "counter"],
    "blocks[].write_operations": ["operations", "counter"],
    # The device's index in the ring, which has 16 bits (Virtual I/O Device specification, "The Virtqueue Used Ring").
    "networks[].received_buffers": ["buffers modulo 65536", "counter"],
    "networks[].sent_buffers": ["buffers modulo 65536", "counter"],
    "translation.code_bytes": ["bytes", "level"],
    "translation.code_limit_bytes": ["bytes", "level"],
    "translation.blocks": ["blocks", "level"],
    "translation.flushes": ["flushes", "counter"],
    "translation.invalidations": ["invalidations", "counter"],
    "exits[].count": ["exits", "counter"],
    "migration.total_bytes": ["bytes", "level"],
    "migration.transferred_bytes": ["bytes", "level"],
    "migration.remaining_bytes": ["bytes", "level"],
    "migration.downtime_ms": ["ms", "level"],
}
_LISTS: Final = ("vcpus", "devices", "blocks", "networks")
_SIZES: Final = ("balloon", "guest_used", "resident", "proportional", "private", "shared")


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
    """Files of proc(5) about QEMU: ``smaps_rollup`` (None if we may not read it), and the ``stat`` of its vCPUs."""

    smaps_rollup: str | None = None
    stats: Mapping[int, str] = field(default_factory=dict)


def queue_name(device: str, queue: int) -> str:
    """Return the name under which a queue of a device is asked for."""
    return f"queue {queue} of {device}"


def document(facts: Facts, answers: Answers, proc: ProcTexts, time_s: float) -> Json:
    """Make the hypervisor view of a machine that runs."""
    view = _frame(facts, str(answers.values["query-status"]["status"]), time_s)
    missing: dict[str, str] = {}
    memory, missing_memory = memory_document(facts, answers, proc.smaps_rollup)
    found: dict[str, tuple[Any, str]] = {
        "vcpus": answers.read(lambda cpus: [vcpu_document(cpu, proc.stats) for cpu in cpus], "query-cpus-fast"),
        "devices": answers.read_once(device_list, "qom-list", "query-pci"),
        "blocks": answers.read_once(block_documents, "query-blockstats"),
        "networks": answers.read(lambda cards: network_documents(cards, answers), "query-rx-filter"),
        "translation": answers.read_once(texts.jit, "x-query-jit"),
        "exits": answers.read_once(exit_documents, "query-stats"),
        "migration": answers.read_once(migration_document, "query-migrate"),
    }
    for name, (value, reason) in found.items():
        view[name] = value
        if reason:
            view[name] = [] if name in _LISTS else None
            missing[name] = reason
    view["memory"] = memory
    missing |= missing_memory
    return view | {"missing": missing} if missing else view


def gone_document(facts: Facts, time_s: float) -> Json:
    """Make the view of a machine whose QEMU has ended."""
    nothing = dict.fromkeys(f"{name}_bytes" for name in _SIZES)
    view = _frame(facts, "gone", time_s)
    view |= {"vcpus": [], "memory": {"given_bytes": facts.given_bytes, **nothing}, "devices": [], "blocks": []}
    view |= {"networks": [], "translation": None, "exits": None, "migration": None}
    places = [*(f"memory.{name}" for name in nothing), "translation", "exits", "migration"]
    return view | {"missing": {place: f"QEMU has ended: {facts.reason}" for place in places}}


def _frame(facts: Facts, status: str, time_s: float) -> Json:
    events = facts.events[-EVENTS_SHOWN:]
    return {
        "kind": "hypervisor",
        "version": 1,
        "time_s": time_s,
        "machine": facts.machine,
        "status": status,
        "uptime_s": round(facts.uptime_s, 3),
        "accelerator": {"name": facts.accelerator, "reason": facts.accelerator_reason},
        "qemu": {"version": facts.qemu_version, "pid": facts.pid, "command": list(facts.command)},
        "events": [{"time_s": when, "name": name, "detail": detail} for when, name, detail in events],
        "units": UNITS,
    }


def vcpu_document(cpu: Json, stats: Mapping[int, str]) -> Json:
    """Describe one virtual CPU by its host thread: CPU time and state of ``/proc/PID/task/TID/stat``."""
    thread = cpu["thread-id"]
    cpu_s, state = parse_stat(stats[thread]) if thread in stats else (None, None)
    return {"index": cpu["cpu-index"], "thread_id": thread, "cpu_s": cpu_s, "state": state}


def memory_document(facts: Facts, answers: Answers, smaps_rollup: str | None) -> tuple[Json, dict[str, str]]:
    """Describe the guest's memory from outside: given, ballooned, used by the guest, and present on the host."""
    kib = parse_smaps_rollup(smaps_rollup) if smaps_rollup else {}
    balloon, no_balloon = answers.read(lambda answer: int(answer["actual"]), "query-balloon")
    used, no_used = answers.read(guest_used_bytes, STATISTICS)
    unread = "" if kib else "/proc/PID/smaps_rollup of QEMU cannot be read"
    sizes = {
        "balloon": (balloon, no_balloon),
        "guest_used": (used, no_used),
        "resident": (sum_bytes(kib, "Rss"), unread),
        "proportional": (sum_bytes(kib, "Pss"), unread),
        "private": (sum_bytes(kib, "Private_Clean", "Private_Dirty"), unread),
        "shared": (sum_bytes(kib, "Shared_Clean", "Shared_Dirty"), unread),
    }
    if used is None and not no_used:
        sizes["guest_used"] = (None, "the guest's balloon driver has not answered yet")
    found = {f"{name}_bytes": value for name, (value, _) in sizes.items()}
    missing = {f"memory.{name}_bytes": reason for name, (value, reason) in sizes.items() if value is None}
    return {"given_bytes": facts.given_bytes, **found}, missing


def guest_used_bytes(answer: Json) -> int | None:
    """Return total minus available of the balloon's statistics; a driver that does not know a value sends -1."""
    if not answer["last-update"]:
        return None
    total, available = (answer["stats"].get(f"stat-{name}-memory", -1) for name in ("total", "available"))
    # -1 as an unsigned 64-bit number.
    known = all(0 <= value < 1 << 63 for value in (total, available))
    return int(total - available) if known else None


def block_documents(blocks: Sequence[Json]) -> list[Json]:
    """Describe each disk's traffic."""
    return [_block(one) for one in blocks]


def _block(block: Json) -> Json:
    stats = block["stats"]
    return {
        "device": (block.get("qdev") or block.get("node-name") or "").split("/")[-2:][0] or block.get("device", ""),
        "read_bytes": int(stats["rd_bytes"]),
        "written_bytes": int(stats["wr_bytes"]),
        "read_operations": int(stats["rd_operations"]),
        "write_operations": int(stats["wr_operations"]),
    }


def network_documents(cards: Sequence[Json], answers: Answers) -> list[Json]:
    """Describe each virtio card's traffic; QEMU counts no bytes, but each queue knows how many buffers were used.

    Queue 0 receives, queue 1 sends (Virtual I/O Device specification, "Network Device").
    """

    def used(card: Json, queue: int) -> int | None:
        value, _ = answers.read(lambda answer: int(answer["used-idx"]), queue_name(str(card["name"]), queue))
        return value

    return [
        {
            "device": str(card["name"]),
            "mac": str(card["main-mac"]),
            "received_buffers": used(card, 0),
            "sent_buffers": used(card, 1),
        }
        for card in cards
    ]


# Names of KVM's statistics (Linux, ``kvm_vcpu_stats_desc``) that are exits from the guest or what KVM does for it.
_EXIT: Final = re.compile(r"exits|_exits$|injections$|^hypercalls$|^insn_emulation$|^pf_")


def exit_documents(answer: Sequence[Json]) -> list[Json]:
    """Describe how often KVM's virtual CPUs left the guest, by reason, all CPUs together (QMP ``query-stats``)."""
    counts: dict[str, int] = {}
    for result in answer:
        for stat in result["stats"]:
            if _EXIT.search(stat["name"]) and isinstance(stat["value"], int):
                counts[stat["name"]] = counts.get(stat["name"], 0) + stat["value"]
    return [{"name": name, "count": count} for name, count in sorted(counts.items())]


def migration_document(answer: Json) -> Json:
    """Describe the last migration or saving of state (QMP ``query-migrate``)."""
    ram = answer.get("ram", {})
    return {
        "status": str(answer.get("status", "none")),
        "total_bytes": ram.get("total"),
        "transferred_bytes": ram.get("transferred"),
        "remaining_bytes": ram.get("remaining"),
        "downtime_ms": answer.get("downtime"),
    }
