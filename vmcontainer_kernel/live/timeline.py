"""The timeline of the last starts; of those that the page names, ``start-NUMBER``, with every call."""

from __future__ import annotations

from typing import Any, Final

from ..errors import LabError
from ..session import Session
from .base import Json, Source, join, repeated

__all__ = ["timeline_source", "timeline_view"]

_SHOWN: Final = 8
_PERIOD_S: Final = 1.0
_KEPT: Final = ("name", "by", "begin_ms", "ms")


def timeline_source(session: Session) -> Source:
    """Return where timelines come from."""

    last: Json = {"starts": None}

    async def fetch(wanted: frozenset[str]) -> Json:
        nonlocal last
        found = await _document(session, wanted)
        # The same starts a second later are no news: nothing is sent.
        last = last if found["starts"] == last["starts"] else found
        return last

    return Source(repeated(fetch, _PERIOD_S))


def timeline_view(session: Session, language: str) -> Any:
    """Return a live TimelineView of what was started last."""
    from vmcontainer_widgets import TimelineView

    view = TimelineView(document=session.wait(_document(session, frozenset())), language=language)
    join(session, view, timeline_source(session))
    return view


async def _document(session: Session, wanted: frozenset[str]) -> Json:
    document = await session.timeline()
    starts = []
    for start in document["starts"][-_SHOWN:]:
        if f"start-{start['number']}" in wanted:
            try:
                starts.append(await session.starts.explained(start["number"], session.node))
                continue
            except LabError:  # forgotten meanwhile
                pass
        starts.append(_light(start))
    return document | {"starts": starts, "starts_total": len(document["starts"])}


def _light(start: Json) -> Json:
    """Return a start without what is told when it is opened: a hundred steps are not sent for a picture."""
    earlier = [{**one, "phases": [], "earlier": []} for one in start["earlier"]]
    return {**start, "phases": [{key: one[key] for key in _KEPT} for one in start["phases"]], "earlier": earlier}
