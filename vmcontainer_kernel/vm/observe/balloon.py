"""The guest's own memory statistics, as its balloon driver tells them to QEMU."""

from __future__ import annotations

import contextlib
from typing import Final

from ...errors import MachineError
from .asking import Answers, Execute, Question, ask

__all__ = ["STATISTICS", "BalloonStatistics"]

STATISTICS: Final = "guest-stats"
_PATH: Final = "/machine/peripheral/balloon"
_INTERVAL_S: Final = 4  # a view that is renewed twice a second reads them as often (`observer`)
_QUESTION: Final = Question(STATISTICS, "qom-get", {"path": _PATH, "property": STATISTICS})


class BalloonStatistics:
    """The guest's memory statistics, asked for only while somebody looks.

    QEMU's balloon device polls its guest at an interval, which would keep an idle guest awake; so a view switches
    polling on (`read`), and it is switched off (`rest`) when no view was asked for in a while.
    """

    def __init__(self) -> None:
        self.polling = False

    async def read(self, execute: Execute, answers: Answers) -> None:
        """Keep the statistics that are there and see to it that there will be newer ones."""
        if not self.polling:
            with contextlib.suppress(MachineError):
                await self._poll(execute, _INTERVAL_S)
        await ask(execute, [_QUESTION], answers)

    async def rest(self, execute: Execute) -> None:
        """Stop polling: nobody looks."""
        with contextlib.suppress(MachineError):
            await self._poll(execute, 0)

    async def _poll(self, execute: Execute, interval_s: int) -> None:
        self.polling = interval_s > 0
        await execute("qom-set", path=_PATH, property="guest-stats-polling-interval", value=interval_s)
