"""Files copied to and from a node, as the stdin or stdout of a request that has no process."""

from __future__ import annotations

import os
import stat

from ..container.light import suppress
from ..errors import NodeError, NotFound, to_json
from .protocol import WINDOW, Kind, encode_json
from .streams import Input, Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Get", "Put", "Transfer"]


class Transfer:
    """A request that reads or writes a file; `done` removes it from the server's table."""

    def feed(self, payload: bytes) -> None:
        """Take a STDIN frame."""

    def credit(self, count: int) -> None:
        """Take a CREDIT frame."""

    def abandon(self) -> None:
        """The conversation began anew: close, and leave no half file."""


class Put(Transfer):
    """Writes a file beside its destination and renames it when it is whole (rename(2) is atomic)."""

    def __init__(
        self, request: int, path: str, mode: int, send: Callable[[bytes], None], done: Callable[[], None]
    ) -> None:
        self._path, self._part = path, f"{path}.part-{request}"
        self._request, self._send, self._done = request, send, done
        try:
            fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        except OSError as error:
            raise NodeError(f"{path} cannot be written: {error.strerror}", hint="does its folder exist?") from error
        self._input = Input(request, fd, send)

    def feed(self, payload: bytes) -> None:
        """Write; at the end rename and answer."""
        self._input.feed(payload)
        if self._input.open:
            return
        error = self._input.error
        if error is None:
            try:
                os.rename(self._part, self._path)  # noqa: PTH104 - `pathlib` is imported late: see `guest`
            except OSError as failure:
                error = failure
        if error:
            self.abandon()
            self._answer(Kind.ERROR, {"error": "NodeError", "message": f"{self._path}: {error.strerror}"})
        else:
            self._answer(Kind.REPLY, {"size": self._input.written_bytes})

    def _answer(self, kind: int, document: dict[str, Any]) -> None:
        self._done()
        self._send(encode_json(kind, self._request, document))

    def abandon(self) -> None:
        """Remove the part."""
        self._input.close()
        with suppress(FileNotFoundError):
            os.unlink(self._part)  # noqa: PTH108


class Get(Transfer):
    """Reads a regular file as STDOUT frames."""

    def __init__(self, request: int, path: str, send: Callable[[bytes], None], done: Callable[[], None]) -> None:
        self._request, self._path, self._send, self._done = request, path, send, done
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFound(f"there is no file {path} on this node", hint="paths are the node's own") from None
        except OSError as error:
            raise NodeError(f"{path} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise NodeError(f"{path} is no regular file", hint="only the content of files can be copied")
        self._output = Output(request, Kind.STDOUT, fd, send)

    def start(self) -> None:
        """Send the first window."""
        self.credit(0)

    def credit(self, count: int) -> None:
        """Send as much as may be under way; after the last byte, answer."""
        self._output.credit_bytes = min(self._output.credit_bytes + count, WINDOW)
        while self._output.wants_read:
            before = self._output.credit_bytes
            self._output.pump()
            if self._output.open and self._output.credit_bytes == before:  # some of /proc would wait: kmsg, proc(5)
                self._output.close()
        if not self._output.open:
            self._done()
            self._send(self._answer())

    def _answer(self) -> bytes:
        if not self._output.hung_up:
            return encode_json(Kind.REPLY, self._request, {})
        error = NodeError(f"{self._path} cannot be read to its end: the kernel told an I/O error")
        return encode_json(Kind.ERROR, self._request, to_json(error))

    def abandon(self) -> None:
        """Close the file."""
        if self._output.open:
            os.close(self._output.fd)
            self._output.open = False
