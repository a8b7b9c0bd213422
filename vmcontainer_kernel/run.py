"""A command under way on some node, as the notebook's main thread sees it.

    event loop thread                          main thread (or whoever reads)
      Request.on_data ──▶ queue ──────────────▶ for stream, data in run.chunks(): write
      Request.done    ──▶ END                   run.interrupt()  first SIGINT, then SIGKILL

The reader gives the agent credit for what it has read, so a flood waits in the node and not in the notebook's memory.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from .agent.protocol import CREDIT_AFTER, Kind
from .errors import CommandFailed, LabError, NodeLost, ProtocolError
from .messages import say
from .node import Request

__all__ = ["STDERR", "STDOUT", "Captured", "Run"]

STDOUT, STDERR = Kind.STDOUT, Kind.STDERR
_KILL_GRACE_S = 2.0
_MOST_EVENTS = 1000
_CREDIT_AFTER = CREDIT_AFTER // 2  # with what `Request` holds back, well below the window
_END = None

Start = Callable[["Run"], Coroutine[Any, Any, Request]]


class Captured:
    """What came out of a stream: the first `limit_bytes` of it, and how much more there was."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self.kept_bytes = 0
        self.dropped_bytes = 0

    def add(self, data: bytes) -> None:
        """Keep what fits."""
        room = self._limit_bytes - self.kept_bytes
        self.dropped_bytes += max(0, len(data) - room)
        if room > 0:
            self._parts.append(data[:room])
            self.kept_bytes += len(self._parts[-1])

    def data(self) -> bytes:
        """Return what was kept."""
        return b"".join(self._parts)

    def text(self) -> str:
        """Return it as text: U+FFFD for what is no UTF-8, and a marker where something was dropped."""
        text = self.data().decode("utf-8", "replace")
        return text + (dropped_marker(self.dropped_bytes) if self.dropped_bytes else "")


def dropped_marker(count: int) -> str:
    """Return the line that stands where output was left out."""
    return f"\n[{say(f'{count} more bytes of output are not shown here; --out NAME keeps up to 256 MiB')}]\n"


class Run:
    """One command. `start` is called on the event loop and makes the request; `name` is for messages.

    With `divert` all output goes there, on the event loop, and nothing is kept for a reader.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        start: Start,
        divert: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self.name = name
        self.events: list[dict[str, Any]] = []
        self.started_s = time.monotonic()
        self.first_byte_s: float | None = None
        self._loop = loop
        self._queue: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._request: Request | None = None
        self._diverted = divert
        self._owed_bytes = {STDOUT: 0, STDERR: 0}
        self._signals = 0
        self._give_up_s: float | None = None
        self.answer: concurrent.futures.Future[dict[str, Any]] = asyncio.run_coroutine_threadsafe(self._go(start), loop)
        self.answer.add_done_callback(lambda _: self._queue.put(_END))

    async def _go(self, start: Start) -> dict[str, Any]:
        self._request = await start(self)
        try:
            answer = await self._request.done
        except asyncio.CancelledError:  # given up: nobody would read what it writes
            self._request.node.kill(self._request)
            raise
        if not isinstance(answer.get("status"), int):  # a guest may say anything
            raise ProtocolError(f"{self.name} answered without a status", hint="%vm rm NAME, then run the cell again")
        return answer

    # -- called on the event loop

    def on_data(self, stream: int, data: bytes) -> None:
        """Hand a chunk to the reader, or to whom the run was diverted to."""
        if data and self._diverted:
            self._take(stream, data)
        elif data:
            self._queue.put((stream, data))

    def _take(self, stream: int, data: bytes) -> None:
        if self._diverted:
            self._diverted(stream, data)
        if self._request is not None:
            self._request.consumed(stream, len(data))

    def on_event(self, event: dict[str, Any]) -> None:
        """Keep an event: ``started`` with the steps' times, ``limit`` when one struck; a guest may send any number."""
        if len(self.events) < _MOST_EVENTS:
            self.events.append(event)

    # -- called by the reader

    def chunks(self, timeout_s: float | None = None) -> Iterator[tuple[int, bytes] | None]:
        """Yield (stream, bytes) as they come, None when nothing came for `timeout_s`; ends with the command.

        A KeyboardInterrupt comes out of here; go on reading after `interrupt`.
        """
        while True:
            try:
                chunk = self._queue.get(timeout=timeout_s)
            except queue.Empty:
                yield None
                continue
            if chunk is _END:
                return
            if self.first_byte_s is None:
                self.first_byte_s = time.monotonic() - self.started_s
            self._consumed(*chunk)
            yield chunk

    def _consumed(self, stream: int, data: bytes) -> None:
        """Give credit now and then: each time wakes the loop's thread, and a flood may come in small pieces."""
        self._owed_bytes[stream] += len(data)
        if self._request is not None and self._owed_bytes[stream] >= _CREDIT_AFTER:
            self._loop.call_soon_threadsafe(self._request.consumed, stream, self._owed_bytes[stream])
            self._owed_bytes[stream] = 0

    def send(self, number: int) -> None:
        """Send a signal to the command's process group; returns at once."""
        asyncio.run_coroutine_threadsafe(self._send(number), self._loop)

    async def _send(self, number: int) -> None:
        if self._request is None:
            return
        with contextlib.suppress(LabError):
            await self._request.node.signal(self._request, number)

    def detach(self) -> None:
        """End the request and leave what it follows alone (``container.detach``)."""
        if self._request is None:
            self.answer.cancel()
        else:
            asyncio.run_coroutine_threadsafe(self._detach(self._request), self._loop)

    @staticmethod
    async def _detach(request: Request) -> None:
        with contextlib.suppress(LabError):
            await request.node.call("container.detach", request=request.number)

    def interrupt(self) -> str:
        """Do what the interrupt button asks: SIGINT, then SIGKILL; return what was done, for the user."""
        self._signals += 1
        if self._request is None:
            self.answer.cancel()
            return "given up before the command had started"
        if self._signals == 1:
            self.send(signal.SIGINT)
            return "SIGINT sent; press again to kill"
        self.send(signal.SIGKILL)
        self._give_up_s = self._give_up_s or time.monotonic() + _KILL_GRACE_S
        return "SIGKILL sent"

    def terminate(self) -> None:
        """Send SIGTERM, or give up what has not started."""
        if self._request is None:
            self.answer.cancel()
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, and stop waiting soon after even if the node does not answer."""
        self.send(signal.SIGKILL)
        self._give_up_s = self._give_up_s or time.monotonic() + _KILL_GRACE_S

    def check_given_up(self) -> None:
        """Raise NodeLost if the command was killed and the node has not said so in time."""
        if self._give_up_s is not None and time.monotonic() > self._give_up_s and not self.answer.done():
            self.answer.cancel()
            raise NodeLost(
                f"{self.name} was told to kill the command and does not answer",
                hint="look at its console with %vm logs, reset it with %vm reset, or remove it with %vm rm",
            )

    @property
    def node_name(self) -> str:
        """The node it runs on; empty while that is being made."""
        return self._request.node.name if self._request else ""

    @property
    def interrupted(self) -> bool:
        """True once the interrupt button was pressed."""
        return self._signals > 0

    def failure(self, status: int, signal_number: int) -> CommandFailed | None:
        """Return the error for a non-zero status."""
        if status == 0:
            return None
        struck = {event["limit"] for event in self.events if event.get("event") == "limit"}
        hint = ""
        if "oom_kills" in struck:
            hint = "the kernel killed a process because the memory limit was reached (OOM): give more with --memory"
        elif "pids_denied" in struck:
            hint = "fork was refused because the limit of processes was reached: give more with --pids-limit"
        how = f"was ended by {_signal_name(signal_number)}" if signal_number else f"ended with status {status}"
        return CommandFailed(f"the command {how} on {self.name}", status=status, hint=hint)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
