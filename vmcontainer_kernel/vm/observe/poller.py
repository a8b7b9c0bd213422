"""One poller a machine, shared by all who look: it asks while somebody does, and tells each what changed.

    follow() ──first()──▶ {"kind": "hypervisor", …}
             ──next()───▶ {"set": {"/vcpus/0/cpu_s": 1.5}}      every period, only what differs from the last one told

Whoever takes longer than a period is told the changes of several at once: nothing is queued.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final

from ...delta import difference
from ...errors import LabError
from .asking import Json

__all__ = ["PERIOD_S", "Follower", "Poller"]

PERIOD_S: Final = 0.5
PARTS_EVERY: Final = 4

Look = Callable[[Iterable[str]], Awaitable[Json]]


class Follower:
    """One who looks: `document` is the view as last told."""

    def __init__(self, poller: Poller, parts: Iterable[str]) -> None:
        self.parts = frozenset(parts)
        self.document: Json = {}
        self._poller = poller

    async def next(self) -> Json:
        """Wait for the next view; return what changed since the last (`delta`), or, the first time, all of it.

        Raises what the look at the machine raised.
        """
        if not self.document:
            self.document = await self._poller.current(self.parts)
            return self.document
        new = await self._poller.newer(self.document["time_s"])
        kept = {part: value for part, value in new.get("parts", {}).items() if part in self.parts}
        new = {**new, "parts": kept} if kept else {key: value for key, value in new.items() if key != "parts"}
        change = difference(self.document, new)
        self.document = new
        return change


class Poller:
    """Looks at one machine every `period_s`, while it is followed."""

    def __init__(self, look: Look, period_s: float = PERIOD_S) -> None:
        """`look` makes a view, with the parts that are named."""
        self._look, self._period_s = look, period_s
        self._followers: set[Follower] = set()
        self._document: Json = {}
        self._parts: Json = {}
        self._error: LabError | None = None
        self._told = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()
        self._turn = 0

    @contextlib.asynccontextmanager
    async def follow(self, parts: Iterable[str] = ()) -> AsyncIterator[Follower]:
        """Look at the machine for as long as the context lasts; `parts` are renewed every fourth time."""
        follower = Follower(self, parts)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)
            if not self._followers and self._task:
                self._task.cancel()
                self._task = None

    async def current(self, parts: Iterable[str]) -> Json:
        """Return a view with these parts, made now."""
        async with self._looking:
            self._parts |= (document := await self._look(parts)).get("parts", {})
        if self._task is None:
            self._error = None
            self._task = asyncio.create_task(self._repeat())
        return document

    async def newer(self, time_s: float) -> Json:
        """Return a view that is newer than `time_s`."""
        async with self._told:
            await self._told.wait_for(lambda: self._error or self._document.get("time_s", time_s) > time_s)
        if self._error:
            raise self._error
        return self._document

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            self._turn += 1
            wanted = frozenset().union(*(one.parts for one in self._followers)) if self._turn % PARTS_EVERY == 0 else ()
            try:
                async with self._looking:
                    document = await self._look(wanted)
            except LabError as error:
                self._error = error
            else:
                self._parts |= document.get("parts", {})
                self._document = {**document, "parts": self._parts} if self._parts else document
            async with self._told:
                self._told.notify_all()
            if self._error:
                return
