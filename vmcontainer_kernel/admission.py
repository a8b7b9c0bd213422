"""Whether one more machine fits here, asked before anything of it is started; what is being made counts too.

    reserve(3, each) ── fits? ──▶ Place ── made, awake ──▶ release: from now on its memory is counted by the kernel
                           └────▶ UserError: how many fit, and what bounds their number

A clone shares its template's memory, so what counts is what clones of its kind were measured to have for themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError
from .memory import available_memory, available_threads

if TYPE_CHECKING:
    from .vm.machine import Machine
    from .vm.resources import Room

__all__ = ["Admission", "Place", "private_bytes"]

USUAL_BYTES = 64 << 20  # a clone that has run a cell; 40 to 60 MiB were measured
THREADS_EACH = 8
_LEFT_BYTES = 128 << 20  # for the notebook itself


class Place:
    """Room that is kept for machines until they are there."""

    def __init__(self, kept: dict[Place, tuple[int, int]], memory_bytes: int, threads: int) -> None:
        self._kept = kept
        kept[self] = memory_bytes, threads

    def release(self) -> None:
        """Let go of it; further calls do nothing."""
        self._kept.pop(self, None)


class Admission:
    """Counts what is promised; lives on the session's event loop, so one asks after the other."""

    def __init__(self, look: Callable[[], tuple[tuple[int, str], int]] | None = None) -> None:
        """`look` tells what is free: memory with who says so, and threads."""
        self._look = look or (lambda: (available_memory(), available_threads()))
        self._kept: dict[Place, tuple[int, int]] = {}

    def reserve(self, count: int, each_bytes: int) -> Place:
        """Keep room for `count` machines; raises UserError, with how many fit, if there is too little."""
        from .vm.resources import fitting

        fits, why = fitting(self.room(), each_bytes, THREADS_EACH)
        if fits < count:
            asked = "one more machine does" if count == 1 else f"{count} more machines do"
            raise UserError(
                f"{asked} not fit here: {fits} would", hint=f"{why}; end others first: %vm ls", where="memory"
            )
        return Place(self._kept, count * each_bytes, count * THREADS_EACH)

    def room(self) -> Room:
        """Return what is free and not promised."""
        from .vm.resources import Room

        (memory_bytes, source), threads = self._look()
        kept_bytes = sum(kept for kept, _ in self._kept.values())
        kept_threads = sum(kept for _, kept in self._kept.values())
        return Room(memory_bytes - kept_bytes - _LEFT_BYTES, source, threads - kept_threads)


def private_bytes(machines: Iterable[Machine], proc: Path = Path("/proc")) -> int:
    """Return what a clone has for itself: the most that one of `machines` has now, or what is usual.

    The shared part of a mapping is counted once, with the template's file (smaps_rollup of proc(5)).
    """
    from .vm.observe.proc import parse_smaps_rollup

    found = [USUAL_BYTES]
    for machine in machines:
        try:
            kib = parse_smaps_rollup((proc / str(machine.pid) / "smaps_rollup").read_text())
        except OSError:  # it has ended, or is not ours to look into
            continue
        found.append(kib.get("Private_Dirty", 0) * 1024)
    return max(found)
