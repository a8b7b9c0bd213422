"""How much memory, how many processors and threads may be used here, as the kernel and this process's groups say."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_cpus", "available_memory", "available_threads"]

_NO_LIMIT_BYTES = 2**60  # memory cgroups of version 1 show "no limit" as the highest page-aligned number


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, str]:
    """Return what may still be used, in bytes, and who says so: the kernel or the control group of this process.

    Sources: MemAvailable of proc(5); memory.max of cgroup-v2.rst; memory.limit_in_bytes of cgroup-v1/memory.rst.
    """
    lines = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    candidates = [(next(int(row[1]) for row in lines if row[0] == "MemAvailable:") * 1024, "the kernel's estimate")]
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for root in (cgroup, cgroup / "unified"):
                candidates += _rooms(root, path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            candidates += _rooms(cgroup / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")
    return min(candidates)


def _rooms(root: Path, path: str, limit: str, usage: str) -> list[tuple[int, str]]:
    """Return the room in a control group and in each above it: the tightest counts."""
    rooms = []
    for folder in _with(root, path, limit):
        text = (folder / limit).read_text().strip()
        if text != "max" and int(text) < _NO_LIMIT_BYTES:
            free_bytes = int(text) - int((folder / usage).read_text()) + _inactive_bytes(folder)
            rooms += [(max(0, free_bytes), f"control group {folder}")]
    return rooms


def _inactive_bytes(folder: Path) -> int:
    """Page cache that the kernel gives back when asked for memory counts as usage, but it is free for us."""
    rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    # Version 1 counts the groups below under a name of its own; version 2 always counts them.
    return int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))


def available_threads(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many more threads there may be here, by the kernel's own bound and those of control groups.

    Sources: proc_sys_kernel(5), threads-max; proc_loadavg(5); cgroup-v1/pids.rst.
    """
    running = int((proc / "loadavg").read_text().split()[3].partition("/")[2])
    candidates = [int((proc / "sys" / "kernel" / "threads-max").read_text()) - running]
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        roots = (cgroup, cgroup / "unified") if controllers == "" else (cgroup / "pids",)
        if controllers == "" or "pids" in controllers.split(","):
            for folder in (folder for root in roots for folder in _with(root, path, "pids.max")):
                most = (folder / "pids.max").read_text().strip()
                candidates += [] if most == "max" else [int(most) - int((folder / "pids.current").read_text())]
    return max(0, min(candidates))


def available_cpus(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many processors this process may use: those it may run on, or the tightest quota above it.

    Sources: sched_getaffinity(2); cpu.max of cgroup-v2.rst; cpu.cfs_quota_us of sched-bwc.rst.
    """
    candidates = [float(len(os.sched_getaffinity(0)))]
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for root in (cgroup, cgroup / "unified"):
                candidates += [
                    _share(*(folder / "cpu.max").read_text().split()) for folder in _with(root, path, "cpu.max")
                ]
        elif "cpu" in controllers.split(","):
            for folder in _with(cgroup / "cpu", path, "cpu.cfs_quota_us"):
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                candidates += [_share(*((folder / name).read_text().strip() for name in names))]
    return min(candidates)


def _with(root: Path, path: str, name: str) -> list[Path]:
    """Return a control group and those above it, as far as they have a file of that name.

    In a container the path may be the host's and so not exist below the mount; the mount's root is our group then.
    """
    group = root / path.lstrip("/")
    folders = dict.fromkeys((group, *group.parents, root))
    return [folder for folder in folders if folder.is_relative_to(root) and (folder / name).is_file()]


def _share(quota: str, period: str) -> float:
    return float("inf") if quota in ("max", "-1") else int(quota) / int(period)
