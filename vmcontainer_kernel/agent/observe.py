"""The kernel view: what one kernel says of processes, namespaces and memory, as a JSON document.

Everything comes from proc(5); the root of /proc is a parameter, so that a folder of saved files tests the parsers.
Numbers declare their unit and whether they only grow (`UNITS`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from ..container.cgroups import stats

__all__ = ["NAMESPACES", "PROC", "UNITS", "descendants", "kernel_view", "process", "read_fields", "read_text"]

PROC: Final = Path("/proc")
NAMESPACES: Final = ("pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time")
MAX_PROCESSES: Final = 500

UNITS: Final = {
    "time_s": ("s", "level"),
    "kernel.uptime_s": ("s", "counter"),
    "kernel.load_1min": ("processes", "level"),
    "kernel.cpus": ("CPUs", "level"),
    "memory.total_bytes": ("B", "level"),
    "memory.available_bytes": ("B", "level"),
    "processes[].cpu_s": ("s", "counter"),
    "processes[].rss_bytes": ("B", "level"),
    **{f"containers[].{name}": unit for name, unit in stats.UNITS.items()},
}

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def read_text(path: Path) -> str:
    """Return a file's text; one that is gone or may not be read is empty."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def read_fields(path: Path) -> dict[str, str]:
    """Read ``Name:\\tvalue`` lines as in /proc/PID/status and /proc/meminfo."""
    pairs = (line.partition(":") for line in read_text(path).splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _inode(link: Path) -> int | None:
    """Return the number in ``pid:[4026531836]``: two processes with the same number share that namespace."""
    try:
        target = str(link.readlink())
    except OSError:
        return None
    digits = target.partition("[")[2].rstrip("]")
    return int(digits) if digits.isdigit() else None


def _stat(text: str) -> list[str]:
    """Return the fields of proc_pid_stat(5) from the third on; the second, the name, may hold anything."""
    return text[text.rfind(")") + 1 :].split()


def process(pid: int, proc: Path = PROC) -> dict[str, Any] | None:
    """Return one row of `processes`, or None if the process is gone or a zombie's entry is half gone."""
    folder = proc / str(pid)
    status, stat = read_fields(folder / "status"), _stat(read_text(folder / "stat"))
    if len(stat) < 22 or "Name" not in status:
        return None
    command = read_text(folder / "cmdline").replace("\0", " ").strip()
    return {
        "pid": pid,
        "pids": [int(one) for one in status.get("NSpid", str(pid)).split()],
        "ppid": int(stat[1]),
        "comm": status["Name"],
        "command": command[:300],
        "state": stat[0],
        "uid": int(status.get("Uid", "0").split()[0]),
        "cpu_s": round((int(stat[11]) + int(stat[12])) / _TICKS, 2),
        "rss_bytes": int(stat[21]) * _PAGE,
        "namespaces": {kind: _inode(folder / "ns" / kind) for kind in NAMESPACES},
    }


def all_pids(proc: Path = PROC) -> list[int]:
    """Return every user process of this kernel; kernel threads, which have no memory map, are left out."""
    pids = sorted(int(one.name) for one in proc.iterdir() if one.name.isdigit())
    return [pid for pid in pids if _stat(read_text(proc / str(pid) / "stat"))[20:21] not in ([], ["0"])]


def descendants(pid: int, proc: Path = PROC) -> list[int]:
    """Return `pid` and every process below it (proc_pid_task_children(5))."""
    found = [pid]
    for one in found:
        for task in _listdir(proc / str(one) / "task"):
            found += [int(child) for child in read_text(proc / str(one) / "task" / task / "children").split()]
    return found


def _listdir(path: Path) -> list[str]:
    try:
        return [one.name for one in path.iterdir()]
    except OSError:
        return []


def kernel_view(
    node: str,
    containers: Sequence[dict[str, Any]],
    *,
    pids: Iterable[int] | None,
    agent_pid: int,
    machines: Sequence[int] = (),
    cgroup: str,
    proc: Path = PROC,
) -> dict[str, Any]:
    """Return the kernel view (docs/architecture.md, "Views"). `pids` None means every user process."""
    chosen = list(all_pids(proc) if pids is None else pids)[:MAX_PROCESSES]
    rows = [row for row in (process(pid, proc) for pid in chosen) if row]
    firsts = {one["pid"]: one["name"] for one in containers if one["pid"]}
    _assign_roles(rows, firsts, agent_pid, set(machines))
    memory = read_fields(proc / "meminfo")
    return {
        "kind": "kernel",
        "version": 1,
        "time_s": round(time.time(), 3),
        "node": node,
        "kernel": _kernel(proc) | {"cgroup": cgroup},
        "memory": {
            "total_bytes": _kib(memory.get("MemTotal", "")),
            "available_bytes": _kib(memory.get("MemAvailable", "")),
        },
        "processes": rows,
        "containers": list(containers),
        "units": UNITS,
    }


def _kib(value: str) -> int | None:
    digits = value.split(maxsplit=1)[0] if value else ""
    return int(digits) * 1024 if digits.isdigit() else None


def _kernel(proc: Path) -> dict[str, Any]:
    uptime, load = read_text(proc / "uptime").split(), read_text(proc / "loadavg").split()
    system = proc / "sys" / "kernel"
    return {
        "release": read_text(system / "osrelease").strip(),
        "machine": os.uname().machine,
        "boot_id": read_text(system / "random" / "boot_id").strip(),
        "hostname": read_text(system / "hostname").strip(),
        "uptime_s": float(uptime[0]) if uptime else None,
        "load_1min": float(load[0]) if load else None,
        "cpus": os.cpu_count(),
    }


def _assign_roles(rows: list[dict[str, Any]], firsts: dict[int, str], agent_pid: int, machines: set[int]) -> None:
    """Say of each process what it is to us: a container's descendants belong to the container.

    A process that was started by exec is the agent's child, so it is known by the pid namespace it shares.
    """
    spaces = {row["namespaces"]["pid"]: firsts[row["pid"]] for row in rows if row["pid"] in firsts}
    agent_space = next((row["namespaces"]["pid"] for row in rows if row["pid"] == agent_pid), None)
    spaces.pop(agent_space, None)
    parents = {row["pid"]: row["ppid"] for row in rows}
    for row in rows:
        owner = spaces.get(row["namespaces"]["pid"]) or _first_above(row["pid"], parents, firsts)
        row["container"] = owner
        if row["pid"] == agent_pid:
            row["role"] = "agent"
        elif owner:
            row["role"] = "container"
        elif row["pid"] in machines:
            row["role"] = "machine"
        else:
            row["role"] = "init" if row["pid"] == 1 else "process"


def _first_above(pid: int, parents: dict[int, int], firsts: dict[int, str]) -> str | None:
    for _ in range(len(parents)):
        if pid in firsts:
            return firsts[pid]
        if pid not in parents:
            return None
        pid = parents[pid]
    return None
