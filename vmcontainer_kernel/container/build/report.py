"""What a build tells: a line for each step, the programs' own output, times."""

from __future__ import annotations

import os
import time

from vmcontainer_kernel.errors import UserError

__all__ = ["STYLES", "Report"]

STYLES = ("auto", "plain", "quiet")
"""``auto``: steps, output, times; ``plain``: without times, the same text each time; ``quiet``: the image only."""

_TAIL_BYTES = 4096
_SHOWN = 100


class Report:
    """Writes to a descriptor at once; keeps the end of a program's output for its error."""

    def __init__(self, fd: int, style: str, total: int) -> None:
        if style not in STYLES:
            raise UserError(f"--progress {style}: there is no such style", hint=f"there are: {' '.join(STYLES)}")
        self._fd, self._style, self._total = fd, style, total
        self._number, self._begin_s = 0, 0.0
        self._at_line_begin = True
        self.tail = b""

    def step(self, text: str, stage: str) -> None:
        """Begin a step; the text may have several lines."""
        self._number += 1
        first, *more = text.strip().splitlines() or [""]
        shown = first if len(first) <= _SHOWN and not more else f"{first[: _SHOWN - 2]} …"
        self._say(f"[{stage + ' ' if stage else ''}{self._number}/{self._total}] {shown}")
        self._begin_s, self.tail = time.monotonic(), b""

    def cached(self) -> None:
        """The step need not be done."""
        self._say(" CACHED\n")

    def busy(self) -> None:
        """The step is being done."""
        self._say("\n")

    def done(self) -> None:
        """The step that was busy is done."""
        if self._style == "auto":
            self._say(f"{'' if self._at_line_begin else chr(10)}    {time.monotonic() - self._begin_s:.2f} s\n")

    def output(self, data: bytes) -> None:
        """Pass on what a program wrote."""
        self.tail = (self.tail + data)[-_TAIL_BYTES:]
        self._at_line_begin = data.endswith(b"\n")
        if self._style != "quiet":
            _write(self._fd, data)

    def note(self, text: str) -> None:
        """Say something besides."""
        self._say(f"{text}\n")

    def result(self, name: str, digest: str, size_text: str) -> None:
        """Say which image it became."""
        text = digest if self._style == "quiet" else f"{name} {digest}, {size_text}"
        _write(self._fd, f"{text}\n".encode())

    def _say(self, text: str) -> None:
        self._at_line_begin = text.endswith("\n")
        if self._style != "quiet":
            _write(self._fd, text.encode(errors="replace"))


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
