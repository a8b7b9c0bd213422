"""The guest's serial console: read as it comes, its end kept in memory, a bounded log on disk."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["Console", "last_words", "readable"]

KEPT_BYTES = 64 << 10
EARLY_LINES = 200  # Xen alone has ninety, before the kernel in its first domain begins
LINE_BYTES = 200
FILE_LIMIT_BYTES = 1 << 20


def last_words(lines: Sequence[str], count: int) -> Sequence[str]:
    """Choose `count` lines that tell most: a panic's message comes first and a long trace of calls follows it."""
    panic = next((index for index, line in enumerate(lines) if "Kernel panic - not syncing" in line), len(lines))
    return lines[min(panic, max(len(lines) - count, 0)) :][:count]


def readable(data: bytes) -> str:
    """Return a terminal's bytes as plain lines: what moves the cursor to another row begins a new one, what colours is
    left out.

    Control sequences are those of ECMA-48, 5.4.
    """
    row = ""

    def moved(place: re.Match[str]) -> str:
        nonlocal row
        before, row = row, place[1] or "1"
        return "" if row.lstrip("0") == before.lstrip("0") else "\n"

    text = re.sub(r"\x1b\[([0-9]*)(?:;[0-9]*)?[Hf]", moved, data.decode("utf-8", "replace").replace("\r", ""))
    text = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]", "", text)
    return "".join(char for char in text if char.isprintable() or char in "\t\n")


class Console:
    """Reads one console socket on the running event loop until QEMU ends.

    The log never grows beyond 1 MiB: it then starts again with the last 64 KiB. A guest that floods its console is
    slowed by its own emulated serial port, not remembered. `early`: its first lines and when they came.
    """

    def __init__(self, sock: socket.socket, path: Path) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._file = path.open("wb", buffering=0)
        self._written = 0
        self._kept = bytearray()
        self.early: list[tuple[float, bytes]] = []
        self._line = b""
        self._total_bytes = 0
        self._listeners: list[Callable[[bytes], None]] = []
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._read)

    def _read(self) -> bool:
        """Take what is there, once for each wake-up, so that a flood does not occupy the loop; False if nothing is."""
        try:
            data = self._socket.recv(KEPT_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        if len(self.early) < EARLY_LINES:
            self._note(data)
        self._kept += data
        self._total_bytes += len(data)
        del self._kept[:-KEPT_BYTES]
        for listener in list(self._listeners):
            listener(data)
        # A full disk costs the log, not the machine.
        with contextlib.suppress(OSError):
            self._log(data)
        return True

    def _note(self, data: bytes) -> None:
        *lines, rest = (self._line + data).split(b"\n")
        self.early += [(time.monotonic(), line[:LINE_BYTES]) for line in lines[: EARLY_LINES - len(self.early)]]
        self._line = rest[:LINE_BYTES]

    def _log(self, data: bytes) -> None:
        if self._written + len(data) > FILE_LIMIT_BYTES:
            self._file.seek(0)
            self._file.truncate()
            self._written, data = 0, bytes(self._kept)
        self._file.write(data)
        self._written += len(data)

    def listen(self, listener: Callable[[bytes], None]) -> Callable[[], None]:
        """Call `listener` with what comes, and with nothing at the end; return what stops that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def since(self, position: int) -> tuple[bytes, int]:
        """Return what has come after a position (0: the beginning) and is still kept, and the next position."""
        wanted = min(max(self._total_bytes - position, 0), len(self._kept))
        return bytes(self._kept[len(self._kept) - wanted :]), self._total_bytes

    @property
    def ended(self) -> bool:
        """Whether nothing more can come."""
        return self._file.closed

    async def type(self, data: bytes) -> None:
        """Send bytes to the guest's serial port; waits while its buffer is full."""
        if not self.ended:
            await self._loop.sock_sendall(self._socket, data)

    def tail(self, lines: int) -> str:
        """Return the last lines without control characters, or the first lines of a panic, which say more."""
        shown = readable(bytes(self._kept)).splitlines()
        return "\n".join(last_words([line for line in shown if line.strip()], lines))

    def prepend(self, earlier: Console) -> None:
        """Remember what a console said before this one took its guest over."""
        self._kept[:0] = earlier._kept
        del self._kept[:-KEPT_BYTES]

    def drain(self) -> None:
        """Read what is left of a QEMU that has ended, then close."""
        while not self._file.closed and self._read():
            pass
        self.close()

    def close(self) -> None:
        """Stop reading; the log stays."""
        if not self._file.closed:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._file.close()
            for listener in list(self._listeners):
                listener(b"")
