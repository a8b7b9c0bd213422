"""What a process and those below it use, by this computer's own accounting: memory and processor time.

`proc` is a parameter, so that a folder of saved files tests it. Sources: proc_pid_smaps(5), proc_pid_status(5),
proc_pid_stat(5), sched-stats.rst.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ..agent.proc import PROC, read_fields, read_text
from ..agent.processes import descendants
from ..vm.observe.proc import parse_smaps_rollup

__all__ = ["Use", "add_up", "cpu_seconds", "use_of"]

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Use:
    """Memory in bytes. `proportional` counts a page that N processes share as one Nth (PSS); `peak` is the largest
    that any of the processes was resident (VmHWM).
    """

    proportional_bytes: int
    private_bytes: int
    shared_bytes: int
    peak_bytes: int
    processes: int

    def to_json(self) -> dict[str, Any]:
        """Return the part that a document shows."""
        names = ("proportional_bytes", "private_bytes", "shared_bytes", "peak_bytes", "processes")
        return {name: getattr(self, name) for name in names}


def add_up(pids: list[int], proc: str = PROC) -> Use | None:
    """Return what processes use together; None if none of them may be looked at, or all are gone."""
    found = [one for pid in pids if (one := _one(f"{proc}/{pid}"))]
    if not found:
        return None
    proportional, private, shared, peaks = zip(*found, strict=True)
    return Use(sum(proportional), sum(private), sum(shared), max(peaks), len(found))


def _one(folder: str) -> tuple[int, int, int, int] | None:
    rollup = parse_smaps_rollup(read_text(f"{folder}/smaps_rollup"))
    if "Pss" not in rollup:  # gone, without memory as it ends, or not ours to look at (PTRACE_MODE_READ)
        return None
    private = rollup.get("Private_Clean", 0) + rollup.get("Private_Dirty", 0) + rollup.get("Private_Hugetlb", 0)
    highest = read_fields(f"{folder}/status").get("VmHWM", "0").split()[0]
    peak = int(highest) if highest.isdigit() else 0
    return rollup["Pss"] * 1024, private * 1024, (rollup.get("Rss", 0) - private) * 1024, peak * 1024


def use_of(pid: int, proc: str = PROC) -> Use | None:
    """Return what a process and all below it use together."""
    return add_up(descendants(pid, proc), proc)


def cpu_seconds(pid: int, proc: str = PROC) -> float | None:
    """Return the processor time of a process and all below it, those that have ended too; to 10 ms for what has ended
    or has several threads.
    """
    total, seen = 0.0, False
    for one in descendants(pid, proc):
        text = read_text(f"{proc}/{one}/stat")
        fields = text[text.rfind(")") + 1 :].split()
        if len(fields) > 17:
            own = _fine(f"{proc}/{one}") if fields[17] == "1" else None
            total += (int(fields[11]) + int(fields[12])) / _TICKS if own is None else own
            total += (int(fields[13]) + int(fields[14])) / _TICKS  # children that were waited for
            seen = True
    return round(total, 4) if seen else None


def _fine(folder: str) -> float | None:
    """Return the time of a process with one thread, in nanoseconds' resolution, where the kernel keeps it."""
    first = read_text(f"{folder}/schedstat").split()[:1]
    return int(first[0]) / 1e9 if first and first[0].isdigit() else None
