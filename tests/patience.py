"""A clock for limits that were chosen on a quiet computer: it goes slower while programs have to wait for a processor.

    began_s = now_s()
    ...
    assert now_s() - began_s < 2  # two seconds; more where others keep the computer busy

The kernel counts for how long anything that was ready to run had to wait for a processor, or for a disk (PSI,
`/proc/pressure`), and for how long a hypervisor let other machines run (*steal*, proc_stat(5)). Of such seconds a tenth
passes here. On a quiet computer it is the ordinary clock; so it is where the kernel counts nothing.

For limits from above only: that something did *not* end too early is measured with `time.monotonic`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Clock", "now_s"]

HINDERED_PACE = 0.1
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def waited_s(proc: Path = Path("/proc")) -> float:
    """Return for how many seconds since the start some program here had to wait, as far as the kernel counts them."""
    total_s = 0.0
    for what in ("cpu", "io"):
        with contextlib.suppress(OSError):  # a kernel without PSI
            some = (proc / "pressure" / what).read_text().partition("\n")[0]
            total_s += int(some.rpartition("total=")[2]) / 1e6
    steal = (proc / "stat").read_text().split(maxsplit=9)[8]
    return total_s + int(steal) / TICKS_PER_S


class Clock:
    """A clock that goes on at a tenth of the pace while programs wait."""

    def __init__(self, waited_s: Callable[[], float] = waited_s, true_s: Callable[[], float] = time.monotonic) -> None:
        self._waited_s, self._true_s = waited_s, true_s
        self._seen_s, self._shown_s = (true_s(), waited_s()), 0.0
        self._lock = threading.Lock()

    def now_s(self) -> float:
        """Return the seconds since some moment."""
        with self._lock:
            before, self._seen_s = self._seen_s, (self._true_s(), self._waited_s())
            passed_s, waited_s = (new - old for new, old in zip(self._seen_s, before, strict=True))
            # One may wait for a disk while another waits for a processor: the sum can be more than has passed.
            self._shown_s += passed_s - (1 - HINDERED_PACE) * max(0.0, min(passed_s, waited_s))
            return self._shown_s


now_s = Clock().now_s
