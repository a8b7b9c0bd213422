"""A node seen from the notebook: the agent's verbs as coroutines, streams by credit, loss as an error of its own.

    Node.start("exec", ...) ─▶ Request ── on_data(stream, bytes), on_event(dict) ──▶ done: Future[answer]
                                  ▲ consumed(stream, count): lets the agent send more

Everything here runs on the session's event loop. A socket on the host can pass descriptors; a guest's stream cannot.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import signal
import socket
import sys
import termios
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import vmcontainer_kernel

from .agent.protocol import (
    CREDIT_AFTER,
    MAX_CHUNK,
    PROTOCOL,
    WINDOW,
    Decoder,
    Frame,
    Kind,
    check_hello,
    encode,
    encode_credit,
    encode_json,
    parse_credit,
    parse_json,
)
from .errors import LabError, NodeLost, ProtocolError, UserError, from_json

__all__ = ["Node", "Request", "unread_bytes"]

_READ_SIZE = 256 * 1024
OnData = Callable[[int, bytes], None]
OnEvent = Callable[[dict[str, Any]], None]


class Request:
    """One CALL under way. `done` is its answer; NodeLost if the stream ended first."""

    def __init__(
        self, node: Node, number: int, on_data: OnData | None, on_event: OnEvent | None, window_bytes: int = WINDOW
    ) -> None:
        self.node, self.number = node, number
        self._window_bytes = window_bytes
        self.done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._on_data, self._on_event = on_data, on_event
        self._owed_bytes = {Kind.STDOUT: 0, Kind.STDERR: 0}
        self._credit_bytes = {Kind.STDOUT: window_bytes, Kind.STDERR: window_bytes}
        self._stdin_credit_bytes = WINDOW
        self._stdin_room = asyncio.Event()

    def take(self, frame: Frame) -> None:
        """Handle a frame of this request."""
        if frame.kind in (Kind.STDOUT, Kind.STDERR):
            self._credit_bytes[frame.kind] -= len(frame.payload)
            if self._credit_bytes[frame.kind] < 0:
                raise ProtocolError(f"request {self.number} sent more than its credit of {self._window_bytes} bytes")
            if self._on_data:
                self._on_data(frame.kind, frame.payload)
            else:
                self.consumed(frame.kind, len(frame.payload))
        elif frame.kind == Kind.EVENT and self._on_event:
            self._on_event(parse_json(frame.payload))
        elif frame.kind == Kind.CREDIT:
            self._stdin_credit_bytes += parse_credit(frame.payload)[1]
            self._stdin_room.set()
        elif frame.kind == Kind.REPLY:
            self._finish(parse_json(frame.payload))
        elif frame.kind == Kind.ERROR:
            self._finish(from_json(parse_json(frame.payload)))

    def _finish(self, outcome: dict[str, Any] | LabError) -> None:
        self._stdin_room.set()  # who feeds it need not go on
        if self.done.done():
            return
        if isinstance(outcome, LabError):
            self.done.set_exception(outcome)
            self.done.exception()  # an answer that nobody waits for is no event-loop warning
        else:
            self.done.set_result(outcome)

    def consumed(self, stream: int, count: int) -> None:
        """Say that `count` bytes of a stream were taken; the agent may send so many more."""
        self._owed_bytes[stream] += count
        if self._owed_bytes[stream] >= min(CREDIT_AFTER, self._window_bytes // 4):
            self.node.write(encode_credit(self.number, stream, self._owed_bytes[stream]))
            self._credit_bytes[stream] += self._owed_bytes[stream]
            self._owed_bytes[stream] = 0

    async def feed(self, data: bytes) -> None:
        """Send bytes to the request's stdin, as fast as they are taken there."""
        view = memoryview(data)
        while view and not self.done.done():
            if not self._stdin_credit_bytes:
                self._stdin_room.clear()
                await self._stdin_room.wait()
            count = min(len(view), MAX_CHUNK, self._stdin_credit_bytes)
            self._stdin_credit_bytes -= count
            self.node.write(encode(Kind.STDIN, self.number, bytes(view[:count])))
            view = view[count:]

    def end_input(self) -> None:
        """Close the request's stdin."""
        self.node.write(encode(Kind.STDIN, self.number))

    def lose(self, error: LabError) -> None:
        """The stream is gone."""
        self._finish(error)


class Node:
    """One agent. `lost` is set when its stream has ended."""

    def __init__(self, name: str, stream: socket.socket, number: int = 0) -> None:
        """`number`: of the last request that this agent was sent by another notebook, or before it was saved."""
        self.name = name
        self.facts: dict[str, Any] = {}
        self.lost = asyncio.Event()
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder()
        self._hello: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._requests: dict[int, Request] = {}
        self._number = number
        self._held = False
        self._queue: deque[tuple[memoryview, list[int]]] = deque()
        self._reason = ""
        stream.setblocking(False)
        self._loop.add_reader(stream, self._read)

    async def connect(self, timeout_s: float) -> None:
        """Shake hands; raises NodeLost if the agent ends or does not answer within `timeout_s`."""
        self._greet()
        try:
            self.facts = await asyncio.wait_for(asyncio.shield(self._hello), timeout_s)
        except TimeoutError:
            raise NodeLost(
                f"the agent of node {self.name} did not answer within {timeout_s:g} s",
                hint="a busy computer may need longer; else remove the machine and make it again",
            ) from None

    def _greet(self) -> None:
        self.write(encode_json(Kind.HELLO, 0, {"protocol": PROTOCOL, "version": vmcontainer_kernel.__version__}))

    # -- requests

    def start(
        self,
        verb: str,
        arguments: Mapping[str, Any],
        *,
        on_data: OnData | None = None,
        on_event: OnEvent | None = None,
        fds: Sequence[int] = (),
        hello: bool = False,
        window_bytes: int = WINDOW,
    ) -> Request:
        """Send a CALL. Descriptors are copied before this returns; the caller closes its own.

        With `hello` the handshake goes ahead of it, unanswered: a clone that wakes is spared a round trip.
        `window_bytes` of each stream may come before `consumed` is called.
        """
        if self.lost.is_set():
            raise NodeLost(f"node {self.name} is gone{self._reason}", hint="%lab view shows which nodes there are")
        if hello:
            self._greet()
        self._number += 1
        request = Request(self, self._number, on_data, on_event, window_bytes)
        self._requests[self._number] = request
        call = {"verb": verb, **arguments, **({"fds": len(fds)} if fds else {})}
        if window_bytes != WINDOW:
            call["window_bytes"] = window_bytes
        self.write(encode_json(Kind.CALL, self._number, call), [os.dup(fd) for fd in fds])
        return request

    async def call(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Send a CALL and return its answer; raises what the agent answered."""
        return await self.start(verb, arguments).done

    async def view(self, parts: Iterable[str] = (), *, live: bool = False) -> dict[str, Any]:
        """Return the kernel view with the dear `parts` that are named (docs/architecture.md, "Views").

        `live`: who asks does so again and again; then what seldom changes is read in turns, for a third of the cost.
        """
        notebook_pid = os.getpid() if self.passes_fds else 0
        return await self.call("view", node=self.name, notebook_pid=notebook_pid, parts=[*parts], live=live)

    async def put(self, data: bytes, path: str, mode: int = 0o644) -> int:
        """Write a file on the node, whole or not at all; return its size."""
        request = self.start("put", {"path": path, "mode": mode})
        await request.feed(data)
        if not request.done.done():
            request.end_input()
        return int((await request.done)["size"])

    async def spawn(
        self, argv: Sequence[str], *, fds: Sequence[int] = (), log: Path, cage: Mapping[str, Any] | None = None
    ) -> Spawned:
        """Start a helper, a child of this (host) agent; ``fds[i]`` becomes its descriptor 10 + i, `cage` bounds it."""
        started: asyncio.Future[dict[str, Any]] = self._loop.create_future()

        def note(event: dict[str, Any]) -> None:
            if not started.done():
                started.set_result(event)

        request = self.start("spawn", {"argv": list(argv), "log": str(log), "cage": cage}, on_event=note, fds=fds)
        try:
            await asyncio.wait((started, request.done), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.kill(request)
            raise
        if not started.done():
            await request.done  # raises why it did not start
        event = started.result()
        return Spawned(self, request, int(event["pid"]), tuple(event.get("warnings") or ()))

    async def signal(self, request: Request, number: int) -> bool:
        """Send a signal to a request's process group; False if it had ended."""
        return bool((await self.call("signal", request=request.number, signal=number))["sent"])

    def kill(self, request: Request) -> None:
        """Have a request's processes killed, without waiting for an answer."""
        if not self.lost.is_set():
            self.start("signal", {"request": request.number, "signal": signal.SIGKILL})

    # -- rest

    async def rest(self, limit_s: float) -> int:
        """Wait until nothing is under way, then hold (`hold`); return the number of the last request.

        The agent then has all that was sent and has answered it. Raises UserError if it goes on for `limit_s`.
        """
        deadline_s = self._loop.time() + limit_s
        while self._requests or self._queue or self._decoder.pending or unread_bytes(self._stream):
            if self._loop.time() >= deadline_s:
                raise UserError(
                    f"{self.name} is at work for this notebook (commands under way: {len(self._requests)})",
                    hint="wait for the cell, interrupt it, or kill what runs with --bg; what runs in the background "
                    "of the guest itself (COMMAND &, a named container) may go on",
                )
            await asyncio.sleep(0.01)
        self.hold()
        return self._number

    def hold(self) -> None:
        """Queue what is to be sent, for now."""
        self._held = True

    def release(self) -> None:
        """Send what was queued, and go on."""
        self._held = False
        if self._queue and not self.lost.is_set():
            self._flush()

    # -- the stream

    @property
    def passes_fds(self) -> bool:
        """True for the host's agent."""
        return self.name == "host"

    def write(self, data: bytes, fds: list[int] | None = None) -> None:
        """Queue a frame, and the descriptors that travel with its first byte."""
        if self.lost.is_set():
            _close_all(fds or [])
            return
        self._queue.append((memoryview(data), fds or []))
        if len(self._queue) == 1 and not self._held:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._queue and not self._held:
                data, fds = self._queue[0]
                count = self._send(data, fds)
                _close_all(fds)
                self._queue[0] = (data[count:], [])
                if count == len(data):
                    self._queue.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._stream, self._flush)
            return
        except OSError as error:
            self._lose(f": {error.strerror}")
            return
        self._loop.remove_writer(self._stream)

    def _send(self, data: memoryview, fds: list[int]) -> int:
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        return self._stream.sendmsg([data], passed)

    def _read(self) -> None:
        try:
            data = self._stream.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(f": {error.strerror}")
            return
        if not data:
            self._lose("")
            return
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except ProtocolError as error:
            self._lose(f": {error.message}")

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.HELLO:
            facts = parse_json(frame.payload)
            check_hello(facts)
            if not self._hello.done():
                self._hello.set_result(facts)
            return
        request = self._requests.get(frame.request)
        if request:
            request.take(frame)
            if request.done.done():
                self._requests.pop(frame.request, None)

    def _lose(self, reason: str) -> None:
        self._reason = reason
        self.close()

    def let_go(self) -> None:
        """In a forked child: close its copy of the stream, and touch nothing that it shares with its parent."""
        self.lost.set()
        self._stream.close()

    def detach(self) -> None:
        """Let go of the stream without closing it; it belongs to the machine."""
        self.close(keep_stream=True)

    def close(self, *, keep_stream: bool = False, error: LabError | None = None) -> None:
        """Close the stream; what was under way is lost (`error` tells why, if more is known than that it ended);
        the agent of a host ends all it started.
        """
        if self.lost.is_set():
            return
        self.lost.set()
        self._loop.remove_reader(self._stream)
        self._loop.remove_writer(self._stream)
        if not keep_stream:
            self._stream.close()
        for _, fds in self._queue:
            _close_all(fds)
        error = error or NodeLost(
            f"the stream to node {self.name} ended{self._reason}; whether the last request was carried out is unknown",
            hint="%vm ls shows the machines that are left; %vm logs NAME shows a machine's console",
        )
        for request in self._requests.values():
            request.lose(error)
        self._requests.clear()
        if not self._hello.done():
            self._hello.set_exception(error)
            self._hello.exception()


def unread_bytes(stream: socket.socket) -> int:
    """Return how many bytes the other end has not read yet (unix(7), SIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(stream, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class Spawned:
    """A helper process that the host agent started (`vm.machine.Spawned`).

    `warnings`: what holds it less tightly than it should; `struck`: once it has ended, how often each limit struck.
    """

    def __init__(self, node: Node, request: Request, pid: int, warnings: tuple[str, ...]) -> None:
        self.pid, self.warnings = pid, warnings
        self.struck: dict[str, int] = {}
        self._node, self._request = node, request

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return not self._request.done.done()

    async def wait(self) -> int:
        """Return its exit status; ``-N`` for signal N."""
        answer = await asyncio.shield(self._request.done)
        self.struck = answer.get("limits") or {}
        return -int(answer["signal"]) if answer.get("signal") else int(answer["status"])

    async def kill(self) -> None:
        """Send SIGKILL."""
        await self._node.signal(self._request, signal.SIGKILL)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
