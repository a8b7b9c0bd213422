"""Things to be done later in the agent's loop: an ordered list that the loop looks at before it waits."""

from __future__ import annotations

import heapq
import itertools
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Timer", "Timers"]


class Timer:
    """One action at one moment of the monotonic clock; `cancel` is allowed at any time."""

    def __init__(self, due_s: float, action: Callable[[], None]) -> None:
        self.due_s, self.action = due_s, action
        self.cancelled = False

    def cancel(self) -> None:
        """Let it not happen."""
        self.cancelled = True


class Timers:
    """Every timer that is set, the next one first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()

    def after(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Do `action` once, `delay_s` from now."""
        timer = Timer(time.monotonic() + delay_s, action)
        heapq.heappush(self._heap, (timer.due_s, next(self._numbers), timer))
        return timer

    def patience_s(self) -> float | None:
        """Return how long the loop may wait, None for ever."""
        while self._heap and self._heap[0][2].cancelled:
            heapq.heappop(self._heap)
        return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None

    def due(self) -> Iterator[Callable[[], None]]:
        """Take out what is to be done now; what these actions set is due at the next look at the earliest."""
        now_s = time.monotonic()
        taken = []
        while self._heap and self._heap[0][0] <= now_s:
            taken.append(heapq.heappop(self._heap)[2])
        return (timer.action for timer in taken if not timer.cancelled)
