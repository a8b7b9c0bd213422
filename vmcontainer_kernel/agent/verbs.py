"""What a node can be asked, container requests apart: run, signal, copy files, look."""

from __future__ import annotations

import os

from ..container.csignal import signal
from ..errors import NodeError, UserError
from .jobs import Job, Stdio, window_of
from .protocol import get_bool, get_int, get_map, get_str, get_strs
from .server import Call, Server
from .spawn import Command, start, start_plain
from .transfer import Get, Put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..container.runtime import Runtime
    from .views import KernelViews

__all__ = ["NodeVerbs"]

GUEST_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "TERM": "xterm-256color",
    "LANG": "C.UTF-8",
}


class NodeVerbs:
    """The verbs of every node, as methods that take a `Call`; `runtime` gives the node's containers."""

    def __init__(self, server: Server, runtime: Callable[[], Runtime], *, guest: bool) -> None:
        self._server, self._runtime, self._guest = server, runtime, guest
        self._views: KernelViews | None = None
        server.verbs |= {
            "exec": self.exec,
            "signal": self.signal,
            "resize": self.resize,
            "hangup": self.hangup,
            "put": self.put,
            "get": self.get,
            "view": self.view,
        }

    def _environment(self, extra: dict[str, Any]) -> dict[str, str]:
        base = GUEST_ENVIRONMENT if self._guest else os.environ
        return {**base, **{str(key): str(value) for key, value in extra.items()}}

    def exec(self, call: Call) -> None:
        """Run a program with its streams on this request: argv, env, cwd, user, tty, stdin, window_bytes."""
        arguments = call.arguments
        argv = get_strs(arguments, "argv")
        if not argv:
            raise UserError("there is no program to run", hint="write a command into the cell")
        tty, window_bytes = get_bool(arguments, "tty", False), window_of(arguments)
        command = Command(
            argv,
            self._environment(get_map(arguments, "env", {})),
            get_str(arguments, "cwd", "") or ("/root" if self._guest else os.getcwd()),  # noqa: PTH109
            get_str(arguments, "user", ""),
            call.fds,
            tty,
        )
        stdio = Stdio.make(tty=tty, stdin=get_bool(arguments, "stdin", False))
        try:
            launch = (start_plain if self._guest and command.plain else start)(command, stdio.child)
        except BaseException:
            stdio.close_ours()
            raise
        finally:
            stdio.close_child()
        send = self._server.send
        job = Job(call.request, launch, stdio, send, window_bytes=window_bytes, asked_ns=call.at_ns)
        self._server.add(job)

    def signal(self, call: Call) -> dict[str, Any]:
        """Send a signal to what a running request has started: request, signal (a number). A file that is being copied
        is let go of.
        """
        number, request = get_int(call.arguments, "signal"), get_int(call.arguments, "request")
        copied = self._server.transfers.get(request)
        if isinstance(copied, Get | Put) and number == signal.SIGKILL:
            copied.abandon()
            self._server.forget(request)
            self._server.fail(request, NodeError("the file is not copied any further"))
            return {"sent": True}
        job = self._server.jobs.get(request)
        if job is None or job.wait_status is not None:
            return {"sent": False}
        if number not in signal.valid_signals():
            raise UserError(f"there is no signal {number}", hint="see signal(7)")
        job.signalled = True
        if job.subject:
            runtime = self._runtime()
            runtime.kill(runtime.get(job.subject), number, group=True, everything=number == signal.SIGKILL)
            return {"sent": True}
        try:
            os.killpg(job.pid, number)
        except ProcessLookupError:  # before its setsid, or already gone
            os.kill(job.pid, number)
        return {"sent": True}

    def resize(self, call: Call) -> dict[str, Any]:
        """Tell a running request's terminal how large it is: request, rows, columns."""
        from . import terminals

        size = get_int(call.arguments, "rows"), get_int(call.arguments, "columns")
        return {"resized": terminals.resize(self._server.jobs.get(get_int(call.arguments, "request")), *size)}

    def hangup(self, call: Call) -> dict[str, Any]:
        """End what runs in a request's terminal, as when its window is closed: request, force (by SIGKILL)."""
        from . import terminals

        job, force = self._server.jobs.get(get_int(call.arguments, "request")), get_bool(call.arguments, "force", False)
        sent = terminals.hang_up(job, force=force)
        if job and sent and force:  # whoever else has it open, in the background, holds nobody up
            self._server.cut(job)
        return {"sent": sent}

    def put(self, call: Call) -> None:
        """Write a file from this request's STDIN frames: path, mode."""
        put = Put(
            call.request,
            get_str(call.arguments, "path"),
            get_int(call.arguments, "mode", 0o644) & 0o777,
            self._server.send,
            lambda: self._server.forget(call.request),
        )
        self._server.transfers[call.request] = put

    def get(self, call: Call) -> None:
        """Send a file as this request's STDOUT frames: path."""
        get = Get(
            call.request,
            get_str(call.arguments, "path"),
            self._server.send,
            lambda: self._server.forget(call.request),
        )
        self._server.transfers[call.request] = get
        get.start()

    def view(self, call: Call) -> dict[str, Any]:
        """Return the kernel view of this node (`views.KernelViews.view`)."""
        from .views import KernelViews  # which no command needs to start

        if self._views is None:
            self._views = KernelViews(self._server, self._runtime(), guest=self._guest)
        return self._views.view(call)
