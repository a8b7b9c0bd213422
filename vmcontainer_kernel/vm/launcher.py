"""Who starts QEMU for a machine, as the machine sees it: the host agent, through the session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Launcher", "Spawned", "log_tail"]


class Spawned(Protocol):
    """A QEMU that somebody started for us.

    `warnings`: what holds it less tightly than it should; `struck`: once it has ended, how often each limit struck.
    """

    pid: int
    warnings: tuple[str, ...]
    struck: dict[str, int]

    async def wait(self) -> int:
        """Return the exit status once it has ended; ``-N`` for signal N."""

    async def kill(self) -> None:
        """Send SIGKILL."""


class Launcher(Protocol):
    """Who starts QEMU."""

    async def spawn(
        self, argv: Sequence[str], *, fds: Sequence[int] = (), log: Path, cage: Mapping[str, Any] | None = None
    ) -> Spawned:
        """Start a program: ``fds[i]`` becomes its descriptor ``FIRST_FD + i``, its output goes to the file `log`.

        `cage` is how it is to be held (`resources.cage`).
        """


def log_tail(path: Path, lines: int = 5) -> str:
    """Return the last lines that QEMU wrote."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
