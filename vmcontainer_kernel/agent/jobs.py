"""A request that goes on for a while: a process with its streams, or a file copied in or out.

start ──report pipe ends, or there is none──▶ EVENT started ──exit and streams drained──▶ REPLY {"status", ...}
  └────report says error──▶ ERROR
"""

from __future__ import annotations

import os
import time

from ..container.reports import Launch, exit_status, read_report
from ..errors import ContainerError, LabError, UserError, to_json
from .protocol import WINDOW, Kind, encode_json, get_int
from .streams import Input, Output, Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = ["Job", "Stdio", "window_of"]


def window_of(arguments: Mapping[str, Any]) -> int:
    """Return how many bytes of each stream a request wants to be sent before it says that it has taken them."""
    window_bytes = get_int(arguments, "window_bytes", WINDOW)
    if not 1 <= window_bytes <= WINDOW:
        raise UserError(f"'window_bytes' must be 1 to {WINDOW}; it is {window_bytes}")
    return window_bytes


class Stdio:
    """Descriptors 0 to 2 of a new process (`child`), and our ends of them."""

    def __init__(
        self, child: tuple[int, int, int], outputs: list[tuple[int, int]], stdin_fd: int | None, stdin_end: bytes = b""
    ) -> None:
        self.child, self.outputs, self.stdin_fd, self.stdin_end = child, outputs, stdin_fd, stdin_end
        for _, fd in outputs:
            os.set_blocking(fd, False)
        if stdin_fd is not None:
            os.set_blocking(stdin_fd, False)

    @classmethod
    def make(cls, *, tty: bool, stdin: bool) -> Stdio:
        """Make a pseudo-terminal, or a pipe for each stream with /dev/null where nothing is sent to stdin."""
        if tty:
            master, slave = os.openpty()
            # Closing one's end of a terminal does not end its input: Ctrl-D does (termios(3), VEOF).
            return cls((slave, slave, slave), [(Kind.STDOUT, master)], os.dup(master) if stdin else None, b"\x04")
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        in_write: int | None = None
        if stdin:
            in_read, in_write = os.pipe2(os.O_CLOEXEC)
        else:
            in_read = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return cls((in_read, out_write, err_write), [(Kind.STDOUT, out_read), (Kind.STDERR, err_read)], in_write)

    def close_child(self) -> None:
        """Close the process's ends in this process."""
        for fd in set(self.child):
            os.close(fd)

    def close_ours(self) -> None:
        """Close our ends: there will be no job that does."""
        for fd in (*(fd for _, fd in self.outputs), *(() if self.stdin_fd is None else (self.stdin_fd,))):
            os.close(fd)


class Job:
    """One request with its process. `ended` is called once, after the last frame was sent."""

    def __init__(
        self,
        request: int,
        launch: Launch,
        stdio: Stdio,
        send: Callable[[bytes], None],
        *,
        log: Sink | None = None,
        role: str = "process",
        subject: str = "",
        watches: str = "",
        warnings: tuple[str, ...] = (),
        detach: bool = False,
        unsent: bool = False,
        window_bytes: int = WINDOW,
        asked_ns: int = 0,
        on_end: Callable[[Job], None] | None = None,
    ) -> None:
        self.request, self.pid, self.report_fd = request, launch.pid, launch.report_fd
        self.role = role  # process, machine or container
        self.subject = subject  # the container's name, if it is a container's first process
        self.watches = watches or subject  # the container whose limits are told while this runs
        self.way = launch.way
        self.marks = (*launch.marks, ("received", asked_ns), ("launched", time.monotonic_ns()))
        self.warnings = warnings  # what is not as asked; each is told once
        self.detach = detach  # REPLY when it runs; its output goes to the log only, as with `unsent`
        self.on_end = on_end  # who else wants to know
        self.outputs = [
            Output(request, kind, fd, None if detach or unsent else send, log, window_bytes)
            for kind, fd in stdio.outputs
        ]
        self.input = None if stdio.stdin_fd is None else Input(request, stdio.stdin_fd, send, stdio.stdin_end)
        self.groups: set[int] = set()  # process groups that a closed terminal's programs are in
        self.signalled = False  # somebody asked for its end, perhaps before it had begun
        self.wait_status: int | None = None
        self.events: dict[str, int] = {}
        self.steps: list[tuple[str, float]] = []
        self._send = send
        self.begins: tuple[tuple[int, int], ...] = ()
        self._report = b""
        self._error: LabError | None = None
        self._replied = False
        self._started_s = time.monotonic()

    def read_report(self) -> bool:
        """Read from the report pipe; return True once it has ended."""
        data = os.read(self.report_fd, 65536)
        if data:
            self._report += data
            return False
        os.close(self.report_fd)
        self.report_fd = -1
        self.marks += (("executed", time.monotonic_ns()),)
        report = read_report(self._report)
        self._error = report.error
        # A container's process tells when it is about to become the program; a plain one tells errors only.
        begun = report.error is None and (report.complete or not self.watches)
        self.warnings += report.warnings
        if begun:
            self.begins = report.begins
            self.tell_started(report.steps)
        elif report.error is None and not self.signalled:
            self._error = ContainerError(
                "the container's process was killed while it was set up",
                hint="is its memory limit too small to start a program? give more with --memory",
            )
        return True

    def tell_started(self, steps: list[tuple[str, float]]) -> None:
        """Say that the program runs."""
        self.steps = steps
        times = {"way": self.way, "marks": self.marks, "steps": steps, "begins": self.begins}
        self._event("started", {"pid": self.pid, **times, "warnings": self.warnings})
        if self.detach:
            self._reply(Kind.REPLY, {"pid": self.pid, "container": self.subject, "warnings": self.warnings})

    def _event(self, name: str, data: Mapping[str, Any]) -> None:
        self._send(encode_json(Kind.EVENT, self.request, {"event": name, **data}))

    def note_limits(self, events: Mapping[str, int]) -> None:
        """Send an EVENT for each limit that struck since the last call."""
        for name, count in events.items():
            if count > self.events.get(name, 0):
                self._event("limit", {"limit": name, "count": count})
        self.events = dict(events)

    @property
    def hidden(self) -> bool:
        """Whether views leave it out."""
        return False

    @property
    def finished(self) -> bool:
        """True once the process is gone, its report read and its output sent."""
        return self.wait_status is not None and self.report_fd < 0 and not any(one.open for one in self.outputs)

    @property
    def failed(self) -> bool:
        """True if the program never ran."""
        return self._error is not None

    @property
    def error(self) -> LabError | None:
        """Why it never ran."""
        return self._error

    @property
    def answer(self) -> dict[str, Any]:
        """How it ended: status as a shell counts it, signal, seconds, limits that struck."""
        status = self.wait_status or 0
        return {
            "status": exit_status(status),
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "seconds": time.monotonic() - self._started_s,
            "limits": self.events,
        }

    def finish(self) -> None:
        """Send the answer and close what is left."""
        if self.input:
            self.input.close()
        if self._error:
            self._reply(Kind.ERROR, to_json(self._error))
            return
        self._reply(Kind.REPLY, self.answer)

    def _reply(self, kind: int, document: Mapping[str, Any]) -> None:
        if not self._replied:
            self._replied = True
            self._send(encode_json(kind, self.request, document))

    def abandon(self) -> None:
        """Close every descriptor without a word; the conversation began anew."""
        self._send = lambda data: None
        for output in self.outputs:
            output.close()
        if self.input:
            self.input.close()
        if self.report_fd >= 0:
            os.close(self.report_fd)
            self.report_fd = -1
