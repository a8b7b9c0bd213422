"""What proc(5) tells of QEMU: threads, and how its memory is shared."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .asking import Json

__all__ = ["parse_smaps_rollup", "parse_stat", "ram_document", "read_smaps", "read_stats", "sum_bytes"]


def read_stats(proc: Path, pid: int, threads: Iterable[int]) -> dict[int, str]:
    """Read the ``stat`` of threads of a process; those that vanish meanwhile are left out."""
    texts = {thread: _text(proc / str(pid) / "task" / str(thread) / "stat") for thread in threads}
    return {thread: text for thread, text in texts.items() if text is not None}


def read_smaps(proc: Path, pid: int, *, whole: bool = False) -> str | None:
    """Read ``smaps_rollup``, or the `whole` of ``smaps``; None if we may not."""
    return _text(proc / str(pid) / ("smaps" if whole else "smaps_rollup"))


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def parse_stat(text: str, ticks_per_s: int = os.sysconf("SC_CLK_TCK")) -> tuple[float, str]:
    """Return (CPU seconds, state) of a ``stat`` line; the name in parentheses may hold anything."""
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / ticks_per_s, fields[0]


def parse_smaps_rollup(text: str) -> dict[str, int]:
    """Return the KiB of each line of ``smaps_rollup``."""
    return _kib(text.splitlines()[1:])


def _kib(lines: Iterable[str]) -> dict[str, int]:
    rows = (line.split() for line in lines)
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}


def sum_bytes(kib: Mapping[str, int], *names: str) -> int | None:
    """Return the bytes of some of these lines together; None if there are no lines."""
    return sum(kib.get(name, 0) for name in names) * 1024 if kib else None


_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+) *(.*)")


def ram_document(smaps: str, size_bytes: int) -> Json:
    """Describe the mapping that is the guest's memory: what it has of its template's file, and what it has copied.

    It is the smallest mapping that is large enough. A page of a clone is the template's, in the host's page cache
    once for all of them, until the guest writes to it: then the clone has a copy of its own (``Anonymous``).
    """
    best: tuple[int, str, list[str]] | None = None
    lines: list[str] = []
    for line in smaps.splitlines():
        if head := _HEAD.match(line):
            size = int(head[2], 16) - int(head[1], 16)
            lines = []
            if head[3].startswith("rw") and size >= size_bytes and (best is None or size < best[0]):
                best = (size, head[5] if head[4] != "0" else "", lines)
        else:
            lines.append(line)
    if best is None:
        raise ValueError("no mapping is large enough")
    kib = _kib(best[2])
    resident, copied = kib["Rss"], kib["Anonymous"]
    return {
        "file": best[1].rpartition("/")[2] if best[1] else None,
        "mapped_bytes": best[0],
        "resident_bytes": resident * 1024,
        "proportional_bytes": kib["Pss"] * 1024,
        "copied_bytes": copied * 1024 if best[1] else None,
        "template_bytes": (resident - copied) * 1024 if best[1] else None,
    }
