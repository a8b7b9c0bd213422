"""The agent's loop: one thread, one epoll(7) set, a table of verbs.

channel readable ─▶ frames ─▶ CALL ─▶ VERBS[verb](call) ─▶ REPLY / ERROR, or a Job that answers later
a job's pipe readable ─▶ STDOUT / STDERR frames, as far as their credit goes
SIGCHLD ─▶ waitpid ─▶ Job.exited ─▶ REPLY {"status": ...}
"""

from __future__ import annotations

import os
import select
import sys
import time

from .. import __version__
from ..container.csignal import signal
from ..container.light import suppress
from ..errors import LabError, NodeError, ProtocolError, UserError, to_json
from .channel import Channel
from .jobs import Job
from .protocol import PROTOCOL, Frame, Kind, check_hello, encode_json, get_str, parse_credit, parse_json
from .streams import Input, Output
from .timers import Timers
from .transfer import Transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from .streams import Splice

__all__ = ["Call", "Server", "attempt"]

_IDLE_AFTER_S = 0.1
_LONGEST_WAIT_S = 3600.0  # epoll_wait(2) counts milliseconds in 31 bits


class Call:
    """One CALL frame: its number, its JSON arguments and the descriptors that came with it."""

    def __init__(self, request: int, arguments: dict[str, Any], fds: list[int]) -> None:
        self.request, self.arguments, self.fds = request, arguments, fds
        self.at_ns = time.monotonic_ns()


Verb: TypeAlias = "Callable[[Call], dict[str, Any] | None]"


class Server:
    """Serves one channel. A verb returns its answer, or None if a job gives it later."""

    def __init__(self, channel: Channel, facts: dict[str, Any]) -> None:
        self.channel = channel
        self.verbs: dict[str, Verb] = {}
        self.load: Callable[[], object] = _nothing  # adds the verbs that are there only once one is asked for
        self.jobs: dict[int, Job] = {}
        self.transfers: dict[int, Transfer] = {}
        self.splice: Splice | None = None  # how a channel takes pages of a pipe, if it is one that can
        self.on_reaped: Callable[[int, int], None] = lambda pid, status: None
        self.on_finished: Callable[[Job], None] = lambda job: None
        self.on_idle: Callable[[], None] = lambda: None
        self.on_ending: Callable[[Job], None] = lambda job: None
        self.timers = Timers()
        self.running = True
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._greeting = encode_json(Kind.HELLO, 0, {"protocol": PROTOCOL, "version": __version__, **facts})
        self._idle_due_s: float | None = None
        self._wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _stop(self, *_: object) -> None:
        self.running = False

    # -- the loop

    def run(self) -> None:
        """Serve until the channel ends, a verb stops the agent, or SIGTERM or SIGHUP comes."""
        self.watch(self._wake_read, self._reap)
        while self.running:
            self.watch(self.channel.fd, self._read_channel, write=self.channel.blocked)
            for fd, events in self._epoll.poll(self._patience_s()):
                # Whoever came first may have closed the others.
                watched = self._watched.get(fd)
                if watched:
                    watched[1](events)
            attempt(self._check_idle)
            for action in self.timers.due():
                attempt(action)

    def _patience_s(self) -> float | None:
        waits = [self.timers.patience_s()]
        if self._idle_due_s is not None and not self.attended():
            waits.append(max(0.0, self._idle_due_s - time.monotonic()))
        wait = min((wait for wait in waits if wait is not None), default=None)
        return None if wait is None else min(wait, _LONGEST_WAIT_S)

    def watch(self, fd: int, callback: Callable[[int], None], *, read: bool = True, write: bool = False) -> None:
        """Watch `fd` for what is wanted now; epoll_ctl(2) only when that changed."""
        wanted = (select.EPOLLIN if read else 0) | (select.EPOLLOUT if write else 0)
        have = self._watched.get(fd)
        if have and have[0] == wanted:
            return
        if not wanted:
            self.unwatch(fd)
            return
        (self._epoll.modify if have else self._epoll.register)(fd, wanted)
        self._watched[fd] = wanted, callback

    def unwatch(self, fd: int) -> None:
        """Watch `fd` no longer; it may be closed already."""
        if self._watched.pop(fd, None):
            with suppress(OSError):  # closed already: epoll(7) has forgotten it
                self._epoll.unregister(fd)

    def _read_channel(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self.channel.flush()
        if not events & ~select.EPOLLOUT:  # EPOLLHUP and EPOLLERR come unasked and are told by reading
            return
        frames = self.channel.read()
        if frames is None:
            self.running = self.lost()
            return
        try:
            for frame in frames:
                self._take(frame)
        except ProtocolError as error:  # where the next frame begins is unknown: an end that says why
            print(f"agent: {error}", file=sys.stderr, flush=True)
            self.running = False

    def lost(self) -> bool:
        """The channel ended; return whether to go on. A guest overrides this to wait for its host."""
        return False

    # -- frames

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.CALL:
            self._call(frame)
        elif frame.kind == Kind.CREDIT:
            self._credit(frame)
        elif frame.kind == Kind.STDIN:
            self._stdin(frame)
        elif frame.kind == Kind.HELLO:
            self._hello(frame)

    def _hello(self, frame: Frame) -> None:
        """Begin anew: answers to questions that nobody asked any more must not be sent."""
        check_hello(parse_json(frame.payload))
        for transfer in self.transfers.values():
            transfer.abandon()
        self.transfers.clear()
        attended = [job for job in self.jobs.values() if not job.detach]
        for job in attended:
            inputs = [job.input.fd] if job.input else []
            for fd in (job.report_fd, *inputs, *(output.fd for output in job.outputs)):
                self.unwatch(fd)
            job.abandon()
            del self.jobs[job.request]
        self.channel.restart()
        self.send(self._greeting)

    def forget(self, request: int) -> None:
        """Drop a transfer that is through."""
        self.transfers.pop(request, None)

    def send(self, data: bytes) -> None:
        """Write one frame."""
        self.channel.write(data)

    def reply(self, request: int, document: dict[str, Any]) -> None:
        """Answer a request."""
        self.send(encode_json(Kind.REPLY, request, document))

    def fail(self, request: int, error: BaseException) -> None:
        """Answer a request with an error."""
        self.send(encode_json(Kind.ERROR, request, to_json(error)))

    def _call(self, frame: Frame) -> None:
        fds: list[int] = []
        try:
            arguments = parse_json(frame.payload)
            if frame.request in self.jobs or frame.request in self.transfers:
                raise ProtocolError(f"request {frame.request} is under way: another needs a number of its own")
            fds = self.channel.claim_fds(int(arguments.pop("fds", 0)))
            verb = get_str(arguments, "verb")
            if verb not in self.verbs:
                self.load()
            if verb not in self.verbs:
                raise UserError(
                    f"this node knows no verb {verb!r}", hint="the guest image may be older than this program"
                )
            del arguments["verb"]
            answer = self.verbs[verb](Call(frame.request, arguments, fds))
            if answer is not None:
                self.reply(frame.request, answer)
        except LabError as error:
            self.fail(frame.request, error)
        except Exception as error:  # whatever a request does, the agent goes on
            self.fail(frame.request, NodeError(f"the agent could not do this: {type(error).__name__}: {error}"))
        finally:
            for fd in fds:
                os.close(fd)

    def _credit(self, frame: Frame) -> None:
        stream, count = parse_credit(frame.payload)
        if frame.request in self.transfers:
            self.transfers[frame.request].credit(count)
        job = self.jobs.get(frame.request)
        if job is None:
            return
        for output in job.outputs:
            if output.kind == stream and output.open:
                output.credit_bytes += count
                self._step(job, output, _nothing)

    def _stdin(self, frame: Frame) -> None:
        if frame.request in self.transfers:
            self.transfers[frame.request].feed(frame.payload)
        job = self.jobs.get(frame.request)
        if job:
            self.feed(job, frame.payload)

    def feed(self, job: Job, payload: bytes) -> None:
        """Pass a STDIN frame to a job; an empty one is the end."""
        stream = job.input
        if stream and stream.open:
            self._step(job, stream, lambda: stream.feed(payload))

    def cut(self, job: Job) -> None:
        """Read no more of a job's output."""
        for output in job.outputs:
            if output.open:
                self._step(job, output, output.close)

    # -- jobs

    def add(self, job: Job) -> None:
        """Take charge of a job that has just been launched."""
        self.jobs[job.request] = job
        if job.report_fd >= 0:
            self.watch(job.report_fd, lambda _: self._read_report(job))
        else:
            job.tell_started([])
        for output in job.outputs:
            output.splice = self.splice
            self._step(job, output, _nothing)

    def _read_report(self, job: Job) -> None:
        fd = job.report_fd
        if job.read_report():
            self.unwatch(fd)
            self._settle(job)

    def _step(self, job: Job, stream: Output | Input, action: Callable[[], None]) -> None:
        """Do something with a stream; epoll must forget a closed descriptor before its number is used again."""
        fd = stream.fd
        action()
        if not stream.open:
            self.unwatch(fd)
        elif isinstance(stream, Output):
            self.watch(fd, lambda _: self._step(job, stream, stream.pump), read=stream.wants_read)
        else:
            self.watch(fd, lambda _: self._step(job, stream, stream.pump), read=False, write=stream.wants_write)
        self._settle(job)

    def _settle(self, job: Job) -> None:
        """Answer a job that is through."""
        if job.finished and self.jobs.get(job.request) is job:
            if job.input and job.input.open:
                self.unwatch(job.input.fd)
            if job.watches:
                attempt(self.on_ending, job)
            del self.jobs[job.request]
            job.finish()
            attempt(self.on_finished, job)
            if job.on_end:
                attempt(job.on_end, job)
            self._idle_due_s = time.monotonic() + _IDLE_AFTER_S

    def attended(self) -> bool:
        """Tell whether somebody waits for a job; what runs detached may run for ever."""
        return any(not job.detach for job in self.jobs.values())

    def _check_idle(self) -> None:
        """Tell once, a moment after the last job, that there is nothing to do."""
        if self._idle_due_s is not None and not self.attended() and time.monotonic() >= self._idle_due_s:
            self._idle_due_s = None
            self.on_idle()

    # -- children

    def _reap(self, _events: int) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if not os.WIFSTOPPED(status):  # parked, not ended: container/vfork.py
                attempt(self.exited, pid, status)

    def reap_until(self, done: Callable[[], bool], limit_s: float) -> None:
        """Reap children until `done` says so, for what must have ended before a request can be answered."""
        deadline_s = time.monotonic() + limit_s
        while not done() and time.monotonic() < deadline_s:
            self._reap(0)
            time.sleep(0.0005)

    def exited(self, pid: int, status: int) -> None:
        """A child was reaped."""
        self.on_reaped(pid, status)
        job = next((one for one in self.jobs.values() if one.pid == pid and one.wait_status is None), None)
        if job is None:
            return
        job.wait_status = status
        for output in job.outputs:
            if output.open:
                self._step(job, output, output.end_after_pending)
        self._settle(job)


def attempt(action: Callable[..., None], *arguments: object) -> None:
    """Do something for which nobody waits who could be told what goes wrong: the log is, and the agent goes on, as
    others' containers and machines would end with it.
    """
    try:
        action(*arguments)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr.flush()


def _nothing() -> None:
    """Nothing is to be done: all verbs are there; only a descriptor's watch is to be renewed."""
