"""The far ends of a terminal: a program on a pseudo-terminal of a node or in a container, or a machine's serial port.

Shell ── exec, or container.exec, with a tty; resize; hangup ──▶ agent          Serial ──▶ QEMU's console socket
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from ..agent.protocol import Kind
from ..node import Node, Request
from ..session import Session
from .scroll import WINDOW_BYTES

__all__ = ["OnData", "Serial", "Shell", "Source"]

HANGUP_S: Final = 2.0

OnData = Callable[[bytes], None]


class Source(Protocol):
    """Where a terminal's bytes come from and go to. `held`: it waits until `consumed` has been told."""

    held: bool

    async def start(self, on_data: OnData, rows: int, columns: int) -> None:
        """Begin; `on_data` is given what comes."""

    def consumed(self, count: int) -> None:
        """So many bytes have been taken."""

    async def feed(self, data: bytes) -> None:
        """Send keys; waits while they are not taken."""

    async def resize(self, rows: int, columns: int) -> None:
        """Say how large the window is, where that can be said."""

    async def wait(self) -> dict[str, Any]:
        """Wait for its end and return what the view's document says of it."""

    async def close(self) -> None:
        """End what runs in it."""


class Shell:
    """A program on a pseudo-terminal of a node, or of a container on it."""

    held = True

    def __init__(self, find: Callable[[], Awaitable[Node]], verb: str, arguments: Mapping[str, Any]) -> None:
        self._find, self._verb, self._arguments = find, verb, arguments
        self._request: Request | None = None
        self._closed = False

    async def start(self, on_data: OnData, rows: int, columns: int) -> None:
        """Start the program; the size is the first thing it can ask for."""
        node = await self._find()

        def take(stream: int, data: bytes) -> None:
            if self._closed:
                self.consumed(len(data))
            else:
                on_data(data)

        arguments = {**self._arguments, "stdin": True}
        self._request = node.start(self._verb, arguments, on_data=take, window_bytes=WINDOW_BYTES)
        await self.resize(rows, columns)

    def consumed(self, count: int) -> None:
        """Let the agent send more."""
        if self._request:
            self._request.consumed(Kind.STDOUT, count)

    async def feed(self, data: bytes) -> None:
        """Send keys."""
        if self._request:
            await self._request.feed(data)

    async def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size (ioctl_tty(2), TIOCSWINSZ)."""
        if self._request and not self._request.done.done():
            await self._request.node.call("resize", request=self._request.number, rows=rows, columns=columns)

    async def wait(self) -> dict[str, Any]:
        """Return its exit status."""
        assert self._request is not None
        return {"status": int((await asyncio.shield(self._request.done))["status"])}

    async def close(self) -> None:
        """Hang up; what does not listen is killed."""
        self._closed = True
        request = self._request
        if request is None or request.done.done():
            return
        self.consumed(WINDOW_BYTES)
        for force in (False, True):
            await request.node.call("hangup", request=request.number, force=force)
            await asyncio.wait([request.done], timeout=HANGUP_S)
            if request.done.done():
                return


class Serial:
    """The first serial port of a machine: it is there already, and stays."""

    held = False

    def __init__(self, session: Session, name: str) -> None:
        self._session, self._name = session, name
        self._ended = asyncio.Event()
        self._close: Callable[[], None] = lambda: None

    async def start(self, on_data: OnData, rows: int, columns: int) -> None:
        """Show what the port has said, and say what it says."""
        self._console = console = self._session.machines.guest(self._name).machine.console
        on_data(console.since(0)[0])

        def heard(data: bytes) -> None:
            if data:
                on_data(data)
            else:
                self._ended.set()

        self._close = console.listen(heard)
        if console.ended:
            self._ended.set()

    def consumed(self, count: int) -> None:
        """Nothing: QEMU's emulated port is read as fast as it writes."""

    async def feed(self, data: bytes) -> None:
        """Send keys to the port; those of one that is gone are lost, as its end is told."""
        with contextlib.suppress(OSError):
            await self._console.type(data)

    async def resize(self, rows: int, columns: int) -> None:
        """Nothing: a serial line does not carry a size."""

    async def wait(self) -> dict[str, Any]:
        """Wait until QEMU has ended."""
        await self._ended.wait()
        return {"status": None}

    async def close(self) -> None:
        """Listen no more."""
        self._close()
