"""What the agent keeps beside each container of the runtime: its log, its job, who waits for its end, its timers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..container.container import Container
from ..errors import NotFound
from .jobs import Job
from .logs import Log
from .timers import Timer

__all__ = ["Keeper", "Kept"]


class Kept:
    """One container's: `stopping` is set while somebody has asked for its end, so that it is not started again; a
    `provisional` one is removed if its first start fails.

    `ended` are told the answer of its first process when that has ended and its output was read; each once.
    """

    def __init__(self, container: Container, *, one_shot: bool = False, provisional: bool = False) -> None:
        self.container = container
        self.one_shot = one_shot
        self.provisional = provisional
        self.log = Log()
        self.job: Job | None = None
        self.stopping = False
        self.ended: list[Callable[[dict[str, Any]], None]] = []
        self.timers: dict[str, Timer] = {}
        self.health: list[dict[str, Any]] = []
        self.failing_streak = 0

    def set_timer(self, name: str, timer: Timer) -> None:
        """Keep a timer, instead of an older one of that name."""
        self.cancel(name)
        self.timers[name] = timer

    def cancel(self, *names: str) -> None:
        """Cancel timers; without names, all."""
        for name in names or (*self.timers,):
            if timer := self.timers.pop(name, None):
                timer.cancel()


class Keeper:
    """All of them, by name."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}

    def add(self, kept: Kept) -> Kept:
        """Keep one more."""
        self._kept[kept.container.name] = kept
        return kept

    def get(self, name: str) -> Kept:
        """Return one by name; raise `NotFound` with those there are."""
        try:
            return self._kept[name]
        except KeyError:
            names = ", ".join(sorted(self._kept)) or "none"
            raise NotFound(f"there is no container {name} on this node", hint=f"there are: {names}") from None

    def find(self, name: str) -> Kept | None:
        """Return one by name, or None."""
        return self._kept.get(name)

    def drop(self, name: str) -> None:
        """Forget one, and what it waits for."""
        kept = self._kept.pop(name, None)
        if kept:
            kept.cancel()

    def all(self) -> list[Kept]:
        """Return all, oldest first."""
        return [*self._kept.values()]
