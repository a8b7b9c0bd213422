"""How much memory may still be used here: by the kernel's account and by the control groups this process is in."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_memory"]

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
    group = root / path.lstrip("/")
    # In a container the path may be the host's and so not exist below the mount; the mount's root is our group then.
    for folder in dict.fromkeys((group, *group.parents, root)):
        if folder.is_relative_to(root) and (folder / limit).is_file():
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
