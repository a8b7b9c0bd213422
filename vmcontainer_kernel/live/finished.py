"""The documents of a view that shows something finished, which can be asked for once more: an experiment.

act ─▶ Finished.replace(make) ─▶ {…, "running": phase} ─▶ {…, "running": phase} ─▶ the new document
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from ..errors import UserError
from .base import Json, Wanted

__all__ = ["Finished"]

Report = Callable[[str, float], None]


class Finished:
    """The latest document; lives on the session's event loop."""

    def __init__(self, document: Json) -> None:
        self.document = document
        self._changed = asyncio.Condition()
        self._busy = False
        self._tellings: set[asyncio.Task[None]] = set()

    async def documents(self, _wanted: Wanted) -> AsyncIterator[Json]:
        """Yield the document, and each that takes its place."""
        while True:
            told = self.document
            yield told
            async with self._changed:
                while self.document is told:
                    await self._changed.wait()

    async def replace(self, make: Callable[[Report], Awaitable[Json]]) -> None:
        """Show what `make` gives, and until then how far it is; one at a time. A failure leaves the document as it was.

        Raises UserError while another one is being made, and what `make` raises.
        """
        if self._busy:
            raise UserError("it runs already", hint="wait for its end")
        self._busy, before = True, self.document
        try:
            await self._show({**before, "running": "…"})
            await self._show(await make(self._report))
        except BaseException:
            await self._show(before)
            raise
        finally:
            self._busy = False

    def _report(self, phase: str, _fraction: float) -> None:
        if phase:
            telling = asyncio.ensure_future(self._tell(phase))
            self._tellings.add(telling)
            telling.add_done_callback(self._tellings.discard)

    async def _tell(self, phase: str) -> None:
        if self._busy and "running" in self.document:
            await self._show({**self.document, "running": phase})

    async def _show(self, document: Json) -> None:
        async with self._changed:
            self.document = document
            self._changed.notify_all()
