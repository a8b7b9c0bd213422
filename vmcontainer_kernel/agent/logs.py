"""What came out of a container, kept up to a limit, and those who read it: once, or for as long as it goes on.

    Output ──add──▶ Log (the last bytes, each with stream and time) ──▶ Follower ── STDOUT, STDERR frames, by credit

A follower that is slower than the container does not hold it up: it misses what the log no longer has, and says so.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable
from typing import Any

from .protocol import MAX_CHUNK, WINDOW, Kind, encode, encode_json
from .transfer import Transfer

__all__ = ["LIMIT_BYTES", "Follower", "Log"]

LIMIT_BYTES = 256 * 1024
_MERGE_BYTES = 4096
_MERGE_S = 0.1


class Chunk:
    """Bytes of one stream that came at about one time; `start`: how many bytes had come before."""

    __slots__ = ("data", "kind", "start", "time_s")

    def __init__(self, start: int, time_s: float, kind: int, data: bytes) -> None:
        self.start, self.time_s, self.kind, self.data = start, time_s, kind, bytearray(data)


class Log:
    """The last bytes that came out of something."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._chunks: list[Chunk] = []
        self.end = 0
        self.followers: list[Follower] = []

    @property
    def dropped_bytes(self) -> int:
        """How many bytes are no longer kept."""
        return self._chunks[0].start if self._chunks else self.end

    def add(self, kind: int, data: bytes) -> None:
        """Append, dropping the oldest bytes beyond the limit, and let the followers go on."""
        now_s = time.time()
        last = self._chunks[-1] if self._chunks else None
        if last and last.kind == kind and now_s - last.time_s < _MERGE_S and len(last.data) < _MERGE_BYTES:
            last.data += data
        else:
            self._chunks.append(Chunk(self.end, now_s, kind, data))
        self.end += len(data)
        self._trim()
        for follower in (*self.followers,):
            follower.pump()

    def _trim(self) -> None:
        excess = self.end - self.dropped_bytes - self._limit_bytes
        whole = 0
        while excess > 0 and excess >= len(self._chunks[whole].data):
            excess -= len(self._chunks[whole].data)
            whole += 1
        del self._chunks[:whole]
        if excess > 0:
            del self._chunks[0].data[:excess]
            self._chunks[0].start += excess

    def read(self, position: int, limit_bytes: int) -> tuple[int, int, bytes]:
        """Return (position, kind, bytes) of what comes next after `position`; no bytes at the end."""
        position = max(position, self.dropped_bytes)
        at = bisect.bisect_right(self._chunks, position, key=lambda chunk: chunk.start) - 1
        if position >= self.end or at < 0:
            return position, Kind.STDOUT, b""
        chunk = self._chunks[at]
        offset = position - chunk.start
        return position, chunk.kind, bytes(chunk.data[offset : offset + limit_bytes])

    def position(self, *, tail_lines: int | None = None, since_s: float | None = None) -> int:
        """Return where to begin reading: the last lines, what came since a time (seconds of the epoch), or all."""
        begin = self.dropped_bytes
        if since_s is not None:
            begin = next((chunk.start for chunk in self._chunks if chunk.time_s >= since_s), self.end)
        if tail_lines is None:
            return begin
        text = b"".join(chunk.data for chunk in self._chunks)
        at = len(text)
        # The end of the last line counts as part of it.
        at -= text.endswith(b"\n")
        for _ in range(tail_lines):
            at = text.rfind(b"\n", 0, at)
            if at < 0:
                return begin
        return max(begin, self.dropped_bytes + at + 1) if tail_lines else self.end

    def text(self) -> str:
        """Return what is kept, as text; bytes that are no UTF-8 show as U+FFFD."""
        return b"".join(chunk.data for chunk in self._chunks).decode("utf-8", "replace")


class Follower(Transfer):
    """A request that is sent a log from `position` on; with `follow`, until `finish` is called.

    `feed_to`: takes what the request sends to the container's standard input.
    """

    def __init__(
        self,
        request: int,
        log: Log,
        send: Callable[[bytes], None],
        done: Callable[[], None],
        *,
        position: int,
        follow: bool,
        feed_to: Callable[[bytes], None] | None = None,
    ) -> None:
        self.request = request
        self._log, self._send, self._done = log, send, done
        self._position = position
        self._credit_bytes = WINDOW  # of both streams together
        self._end = None if follow else log.end
        self._answer: dict[str, Any] = {"status": 0, "dropped_bytes": log.dropped_bytes}
        self._feed_to = feed_to
        log.followers.append(self)

    def feed(self, payload: bytes) -> None:
        """Pass a STDIN frame on."""
        if self._feed_to:
            self._feed_to(payload)

    def credit(self, count: int) -> None:
        """Send more."""
        self._credit_bytes += count
        self.pump()

    def pump(self) -> None:
        """Send what there is, as far as the credit goes; at the end, answer."""
        while self._credit_bytes > 0:
            end = self._log.end if self._end is None else self._end
            position, kind, data = self._log.read(self._position, min(MAX_CHUNK, self._credit_bytes))
            self._tell_gap(position - self._position)
            self._position = position
            data = data[: max(0, end - position)]
            if not data:
                break
            self._position += len(data)
            self._credit_bytes -= len(data)
            self._send(encode(kind, self.request, data))
        if self._end is not None and self._position >= self._end:
            self.close()
            self._done()
            self._send(encode_json(Kind.REPLY, self.request, self._answer))

    def _tell_gap(self, missed_bytes: int) -> None:
        if missed_bytes > 0:
            note = f"\n[{missed_bytes} bytes came faster than they were read, and are not kept]\n".encode()
            self._credit_bytes -= len(note)
            self._send(encode(Kind.STDERR, self.request, note))

    def finish(self, answer: dict[str, Any]) -> None:
        """Nothing more will come: answer when all was sent."""
        self._answer |= answer
        if self._end is None:
            self._end = self._log.end
        self.pump()

    def close(self) -> None:
        """Read no longer; the log goes on without it."""
        if self in self._log.followers:
            self._log.followers.remove(self)

    def abandon(self) -> None:
        """The conversation began anew."""
        self.close()
