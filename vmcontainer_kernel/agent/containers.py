"""The container requests of a node that make, run and remove; `lives` ends and restarts them, `looks` shows them."""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from typing import Any

from ..container.container import Container
from ..container.options import ExecOptions, Options
from ..container.reports import Launch, Stopwatch
from ..container.runtime import Runtime
from ..errors import LabError, UserError
from .builds import BuildVerbs
from .copies import CopyVerbs
from .health import Checkups
from .images import ImageVerbs
from .jobs import Job, Stdio, window_of
from .kept import Keeper, Kept
from .limits import Limits
from .lives import Lives
from .looks import Looks
from .networks import NetworkVerbs
from .protocol import get_bool, get_int, get_map, get_str
from .server import Call, Server, attempt
from .starts import Starts
from .timers import Timer
from .volumes import VolumeVerbs

__all__ = ["ContainerVerbs"]

_END_S = 2.0
_SETTLED_S = 0.25  # what runs for longer is worth a file of its own
_SPARE_S = 60.0  # a container made ahead holds memory; after so long nobody seems to want it


class ContainerVerbs:
    """The ``container.*`` verbs, as methods that take a `Call`.

    A container without a name is one-shot: it gets a name, and is removed when its first process has ended.
    """

    def __init__(self, server: Server, runtime: Runtime, *, spares: bool = True, spare_s: float = _SPARE_S) -> None:
        self._server, self._runtime = server, runtime
        self._keeper = Keeper()
        self._names, self._requests = itertools.count(1), itertools.count(1 << 31)
        self._last: Options | None = None  # the last one-shot container, which the next one may be like
        self._active = False  # somebody uses containers here
        self._spare_s, self._spare_timer = spare_s, Timer(0.0, _nothing)
        self._starts = Starts(server)
        self._checkups = Checkups(server, runtime, self._requests)
        self._lives = Lives(server, runtime, self._keeper, self.begin)
        server.on_reaped = self._reaped
        server.on_finished = self._finished
        if spares:
            server.on_idle = self._make_ready
        self._limits = Limits(server, runtime, self._keeper)
        server.on_ending = self._limits.ended
        server.verbs |= {
            "container.run": self.run,
            "container.create": self.create,
            "container.start": self.start,
            "container.exec": self.exec,
            "container.kill": self.kill,
            "container.remove": self.remove,
            "container.list": self.list,
            "container.inspect": self.inspect,
            "container.explain": self.explain,
        }
        Looks(server, runtime, self._keeper)
        CopyVerbs(server, runtime, self._keeper)
        ImageVerbs(server, runtime, self._keeper)
        BuildVerbs(server, runtime)
        VolumeVerbs(server, runtime)
        NetworkVerbs(server, runtime)

    # -- making and running

    def run(self, call: Call) -> None:
        """Create and start: name, options, stdin, detach (answer when it runs), remove (when it has ended).

        Without a name, and not detached, it is removed too.
        """
        options = Options.from_json(get_map(call.arguments, "options"))
        name, detach = get_str(call.arguments, "name", ""), get_bool(call.arguments, "detach", False)
        one_shot = get_bool(call.arguments, "remove", False) or not (name or detach)
        stdio = Stdio.make(tty=options.tty, stdin=options.interactive or get_bool(call.arguments, "stdin", False))
        try:
            spare = self._runtime.take_spare(options, stdio.child) if one_shot and not (name or detach) else None
            container, launch = spare or self._create_and_start(name or self._unnamed(), options, stdio)
        except BaseException:
            stdio.close_ours()
            raise
        finally:
            stdio.close_child()
        kept = self._keeper.add(Kept(container, one_shot=one_shot, provisional=True))
        if not (name or detach):
            self._last = options
        if spare:
            self._server.timers.after(_SETTLED_S, lambda: self._describe(kept))
        self._add(call.request, call.at_ns, launch, stdio, kept, detach=detach)

    def _unnamed(self) -> str:
        """Return a name for a container that was given none; somebody may have called his own like ours."""
        taken = {one.name for one in self._runtime.list()}
        return next(name for number in self._names if (name := f"c{number}") not in taken)

    def _describe(self, kept: Kept) -> None:
        """Write down what a spare has become, if it is still there: nobody had to wait for that."""
        if self._keeper.find(kept.container.name) is kept:
            self._runtime.write_config(kept.container)

    def _create_and_start(self, name: str, options: Options, stdio: Stdio) -> tuple[Container, Launch]:
        container, note = self._runtime.create(name, options), Stopwatch()
        note("created")
        try:
            launch = self._runtime.start(container, stdio.child, controlling_tty=options.tty)
            return container, launch.replace(marks=(*note.marks, *launch.marks))
        except BaseException:
            self._runtime.remove(container, force=True)
            raise

    def create(self, call: Call) -> dict[str, Any]:
        """Make a container and do not start it: name, options."""
        options = Options.from_json(get_map(call.arguments, "options"))
        name = get_str(call.arguments, "name", "") or self._unnamed()
        self._keeper.add(Kept(self._runtime.create(name, options)))
        return {"name": name}

    def start(self, call: Call) -> None:
        """Start a container that is created or stopped: name, attach (else it answers once it runs), stdin."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        if kept.container.status == "running":
            raise UserError(f"container {kept.container.name} is running already", hint="run in it, or stop it first")
        kept.container.restarts = 0
        stdin = get_bool(call.arguments, "stdin", False)
        self.begin(kept, call.request, detach=not get_bool(call.arguments, "attach", False), stdin=stdin)

    def begin(self, kept: Kept, request: int | None = None, *, detach: bool = True, stdin: bool = False) -> None:
        """Start a container's first process; `request` None: nobody asked now."""
        asked_ns, options = time.monotonic_ns(), kept.container.options
        kept.cancel("restart")
        kept.provisional = False
        stdio = Stdio.make(tty=options.tty, stdin=options.interactive or stdin)
        try:
            launch = self._runtime.start(kept.container, stdio.child, controlling_tty=options.tty)
        except BaseException:
            stdio.close_ours()
            raise
        finally:
            stdio.close_child()
        self._add(next(self._requests) if request is None else request, asked_ns, launch, stdio, kept, detach=detach)

    def _add(self, request: int, asked_ns: int, launch: Launch, stdio: Stdio, kept: Kept, *, detach: bool) -> None:
        send, name = self._server.send, kept.container.name
        kept.job = Job(
            request,
            launch,
            stdio,
            send,
            log=kept.log,
            role="container",
            subject=name,
            warnings=kept.container.warnings,
            detach=detach,
            asked_ns=asked_ns,
        )
        self._starts.note(request, launch)
        kept.stopping, self._active = False, True
        self._server.add(kept.job)
        self._limits.follow(kept.job)
        self._checkups.begin(kept)

    def exec(self, call: Call) -> None:
        """Run one more process in a running container: name, options, stdin, detach, window_bytes."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        options = ExecOptions.from_json(get_map(call.arguments, "options"))
        detach, name = get_bool(call.arguments, "detach", False), kept.container.name
        window_bytes = window_of(call.arguments)
        stdio = Stdio.make(tty=options.tty, stdin=get_bool(call.arguments, "stdin", False))
        try:
            launch = self._runtime.exec(kept.container, options, stdio.child, controlling_tty=options.tty)
        except BaseException:
            stdio.close_ours()
            raise
        finally:
            stdio.close_child()
        send = self._server.send
        job = Job(
            call.request,
            launch,
            stdio,
            send,
            watches=name,
            detach=detach,
            window_bytes=window_bytes,
            asked_ns=call.at_ns,
        )
        self._starts.note(call.request, launch)
        self._server.add(job)
        self._limits.follow(job)

    # -- ending

    def kill(self, call: Call) -> dict[str, Any]:
        """Send a signal to a container: name, signal (default SIGTERM)."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        number = get_int(call.arguments, "signal", signal.SIGTERM)
        if number not in signal.valid_signals():
            raise UserError(f"there is no signal {number}", hint="see signal(7)")
        if kept.container.status == "running":
            self._lives.expect_end(kept)
            self._runtime.kill(kept.container, number, everything=number == signal.SIGKILL)
        return {"status": kept.container.status}

    def remove(self, call: Call) -> dict[str, Any]:
        """Remove a container: name, force."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        self._remove(kept, force=get_bool(call.arguments, "force", False))
        return {}

    def _remove(self, kept: Kept, *, force: bool) -> None:
        container = kept.container
        pid = container.pid
        if container.status == "running" and force:
            self._lives.expect_end(kept)
            # PID 1 of a namespace ends after all others are reaped, and what exec started is our child, not its:
            # pid_namespaces(7).
            self._runtime.kill(container, signal.SIGKILL, everything=True)
            self._server.reap_until(lambda: container.status != "running", _END_S)
        if not self._keeper.find(container.name):  # a one-shot, which its end has removed
            return
        was_running = container.status == "running"
        self._runtime.remove(container, force=force)
        self._lives.gone(kept)
        if was_running:  # the runtime reaped it
            self._server.exited(pid, signal.SIGKILL)

    # -- looking

    def list(self, call: Call) -> dict[str, Any]:
        """Return every container's part of the kernel view, and which image it is made of."""
        rows = [{**self._runtime.view(one), "image_digest": one.image.digest} for one in self._runtime.list()]
        return {"containers": rows}

    def inspect(self, call: Call) -> dict[str, Any]:
        """Return all that is known of a container: name."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        if kept.job:
            kept.container.steps_ms = kept.job.steps
        document = self._runtime.inspect(kept.container)
        document["warnings"] = list(kept.job.warnings if kept.job else kept.container.warnings)
        if kept.container.health:
            results = {"failing_streak": kept.failing_streak, "log": kept.health}
            document["health"] = {"status": kept.container.health, **results}
        return document

    def explain(self, call: Call) -> dict[str, Any]:
        """Return the configuration that ``container.run`` would write, and the steps it would take, in order."""
        options = Options.from_json(get_map(call.arguments, "options"))
        return self._runtime.explain(get_str(call.arguments, "name", "") or "c0", options)

    # -- what the loop tells

    def _make_ready(self) -> None:
        """Make what the next container needs, as long as nobody waits: spares, each born by the process that is ready,
        and one more such process for what fits no spare. One at a time: a request may come meanwhile.
        """
        if not self._active or self._server.attended():
            return
        made = False
        with contextlib.suppress(LabError, OSError):  # whoever asks for a container will be told why there is none
            made = self._make_spare()
        if made:
            self._server.timers.after(0.0, self._make_ready)
            return
        self._ready_process()
        self._spare_timer.cancel()
        self._spare_timer = self._server.timers.after(self._spare_s, self._drop_ready)

    def _make_spare(self) -> bool:
        """Make one that is missing, and tell whether there was any."""
        missing = self._runtime.spares.missing(self._last) if self._last else []
        if not self._last or not missing:
            return False
        self._ready_process()
        self._runtime.make_spare(self._unnamed(), self._last, exact=missing[0])
        return True

    def _ready_process(self) -> None:
        with contextlib.suppress(LabError, OSError):  # where ptrace(2) is not allowed, containers are forked
            self._runtime.starter.readiness.make()

    def _drop_ready(self) -> None:
        self._last, self._active = None, False
        self._runtime.starter.readiness.drop()
        with contextlib.suppress(LabError, OSError):
            self._runtime.drop_spares()

    def _reaped(self, pid: int, status: int) -> None:
        self._runtime.starter.readiness.reaped(pid)
        # One that was killed from outside: the next container is made in the ordinary way.
        self._runtime.drop_spares(lambda one: one.launch.pid == pid)
        for container in self._runtime.list():
            if container.pid == pid and container.status == "running":
                self._runtime.exited(container, status)

    def _finished(self, job: Job) -> None:
        kept = self._keeper.find(job.subject)
        if kept is None or kept.job is not job:
            return
        if kept.one_shot or (job.failed and kept.provisional):
            attempt(lambda: self._remove(kept, force=True))
        self._lives.ended(kept, job)


def _nothing() -> None:
    """No spare yet, so no timer."""
