"""The container requests of a node, each one call of the container runtime."""

from __future__ import annotations

import contextlib
import itertools
import signal
from typing import Any

from ..container.container import Container
from ..container.launch import Launch
from ..container.options import ExecOptions, Options
from ..container.runtime import Runtime
from ..container.spares import shape_of
from ..errors import LabError
from .jobs import Job, Stdio
from .protocol import get_bool, get_map, get_str
from .server import Call, Server
from .streams import Log

__all__ = ["ContainerVerbs"]

_END_S = 2.0


class ContainerVerbs:
    """The ``container.*`` verbs, as methods that take a `Call`.

    A container without a name is one-shot: it gets a name, and is removed when its first process has ended.
    """

    def __init__(self, server: Server, runtime: Runtime, *, spares: bool = True) -> None:
        self._server, self._runtime = server, runtime
        self._logs: dict[str, Log] = {}
        self._one_shot: set[str] = set()
        self._numbers = itertools.count(1)
        self._shape: Options | None = None
        server.on_reaped = self._reaped
        server.on_finished = self._finished
        if spares:
            server.on_idle = self._make_spare
        server.limits_of = self._limits
        server.verbs |= {
            "container.run": self.run,
            "container.exec": self.exec,
            "container.kill": self.kill,
            "container.remove": self.remove,
            "container.list": self.list,
            "container.inspect": self.inspect,
            "container.logs": self.logs,
            "container.explain": self.explain,
        }

    def run(self, call: Call) -> None:
        """Create and start: name (empty: one-shot), options, stdin, detach."""
        options = Options.from_json(get_map(call.arguments, "options"))
        name = get_str(call.arguments, "name", "")
        stdio = Stdio.make(tty=options.tty, stdin=get_bool(call.arguments, "stdin", False))
        try:
            spare = self._runtime.take_spare(options, stdio.child) if not name else None
            container, launch = spare or self._create_and_start(name or f"c{next(self._numbers)}", options, stdio)
        except BaseException:
            stdio.close_ours()
            raise
        finally:
            stdio.close_child()
        self._logs[container.name] = Log()
        if not name:
            self._one_shot.add(container.name)
            self._shape = shape_of(options)
        self._add(call, launch, stdio, container, detach=get_bool(call.arguments, "detach", False))

    def _create_and_start(self, name: str, options: Options, stdio: Stdio) -> tuple[Container, Launch]:
        container = self._runtime.create(name, options)
        try:
            return container, self._runtime.start(container, stdio.child, controlling_tty=options.tty)
        except BaseException:
            self._runtime.remove(container, force=True)
            raise

    def _make_spare(self) -> None:
        """Make a spare for another one-shot container like the last one, now that nobody waits."""
        shape = self._shape
        if shape is None or shape.tty or (self._runtime.spare and self._runtime.spare.shape == shape):
            return
        with contextlib.suppress(LabError, OSError):  # whoever asks for a container will be told why there is none
            self._runtime.make_spare(f"c{next(self._numbers)}", shape)

    def _add(self, call: Call, launch: Any, stdio: Stdio, container: Container, *, detach: bool) -> None:
        log = self._logs[container.name]
        self._server.add(
            Job(
                call.request,
                launch,
                stdio,
                self._server.send,
                log=log,
                role="container",
                subject=container.name,
                detach=detach,
            )
        )

    def exec(self, call: Call) -> None:
        """Run one more process in a running container: name, options, stdin."""
        container = self._runtime.get(get_str(call.arguments, "name"))
        options = ExecOptions.from_json(get_map(call.arguments, "options"))
        stdio = Stdio.make(tty=options.tty, stdin=get_bool(call.arguments, "stdin", False))
        try:
            launch = self._runtime.exec(container, options, stdio.child, controlling_tty=options.tty)
        finally:
            stdio.close_child()
        log = self._logs[container.name]
        self._server.add(Job(call.request, launch, stdio, self._server.send, log=log, watches=container.name))

    def kill(self, call: Call) -> dict[str, Any]:
        """Send a signal to a container: name, signal (default SIGTERM)."""
        container = self._runtime.get(get_str(call.arguments, "name"))
        number = int(call.arguments.get("signal", signal.SIGTERM))
        if container.status == "running":
            self._expect_end(container.name)
            self._runtime.kill(container, number, everything=number == signal.SIGKILL)
        return {"status": container.status}

    def _expect_end(self, name: str) -> None:
        for job in self._server.jobs.values():
            job.signalled = job.signalled or job.watches == name

    def remove(self, call: Call) -> dict[str, Any]:
        """Remove a container: name, force."""
        container = self._runtime.get(get_str(call.arguments, "name"))
        self._remove(container, force=get_bool(call.arguments, "force", False))
        return {}

    def _remove(self, container: Container, *, force: bool) -> None:
        pid = container.pid
        self._expect_end(container.name)
        if container.status == "running" and force:
            # PID 1 of a namespace ends after all others are reaped, and what exec started is our child, not its:
            # pid_namespaces(7).
            self._runtime.kill(container, signal.SIGKILL, everything=True)
            self._server.reap_until(lambda: container.status != "running", _END_S)
        if not self._has(container.name):  # a one-shot, which its end has removed
            return
        was_running = container.status == "running"
        self._runtime.remove(container, force=force)
        self._logs.pop(container.name, None)
        self._one_shot.discard(container.name)
        if was_running:  # the runtime reaped it
            self._server.exited(pid, signal.SIGKILL)

    def list(self, call: Call) -> dict[str, Any]:
        """Return every container's part of the kernel view."""
        return {"containers": [self._runtime.view(one) for one in self._runtime.list()]}

    def inspect(self, call: Call) -> dict[str, Any]:
        """Return all that is known of a container: name."""
        return self._runtime.inspect(self._runtime.get(get_str(call.arguments, "name")))

    def logs(self, call: Call) -> dict[str, Any]:
        """Return the last output of a container: name."""
        container = self._runtime.get(get_str(call.arguments, "name"))
        log = self._logs[container.name]
        return {"text": log.text(), "dropped_bytes": log.dropped_bytes}

    def explain(self, call: Call) -> dict[str, Any]:
        """Return the steps that ``container.run`` would take, in order, without taking them."""
        options = Options.from_json(get_map(call.arguments, "options"))
        return {"steps": list(self._runtime.explain(get_str(call.arguments, "name", "") or "c0", options))}

    # -- what the loop tells

    def _reaped(self, pid: int, status: int) -> None:
        spare = self._runtime.spare
        if spare and spare.launch.pid == pid:  # killed from outside: the next container is made in the ordinary way
            self._runtime.drop_spare()
        for container in self._runtime.list():
            if container.pid == pid and container.status == "running":
                self._runtime.exited(container, status)

    def _limits(self, job: Job) -> dict[str, int]:
        return self._runtime.events(self._runtime.get(job.watches)) if self._has(job.watches) else {}

    def _has(self, name: str) -> bool:
        return any(one.name == name for one in self._runtime.list())

    def _finished(self, job: Job) -> None:
        if job.subject and (job.failed or job.subject in self._one_shot) and self._has(job.subject):
            self._remove(self._runtime.get(job.subject), force=True)
