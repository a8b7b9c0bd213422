"""The agent's end of the byte stream: whole frames in, whole frames out, descriptors beside them on a socket.

A channel never blocks. What cannot be written at once is queued; the queue stays small because every stream has a
credit (`protocol.WINDOW`) and control frames are answers to questions.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

from ..container.light import suppress
from .protocol import MAX_OUTPUT, Decoder, Frame, encode_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

__all__ = ["Channel"]

# Below malloc's mmap threshold (mallopt(3), 128 KiB): a larger buffer would be mapped and unmapped for each read.
_READ_SIZE = 64 * 1024
_MAX_FDS = 64
_PART_BYTES = 32 * 1024  # of one write to a virtio-serial port (drivers/char/virtio_console.c); writev(2) makes many


class Channel:
    """A non-blocking frame stream over a descriptor; `passes_fds` is true on a Unix socket."""

    def __init__(self, fd: int, *, passes_fds: bool) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._socket = _socket_of(fd) if passes_fds else None
        self._decoder = Decoder()
        self._queue: list[list[memoryview]] = []
        self._half_sent = False
        self._pipe: tuple[int, int] | None = None
        self.fds: list[int] = []  # received, not yet claimed by a CALL

    def read(self) -> Iterator[Frame] | None:
        """Return the frames that arrived, or None at end of file."""
        try:
            data = self._receive()
        except BlockingIOError:
            return iter(())
        except OSError as error:
            if error.errno in (errno.ECONNRESET, errno.EPIPE):
                return None
            raise
        return self._decoder.feed(data) if data else None

    def _receive(self) -> bytes:
        if self._socket is None:
            return os.read(self.fd, _READ_SIZE)
        import socket

        data, fds, _flags, _address = socket.recv_fds(self._socket, _READ_SIZE, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        self.fds.extend(fds)
        return data

    def claim_fds(self, count: int) -> list[int]:
        """Take the descriptors that travelled with the CALL being handled; unix(7) keeps their order with the bytes."""
        return [self.fds.pop(0) for _ in range(min(count, len(self.fds)))]

    def write(self, data: bytes) -> None:
        """Write as much as goes now and queue the rest."""
        self._queue.append(_parts(data))
        if len(self._queue) == 1:
            self.flush()

    def splice(self, kind: int, request: int, pipe: int, limit: int) -> int:
        """Write up to `limit` bytes of a non-blocking pipe as a frame; return how many, 0 if it must be read instead.

        A virtio port takes over the pages of a pipe (splice(2), drivers/char/virtio_console.c); to read and to write
        them costs an emulated guest twice what it cost their program to write them. They go by a pipe of our own: the
        driver puts as many buffers on its queue as the pipe has, of no length those that it was not asked for, and at
        one such QEMU gives the device up; a program may write at any time, and may read what it has written.
        """
        if self._queue:
            return 0
        try:
            count = os.splice(pipe, self._aside()[1], limit, flags=os.SPLICE_F_NONBLOCK)
        except OSError:
            return 0
        if not count:
            return 0
        self.write(encode_header(kind, request, count))
        left = count
        with suppress(OSError):
            while left and not self._queue and (moved := os.splice(self._aside()[0], self.fd, left)):
                left -= moved
        if left:
            self._go_on(self._taken_back(left))
        return count

    def _go_on(self, data: bytes) -> None:
        """Write the rest of a frame whose beginning is sent, or waits."""
        if self._queue:
            self._queue[-1] += _parts(data)
        else:
            self._queue.append(_parts(data))
            self._half_sent = True
        self.flush()

    def _aside(self) -> tuple[int, int]:
        if self._pipe is None:
            self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            fcntl.fcntl(self._pipe[1], fcntl.F_SETPIPE_SZ, MAX_OUTPUT)
        return self._pipe

    def _taken_back(self, count: int) -> bytes:
        """Read what the port does not take now."""
        data = b""
        with suppress(BlockingIOError):
            while len(data) < count:
                data += os.read(self._aside()[0], count - len(data))
        if len(data) < count:  # the driver lets go of what it finds no memory for to send
            print(f"agent: {count - len(data)} bytes of output are lost: is there no memory?", file=sys.stderr)
        return data.ljust(count, b"\0")

    def flush(self) -> None:
        """Write queued bytes until the descriptor would block; a peer that is gone swallows them."""
        while self._queue:
            parts = self._queue[0]
            try:
                count = os.writev(self.fd, parts)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    raise
                self._queue.clear()
                return
            while parts and count >= len(parts[0]):
                count -= len(parts[0])
                del parts[0]
            self._half_sent = bool(parts)
            if parts:
                parts[0] = parts[0][count:]
            else:
                del self._queue[0]

    @property
    def blocked(self) -> bool:
        """True while bytes wait for the descriptor to become writable."""
        return bool(self._queue)

    def restart(self) -> None:
        """Forget unsent answers: the peer began anew with HELLO. A frame that is half sent goes out whole."""
        while len(self._queue) > (1 if self._half_sent else 0):
            self._queue.pop()


def _parts(data: bytes) -> list[memoryview]:
    whole = memoryview(data)
    return [whole[at : at + _PART_BYTES] for at in range(0, len(data), _PART_BYTES)]


def _socket_of(fd: int) -> socket.socket:
    import socket  # a guest's stream is none

    return socket.socket(fileno=fd)
