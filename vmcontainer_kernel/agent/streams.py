"""Byte streams of a request, with credit: what a process writes, what it reads, and files copied in and out."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from ..container.light import suppress
from ..errors import ProtocolError
from .protocol import CREDIT_AFTER, MAX_CHUNK, MAX_OUTPUT, WINDOW, Kind, encode, encode_credit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeAlias

    Splice: TypeAlias = Callable[[int, int, int, int], int]
else:
    Protocol = object

__all__ = ["Input", "Output", "Sink"]


_LARGE_PIPE_BYTES = 1 << 20  # what anybody may ask for (pipe(7), /proc/sys/fs/pipe-max-size)


class Sink(Protocol):
    """What keeps a copy of all that is read (`logs.Log`)."""

    def add(self, kind: int, data: bytes) -> None:
        """Take bytes of a stream."""


class Output:
    """Sends what can be read from `fd` as frames of `kind`, as far as the receiver's credit goes.

    A pipe's `fd` is watched by the server while there is credit; a regular file (which epoll(7) refuses) is pumped
    whenever credit arrives. Without `send` everything goes to the log alone, and needs no credit. `splice`, where it is
    set, sends what need not be read (`Channel.splice`).
    """

    def __init__(
        self,
        request: int,
        kind: int,
        fd: int,
        send: Callable[[bytes], None] | None,
        log: Sink | None = None,
        credit_bytes: int = WINDOW,
    ) -> None:
        self.request, self.kind, self.fd = request, kind, fd
        self.credit_bytes = credit_bytes
        self.open = True
        self.splice: Splice | None = None
        self._send = send
        self._log = log
        self._most_bytes = MAX_CHUNK
        self._tail_bytes: int | None = None
        self._ended = self._hung_up = False

    @property
    def hung_up(self) -> bool:
        """True after an error of reading: what came before it is not all there is."""
        return self._hung_up

    @property
    def wants_read(self) -> bool:
        """True while bytes may be read and sent."""
        return self.open and self.credit_bytes > 0 and not self._hung_up

    def pump(self) -> None:
        """Read once and send; at the end of the stream send an empty frame and close."""
        limit = min(self._most_bytes, self.credit_bytes)
        if self._tail_bytes is not None:
            limit = min(limit, self._tail_bytes)
        if self._most_bytes == MAX_OUTPUT and self._spliced(limit):
            return
        data = self._read(limit) if limit else b""
        if not data:
            if data is not None:
                self.close()
            return
        if len(data) == MAX_CHUNK == self._most_bytes:
            self._widen()
        if self._log:
            self._log.add(self.kind, data)
        if self._send:
            self.credit_bytes -= len(data)
            self._send(encode(self.kind, self.request, data))
        self._shorten(len(data))

    def _shorten(self, count: int) -> None:
        """Note that so much less is left of a program that has ended."""
        if self._tail_bytes is not None:
            self._tail_bytes -= count
            if not self._tail_bytes:
                self.close()

    def _spliced(self, limit: int) -> bool:
        """Have what lies in the pipe sent without reading it; False if it must be read."""
        if self.splice is None or self._log or not self._send:
            return False
        count = self.splice(self.kind, self.request, self.fd, limit)
        self.credit_bytes -= count
        if count:
            self._shorten(count)
        return count > 0

    def _widen(self) -> None:
        """Give a program that fills its pipe a larger one, and read more at once: in an emulated guest each of our own
        steps costs more than the bytes it carries. Not before: a larger buffer costs those who write little.
        """
        self._most_bytes = MAX_OUTPUT
        with suppress(OSError):  # no pipe, or its user has too much in pipes
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, _LARGE_PIPE_BYTES)

    def _read(self, limit: int) -> bytes | None:
        """Read once; return nothing at the end, None if there is nothing now."""
        try:
            return os.read(self.fd, limit)
        except BlockingIOError:
            return None
        except OSError:  # EIO: nobody has the other side of a pty open, pty(7)
            if self._ended:
                return b""
            self._hung_up = True  # closing ours now would end the process by SIGHUP
            return None

    def end_after_pending(self) -> None:
        """The process ended: send what it left in the pipe; whoever inherited the pipe does not hold the request up.

        A terminal is hung up when the leader of its session ends (credentials(7)), and what the kernel has not yet
        passed to our side would not be counted: it is read until that end.
        """
        self._ended = True
        if not self.open:
            return
        if os.isatty(self.fd):
            if self._hung_up:
                self.close()
            return
        try:
            pending = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, b"\0" * 4))[0]
        except OSError:
            pending = 0
        self._tail_bytes = pending
        if not pending:
            self.close()

    def close(self) -> None:
        """Send the end-of-stream frame and close the descriptor; once."""
        if self.open:
            self.open = False
            os.close(self.fd)
            self.fd = -1
            if self._send:
                self._send(encode(self.kind, self.request))


class Input:
    """Writes STDIN frames to `fd`, `end` after the last one, and gives the sender credit for what was taken."""

    def __init__(self, request: int, fd: int, send: Callable[[bytes], None], end: bytes = b"") -> None:
        self.request, self.fd = request, fd
        self.open = True
        self.written_bytes = 0
        self._end = end
        self._ending = False
        self._owed_bytes = 0
        self._pending = bytearray()
        self._send = send

    @property
    def wants_write(self) -> bool:
        """True while bytes wait for room in the pipe."""
        return self.open and bool(self._pending)

    @property
    def room_bytes(self) -> int:
        """How much may wait for room in the pipe besides what does already."""
        return WINDOW - len(self._pending)

    def feed(self, data: bytes) -> None:
        """Take one STDIN frame; an empty one is the end."""
        if not self.open:
            return
        if len(data) > self.room_bytes:
            raise ProtocolError(f"request {self.request} was sent more than its credit of {WINDOW} bytes")
        if data:
            self._pending += data
        elif not self._ending:
            self._ending = True
            self._pending += self._end
        self.pump()

    def pump(self) -> None:
        """Write what the descriptor takes now."""
        try:
            count = os.write(self.fd, self._pending) if self._pending else 0
        except BlockingIOError:
            return
        except OSError as error:  # EPIPE: nobody reads any more; ENOSPC: a file's disk is full
            self.close(error)
            return
        del self._pending[:count]
        self.written_bytes += count
        self._owed_bytes += count
        if self._owed_bytes >= CREDIT_AFTER:
            self._send(encode_credit(self.request, Kind.STDIN, self._owed_bytes))
            self._owed_bytes = 0
        if self._ending and not self._pending:
            self.close()

    def close(self, error: OSError | None = None) -> None:
        """Close the descriptor; once."""
        if self.open:
            self.open = False
            self.error = error
            os.close(self.fd)
            self.fd = -1

    error: OSError | None = None
