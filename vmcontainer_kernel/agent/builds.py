"""The request that builds an image: a child of the agent does it, with a runtime of its own.

    image.build ── fork ──▶ child: builder ─▶ containers, layers, the image's name ─▶ exit
    STDIN frames ──▶ the context, as an archive, where it is not a folder of this node
    STDOUT frames ◀── steps, what programs write, the image

A signal to the request reaches the child: SIGINT and SIGTERM end the build in order. Whatever the end was, the agent
removes what is left of it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any, NoReturn

from ..container import linux
from ..container.ids import Steward
from ..container.process import take_descriptors
from ..container.reports import Launch
from ..container.runtime import Runtime
from ..errors import CommandFailed, ContainerError, LabError, to_json
from .jobs import Job, Stdio
from .protocol import get_bool, get_map, get_str
from .server import Call, Server

__all__ = ["BuildVerbs"]


class BuildVerbs:
    """The verb ``image.build``: dockerfile (its text), name, arguments, target, network, no_cache, progress; context (a
    folder of this node, or empty: it comes as STDIN if `stdin`), ignore (the text of .dockerignore).
    """

    def __init__(self, server: Server, runtime: Runtime) -> None:
        self._server, self._runtime = server, runtime
        self._numbers = itertools.count(1)
        server.verbs |= {"image.build": self.build, "image.forget": self.forget}

    def build(self, call: Call) -> None:
        """Start a build."""
        order = _Request(call.arguments)
        folder = self._runtime.run_dir / "builds" / str(next(self._numbers))
        folder.mkdir(parents=True)
        stdio = Stdio.make(tty=False, stdin=order.stdin)
        try:
            launch = self._fork(order, folder, stdio.child)
        except BaseException:
            stdio.close_ours()
            raise
        finally:
            stdio.close_child()
        send = self._server.send
        self._server.add(Job(call.request, launch, stdio, send, role="build", on_end=lambda _: self._clean(folder)))

    def forget(self, call: Call) -> dict[str, Any]:
        """Forget the steps that were built, and the layers that only they have."""
        from ..container.build.cache import Cache

        return {"freed_bytes": Cache(self._runtime.store).prune()}

    def _fork(self, order: _Request, folder: Path, stdio: tuple[int, int, int]) -> Launch:
        report_r, report_w = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _child(order, self._runtime, folder, stdio, report_w)
        os.close(report_w)
        return Launch(pid, report_r)

    def _clean(self, folder: Path) -> None:
        """Remove what a killed build has left; its containers died with it (PR_SET_PDEATHSIG)."""
        with contextlib.suppress(LabError, OSError):
            if self._runtime.cgroups:
                for bundle in (folder / "containers").glob("*"):
                    group = self._runtime.cgroups.open(bundle.name)
                    group.kill()
                    group.remove()
            self._runtime.store.steward.remove_tree(folder)


class _Request:
    """The arguments of the call, typed."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.dockerfile, self.name = get_str(arguments, "dockerfile"), get_str(arguments, "name")
        self.arguments = {str(key): str(value) for key, value in get_map(arguments, "arguments", {}).items()}
        self.target, self.network = get_str(arguments, "target", ""), get_str(arguments, "network", "none")
        self.no_cache, self.stdin = get_bool(arguments, "no_cache", False), get_bool(arguments, "stdin", False)
        self.progress = get_str(arguments, "progress", "auto")
        self.context, self.ignore = get_str(arguments, "context", ""), get_str(arguments, "ignore", "")


def _child(order: _Request, runtime: Runtime, folder: Path, stdio: tuple[int, int, int], report_fd: int) -> NoReturn:
    """Build and exit; what goes wrong is reported as `launch.read_report` reads it."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        (report_fd,) = take_descriptors(stdio, report_fd)
        runtime.store.steward = Steward(runtime.store.steward.ids)  # the agent's has its namespace by a descriptor
        os.setsid()
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)
        try:
            _build(order, runtime, folder)
        finally:
            runtime.store.steward.remove_tree(folder)
        status = 0
    except BaseException as error:
        os.write(report_fd, json.dumps({"error": to_json(_told(error))}).encode() + b"\n")
    finally:
        os._exit(status)


def _interrupt(_number: int, _frame: object) -> None:
    """End in order; what ends it must not be interrupted in its turn."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _told(error: BaseException) -> LabError:
    if isinstance(error, KeyboardInterrupt):
        return CommandFailed("the build was interrupted", hint="the steps that were done are kept in the cache")
    if isinstance(error, LabError):
        return error
    return ContainerError(f"the build failed: {type(error).__name__}: {error}", where="build")


def _build(order: _Request, runtime: Runtime, folder: Path) -> None:
    from ..container.build.builder import Builder, StagedStore
    from ..container.build.context import Place
    from ..container.build.dockerfile import parse
    from ..container.build.ignore import read_ignore
    from ..container.build.plan import Given, Order
    from ..container.images.shelf import full_name

    given = Given(order.arguments, os.uname().machine, order.network)
    wanted = Order(parse(order.dockerfile), given, full_name(order.name), order.target, order.no_cache)
    context = order.context
    if order.stdin:
        context = str(folder / "context")
        _receive(folder)
    place = None
    if context:
        fd = os.open(context, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        place = Place(fd, read_ignore(order.ignore))
    kept = runtime.store
    store = StagedStore(kept.path, kept.steward, unpacked=kept.unpacked)
    own = Runtime(folder, store, session=runtime.session, cgroups=runtime.cgroups, footing=runtime.footing)
    Builder(own, store, folder, wanted, place).build(1, order.progress)


def _receive(folder: Path) -> None:
    from ..container import transfer

    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(0, "rb", closefd=False) as source:
            transfer.unpack(fd, source)
    finally:
        os.close(fd)
