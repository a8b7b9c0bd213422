"""How long starts took, as tables: ``%vm timeline``, ``%container timeline``, ``%lab timeline``."""

from __future__ import annotations

from typing import Any, Final

from ..display import Table
from ..errors import NotFound
from ..session import Session
from ..timelines import rows
from .words import Words

__all__ = ["container_timeline", "timeline_table"]

Json = dict[str, Any]
_WAYS: Final = {
    "cold": "booted",
    "clone": "woken from its template",
    "spare": "made ahead, given now",
    "exact spare": "made ahead, given now",
    "ready": "born by the process that was ready",
    "forked": "forked",
    "spawned": "started by posix_spawn",
    "made ahead": "made ahead",
}


def timeline_table(*starts: Json) -> Table:
    """Return starts phase by phase, each with what had been done before."""
    table: list[tuple[str, ...]] = []
    for start in starts:
        for one in (start, *start["earlier"]):
            name = " ".join(filter(None, (one["what"], one["name"])))
            table += [
                (f"{name}: {_WAYS.get(one['way'], one['way'])}", "", f"{one['total_ms']:.2f}", "", ""),
                *rows(one),
            ]
    return Table(("phase", "from ms", "ms", "measured by", "time"), table, "nothing was started yet")


def container_timeline(session: Session, given: Words, language: str) -> Table:
    """Return the last start of a container, or of what ran in it; without a name, the last of any container."""
    starts = [one for one in session.wait(session.timeline())["starts"] if one["what"] != "machine"]
    if given.name:
        starts = [one for one in starts if one["name"] == given.name]
        if not starts:
            raise NotFound(f"no start of a container {given.name} is known", hint="%lab timeline shows those that are")
    return timeline_table(*starts[-1:])
