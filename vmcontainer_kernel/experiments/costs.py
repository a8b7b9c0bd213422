"""What a place cost, as numbers of the document: times of its rounds, memory, processor time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .commands import Outcome
from .using import Use

__all__ = ["MARKS", "UNITS", "Measured", "costs"]

MARKS: Final = ("started_ms", "first_byte_ms", "end_ms")
"""The times of a round, since the cell asked for it and the place for it was begun to be made."""

UNITS: Final = {
    "time_s": ("s", "level"),
    **{f"places[].rounds[].{mark}": ("ms", "level") for mark in MARKS},
    **{f"places[].{mark}.{which}": ("ms", "level") for mark in MARKS for which in ("median", "least")},
    **{f"places[].memory.{one}_bytes": ("B", "level") for one in ("proportional", "private", "shared", "peak")},
    **{f"places[].group.{one}_bytes": ("B", "level") for one in ("usage", "peak")},
    "places[].group.cpu_s": ("s", "counter"),
    "places[].cpu_s": ("s", "level"),
    "places[].making_cpu_s": ("s", "level"),
    "places[].sees.memory_kib": ("KiB", "level"),
    "places[].sees.uptime_s": ("s", "counter"),
    "places[].sees.clock_s": ("s", "level"),
    "places[].output.cut_bytes": ("B", "level"),
}


@dataclass(frozen=True)
class Measured:
    """What one held run used: `use` and `cpu_s` by this computer's accounting, `making_cpu_s` for the machine until it
    had answered; `group`: the container's control group, as the kernel beside which it runs counts.
    """

    outcome: Outcome
    use: Use | None
    cpu_s: float | None
    making_cpu_s: float | None
    group: dict[str, Any] | None


def costs(rounds: Sequence[Mapping[str, Any]], measured: Measured) -> dict[str, Any]:
    """Return times, memory and processor time; None for what was over before anybody could look."""
    return {
        **{mark: _summary([one[mark] for one in rounds if one[mark] is not None]) for mark in MARKS},
        "memory": measured.use.to_json() if measured.use else None,
        "group": measured.group,
        "cpu_s": measured.cpu_s,
        "making_cpu_s": measured.making_cpu_s,
    }


def _summary(values: Sequence[float]) -> dict[str, float] | None:
    return {"median": round(statistics.median(values), 3), "least": min(values)} if values else None
