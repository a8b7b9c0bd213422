"""The last starts of a session: noted as they happen, told as a timeline when somebody asks.

session.start_on ─▶ Starts.note ─▶ Started: on_event, on_data (when the notebook heard what)
a view, a verb ───▶ Starts.document ─▶ a node's ``container.steps``: calls, arguments, lines of our code
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from . import timelines
from .errors import LabError, NotFound
from .node import Node
from .sources import located

__all__ = ["Started", "Starts", "placed"]

Json = dict[str, Any]
_MOST: Final = 50
_LIMIT_S: Final = 5.0
_WHAT: Final = {"container.run": "container", "container.start": "container", "container.exec": "exec", "exec": "exec"}


class Started:
    """One start of a process, as the notebook sees it: the moments are of its monotonic clock."""

    def __init__(self, number: int, node: str, what: str, name: str) -> None:
        self.number, self.node, self.what, self.name = number, node, what, name
        self.request = 0
        self.time_s, self.asked_s = time.time(), time.monotonic()
        self._event: Mapping[str, Any] | None = None
        self._heard_s = 0.0
        self._output_s: float | None = None
        self._told: Json | None = None
        self._explained: tuple[Json, Json] | None = None  # what was told, and the same with its calls
        self._steps: list[Json] | None = None

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take note that the program runs."""
        if event.get("event") == "started" and self._event is None:
            self._event, self._heard_s, self._told = event, time.monotonic(), None

    def on_data(self) -> None:
        """Take note of the first byte."""
        if self._output_s is None:
            self._output_s, self._told = time.monotonic(), None

    @property
    def known(self) -> bool:
        """Whether the program has run."""
        return self._event is not None

    def told(self) -> Json:
        """Return the start as far as it is known here."""
        if self._told is None:
            self._told = {"number": self.number, "time_s": self.time_s} | self._start()
        return self._told

    def _start(self) -> Json:
        event = self._event or {}
        return timelines.start_of(self.what, self.name, self.node, self.asked_s, event, self._heard_s, self._output_s)

    async def explained(self, find: Callable[[str], Awaitable[Node]]) -> Json:
        """Return the start with its calls, which its node tells; without, if the node is gone or has forgotten."""
        told = self.told()
        if self._explained is None or self._explained[0] is not told:
            steps = await self._ask(find)
            self._explained = told, placed(timelines.explained(told, steps))
        return self._explained[1]

    async def _ask(self, find: Callable[[str], Awaitable[Node]]) -> list[Json]:
        if self._steps is None:
            try:
                async with asyncio.timeout(_LIMIT_S):
                    answer = await (await find(self.node)).call("container.steps", request=self.request)
                self._steps = timelines.read_steps(answer)
            except (LabError, TimeoutError):  # the node is gone, or the start too old: its times are known still
                self._steps = []
        return self._steps


class Starts:
    """The last starts, oldest first; used on the session's loop only."""

    def __init__(self) -> None:
        self._number = 0
        self._starts: deque[Started | Json] = deque(maxlen=_MOST)

    def note(self, node: str, verb: str, arguments: Mapping[str, Any]) -> Started | None:
        """Begin to note a start, if this request is one."""
        what = _WHAT.get(verb)
        if what is None:
            return None
        started = Started(self._next(), node, what, str(arguments.get("name") or ""))
        self._starts.append(started)
        return started

    def add_machine(self, start: Json, asked_s: float) -> None:
        """Add a machine's start, in place of what was known of it before."""
        time_s = time.time() - (time.monotonic() - asked_s)
        same = [one for one in self._starts if isinstance(one, dict) and _same(one, start, time_s)]
        for one in same:
            self._starts.remove(one)
        number = same[0]["number"] if same else self._next()
        self._starts.append({"number": number, "time_s": time_s, **start})

    def _next(self) -> int:
        self._number += 1
        return self._number

    def told(self) -> list[Json]:
        """Return the starts whose program has run, in the order in which they were asked for."""
        found = [one if isinstance(one, dict) else one.told() for one in self._starts if _is_known(one)]
        return sorted(found, key=lambda one: one["time_s"])

    async def explained(self, number: int, find: Callable[[str], Awaitable[Node]]) -> Json:
        """Return one start with its calls; raises NotFound for one that is not known any more."""
        one = next((one for one in self._starts if _number(one) == number and _is_known(one)), None)
        if one is None:
            raise NotFound(f"start {number} is not known any more", hint=f"the last {_MOST} are")
        return _explained_machine(one) if isinstance(one, dict) else await one.explained(find)


def _explained_machine(start: Json) -> Json:
    from .vm.timeline import CALLS

    def tell(one: Json) -> Json:
        phases = []
        for phase in one["phases"]:
            text, (file, _, function) = CALLS[phase["name"]][0], CALLS[phase["name"]][1].partition(":")
            code = {"file": f"vmcontainer_kernel/{file}", "line": 0, "function": function}
            phases.append({**phase, "calls": timelines.calls_of(text), "code": code})
        return {**one, "phases": phases}

    return placed({**tell(start), "earlier": [tell(one) for one in start["earlier"]]})


def placed(start: Json) -> Json:
    """Return an explained start with the lines of our code (`sources.located`)."""
    phases = [
        {**one, "code": located(one["code"], [call["call"] for call in one.get("calls", ())])} if "code" in one else one
        for one in start["phases"]
    ]
    return {**start, "phases": phases, "earlier": [placed(one) for one in start["earlier"]]}


def _same(one: Json, start: Json, time_s: float) -> bool:
    return bool(one["name"] == start["name"] and abs(one["time_s"] - time_s) < 0.001)


def _number(one: Started | Json) -> int:
    return int(one["number"]) if isinstance(one, dict) else one.number


def _is_known(one: Started | Json) -> bool:
    return isinstance(one, dict) or one.known
