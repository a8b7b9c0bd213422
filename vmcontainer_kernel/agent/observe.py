"""The kernel view: what one kernel says of processes, namespaces and memory, as a JSON document.

    Observer.look(node, pids, containers, …)  ──▶ {"kind": "kernel", …}
                 parts=("mounts",)            ──▶ … with the dear parts that are named, in `parts`

Everything comes from proc(5) and cgroups(7). Numbers declare their unit and whether they only grow (`UNITS`); what
cannot be told is null or empty, and `missing` says why.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ..container.cgroups import stats
from .isolation import Isolation
from .proc import PROC, read_fields, read_text
from .processes import Processes, assign_roles

__all__ = ["UNITS", "Observer", "missing_of", "pressure_of"]

_PRESSURE: Final = ("cpu", "memory", "io")

UNITS: Final = {
    "time_s": ("s", "level"),
    "kernel.uptime_s": ("s", "counter"),
    "kernel.load_1min": ("processes", "level"),
    "kernel.cpus": ("CPUs", "level"),
    "memory.total_bytes": ("B", "level"),
    "memory.available_bytes": ("B", "level"),
    "processes_total": ("processes", "level"),
    "processes[].cpu_s": ("s", "counter"),
    "processes[].rss_bytes": ("B", "level"),
    "processes[].threads": ("threads", "level"),
    "processes[].started_s": ("s", "level"),
    **{f"pressure.{kind}.{who}_percent": ("%", "level") for kind in _PRESSURE for who in ("some", "full")},
    **{f"pressure.{kind}.{who}_s": ("s", "counter") for kind in _PRESSURE for who in ("some", "full")},
    **{f"containers[].{name}": unit for name, unit in stats.UNITS.items()},
    "isolation[].filter.known": ("calls", "level"),
    "isolation[].filter.open": ("calls", "level"),
    "isolation[].filter.conditional": ("calls", "level"),
    "isolation[].filter.closed": ("calls", "level"),
}


class Observer:
    """One kernel, looked at again and again; what seldom changes is read seldom."""

    def __init__(self, *, agent_pid: int, cgroup: str, proc: str = PROC) -> None:
        """`cgroup`: v1, v2, hybrid or none: which control groups this user may make."""
        self._agent_pid, self._cgroup, self._proc = agent_pid, cgroup, proc
        self._processes, self._isolation = Processes(proc), Isolation(proc)
        self._kernel: dict[str, Any] = {}

    def look(
        self,
        node: str,
        containers: Sequence[dict[str, Any]],
        *,
        pids: Sequence[int],
        processes_total: int | None = None,
        machines: Iterable[int] = (),
        filters: dict[str, Any] | None = None,
        fresh: bool = True,
    ) -> dict[str, Any]:
        """Return the kernel view (docs/architecture.md, "Views"), but for its dear parts.

        `pids`: whom to show; `machines`: which of them are QEMU; `filters`: container → what its filter of system calls
        leaves open; `fresh`: read all again, as for somebody who looks once.
        """
        if fresh or not self._kernel:
            self._kernel = self._told_once()
        rows = self._processes.rows(pids, fresh=fresh)
        firsts = {one["pid"]: one["name"] for one in containers if one["pid"]}
        assign_roles(rows, firsts, self._agent_pid, set(machines))
        commands = {row["pid"]: row["command"] for row in rows}
        pressure = pressure_of(f"{self._proc}/pressure")
        return {
            "kind": "kernel",
            "version": 1,
            "time_s": round(time.time(), 3),
            "node": node,
            "kernel": self._kernel | self._told_each_time(),
            "memory": self._memory(),
            "pressure": pressure,
            "processes": rows,
            "processes_total": processes_total or len(rows),
            "containers": list(containers),
            "isolation": self._isolation.rows(node, self._agent_pid, containers, filters or {}, commands, fresh=fresh),
            "missing": missing_of(self._cgroup, rows, containers, pressure),
            "units": UNITS,
        }

    def _told_once(self) -> dict[str, Any]:
        system = f"{self._proc}/sys/kernel"
        return {
            "release": read_text(f"{system}/osrelease").strip(),
            "machine": os.uname().machine,
            "boot_id": read_text(f"{system}/random/boot_id").strip(),
            "hostname": read_text(f"{system}/hostname").strip(),
            "cgroup": self._cgroup,
            "cpus": os.cpu_count(),
        }

    def _told_each_time(self) -> dict[str, Any]:
        uptime, load = (read_text(f"{self._proc}/{name}").split() for name in ("uptime", "loadavg"))
        return {"uptime_s": float(uptime[0]) if uptime else None, "load_1min": float(load[0]) if load else None}

    def _memory(self) -> dict[str, int | None]:
        memory = read_fields(f"{self._proc}/meminfo")
        return {
            "total_bytes": _kib(memory.get("MemTotal", "")),
            "available_bytes": _kib(memory.get("MemAvailable", "")),
        }


def _kib(value: str) -> int | None:
    digits = value.split(maxsplit=1)[0] if value else ""
    return int(digits) * 1024 if digits.isdigit() else None


def pressure_of(folder: str) -> dict[str, dict[str, float]] | None:
    """Return how long processes of the whole kernel waited (accounting/psi.rst), as `containers[].pressure`; None where
    the kernel does not count it.
    """
    found: dict[str, dict[str, float]] = {}
    for kind in _PRESSURE:
        for line in read_text(f"{folder}/{kind}").splitlines():
            who, *pairs = line.split()
            row = dict(pair.partition("=")[::2] for pair in pairs)
            one = found.setdefault(kind, {})
            one[f"{who}_percent"], one[f"{who}_s"] = float(row["avg10"]), int(row["total"]) / 1e6
    return found or None


def missing_of(
    cgroup: str, rows: Sequence[dict[str, Any]], containers: Sequence[dict[str, Any]], pressure: object
) -> dict[str, str]:
    """Return dotted path → why that part cannot be told."""
    found = {}
    if pressure is None:
        found["pressure"] = "this kernel does not count how long processes wait (CONFIG_PSI, psi=1)"
    if any(row["namespaces"]["pid"] is None and row["state"] != "Z" for row in rows):
        found["processes[].namespaces"] = "another user's processes do not tell this user (ptrace(2), access mode)"
    if not containers:
        return found
    if cgroup == "none":
        reason = "this user may make no control groups here: nothing is counted for a container alone"
        return found | {f"containers[].{name}": reason for name in ("memory", "cpu", "pids", "io", "pressure")}
    if cgroup != "v2":
        found["containers[].pressure"] = "control groups of version 1 do not count it; the whole kernel's is there"
        found["containers[].io"] = "control groups of version 1 count it only for devices with a limit"
    return found
