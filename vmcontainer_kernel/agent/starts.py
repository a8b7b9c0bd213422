"""What the last starts of processes in containers did, call by call: kept by their requests, put into words when asked.

When a start is over, only what would describe it is kept (`container.reports.Launch.explain`), so no start is slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..container.reports import Launch
from ..errors import NotFound
from .protocol import get_int
from .server import Call, Server

__all__ = ["Starts"]

_MOST = 50


class Starts:
    """The ``container.steps`` verb, and what it tells of."""

    def __init__(self, server: Server) -> None:
        self._explain: dict[int, Sequence[Callable[[], Sequence[dict[str, Any]]]]] = {}
        server.verbs |= {"container.steps": self.steps}

    def note(self, request: int, launch: Launch) -> None:
        """Keep what describes a start, and forget the oldest."""
        self._explain[request] = launch.explain
        for oldest in [*self._explain][:-_MOST]:
            del self._explain[oldest]

    def steps(self, call: Call) -> dict[str, Any]:
        """Return what was done for a request, in order: step, call, why, source, and the file, line and function of our
        code.
        """
        request = get_int(call.arguments, "request")
        if request not in self._explain:
            raise NotFound(
                f"of request {request} no steps are known", hint=f"those of the last {_MOST} starts are kept"
            )
        return {"steps": [step for explain in self._explain[request] for step in explain()]}
