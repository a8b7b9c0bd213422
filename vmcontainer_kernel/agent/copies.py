"""The requests that copy files in and out of containers: a child of the agent does it, as its streams may wait.

    copy_out   child: pack(root) ──▶ stdout ──▶ STDOUT frames
    copy_in    STDIN frames ──▶ stdin ──▶ child: unpack(root)

The root of a container that runs is /proc/PID/root, of another one its overlay, mounted where nobody else sees it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from ..container import linux
from ..container.container import Container
from ..container.ids import Steward
from ..container.overlay import Overlay
from ..container.process import reset_signals, signals_to_reset, take_descriptors
from ..container.reports import Launch
from ..container.runtime import Runtime
from ..container.step import Scene
from ..errors import ContainerError, LabError, UserError, to_json
from .jobs import Job, Stdio
from .kept import Keeper
from .protocol import get_bool, get_str
from .server import Call, Server

__all__ = ["CopyVerbs", "GuestCopyVerbs", "begin"]

Action = Callable[[Container], None]


class CopyVerbs:
    """The verbs ``container.copy_out`` and ``container.copy_in``: name, path."""

    def __init__(self, server: Server, runtime: Runtime, keeper: Keeper) -> None:
        self._server, self._runtime, self._keeper = server, runtime, keeper
        server.verbs |= {"container.copy_out": self.copy_out, "container.copy_in": self.copy_in}

    def copy_out(self, call: Call) -> None:
        """Send a file or folder as an archive (tar); what is left out is told on STDERR."""
        path, steward = get_str(call.arguments, "path"), self._runtime.store.steward
        self._start(call, lambda container: _pack(_root(container, steward), path), stdin=False)

    def copy_in(self, call: Call) -> None:
        """Write an archive (tar) that comes as STDIN to a place in the container."""
        path, steward = get_str(call.arguments, "path"), self._runtime.store.steward
        self._start(call, lambda container: _unpack(_root(container, steward), path, exact=False), stdin=True)

    def _start(self, call: Call, action: Action, *, stdin: bool) -> None:
        container = self._keeper.get(get_str(call.arguments, "name")).container
        if container.status != "running":
            _refuse_mounted(container, get_str(call.arguments, "path"))
            self._runtime.renew(container)
        begin(self._server, call.request, lambda: action(container), stdin=stdin)


class GuestCopyVerbs:
    """The verbs ``copy_out`` and ``copy_in`` of a guest, for its own files; the host's are the notebook's already."""

    def __init__(self, server: Server) -> None:
        self._server = server
        server.verbs |= {"copy_out": self.copy_out, "copy_in": self.copy_in}

    def copy_out(self, call: Call) -> None:
        """Send a file or folder as an archive: path."""
        path = get_str(call.arguments, "path")
        begin(self._server, call.request, lambda: _pack(_own_root(), path), stdin=False)

    def copy_in(self, call: Call) -> None:
        """Write an archive that comes as STDIN to a place: path; `exact`: that is the copy's own name, also if there is
        a folder of this name, and the folders above it are made.
        """
        path, exact = get_str(call.arguments, "path"), get_bool(call.arguments, "exact", False)
        begin(self._server, call.request, lambda: _unpack(_own_root(), path, exact=exact), stdin=True)


def _pack(root_fd: int, path: str) -> None:
    from ..container import transfer

    with open(1, "wb", closefd=False) as out:
        left_out = transfer.pack(root_fd, path, out)
    if left_out:
        os.write(2, f"[not copied, as they are no files: {' '.join(left_out[:20])}]\n".encode())


def _unpack(root_fd: int, path: str, *, exact: bool) -> None:
    from ..container import transfer

    if exact:
        parent, name = os.path.split("/" + path.strip("/"))
        Path(parent).mkdir(parents=True, exist_ok=True)
        folder_fd = transfer.open_in_root(root_fd, parent, os.O_RDONLY | os.O_DIRECTORY)
    else:
        folder_fd, name = transfer.arrival(root_fd, path)
    with open(0, "rb", closefd=False) as source:
        transfer.unpack(folder_fd, source, name)


def _own_root() -> int:
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _refuse_mounted(container: Container, path: str) -> None:
    """Refuse a place where nothing is mounted as long as the container does not run."""
    place = os.path.normpath("/" + path.lstrip("/")).lstrip("/") + "/"
    for one in (*container.options.volumes, *container.options.tmpfs):
        if place.startswith(one.target.strip("/") + "/"):
            raise UserError(
                f"{one.target} is mounted only while container {container.name} runs, and it is {container.status}",
                hint=f"%container start {container.name} first; %container volume inspect tells a volume's own folder",
                where=one.target,
            )


def begin(
    server: Server,
    request: int,
    action: Callable[[], None],
    *,
    stdin: bool = False,
    on_end: Callable[[Job], None] | None = None,
) -> None:
    """Let a child do `action`, which may take its time; the request is answered when it has ended, with the error it
    raised if it did.
    """
    stdio = Stdio.make(tty=False, stdin=stdin)
    try:
        launch = _fork(action, stdio.child)
    except BaseException:
        stdio.close_ours()
        raise
    finally:
        stdio.close_child()
    server.add(Job(request, launch, stdio, server.send, role="copy", on_end=on_end))


def _fork(action: Callable[[], None], stdio: tuple[int, int, int]) -> Launch:
    report_r, report_w = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _child(action, stdio, report_w)
    os.close(report_w)
    return Launch(pid, report_r)


def _child(action: Callable[[], None], stdio: tuple[int, int, int], report_fd: int) -> None:
    """Do it and exit; what goes wrong is reported as `launch.read_report` reads it."""
    status = 1
    try:
        # The agent's signals are not ours: a number written to its pipe would land in a file that is being copied.
        signal.set_wakeup_fd(-1)
        reset_signals(signals_to_reset())
        (report_fd,) = take_descriptors(stdio, report_fd)
        linux.prctl(linux.PR_SET_PDEATHSIG, 9)
        action()
        status = 0
    except BaseException as error:
        told = error if isinstance(error, LabError) else ContainerError(f"the copy failed: {error}", where="copy")
        os.write(report_fd, json.dumps({"error": to_json(told)}).encode() + b"\n")
    finally:
        os._exit(status)


def _root(container: Container, steward: Steward) -> int:
    """Return the container's root, opened, and become who may reach all that is in it."""
    if container.status == "running":
        root = os.open(f"/proc/{container.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        steward.enter()
        return root
    rootless = "user" in container.spec.linux.new_kinds
    alone = rootless and steward.ids is None
    steward.enter()
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWNS | (linux.CLONE_NEWUSER if alone else 0))
    if alone:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    bundle, scene = str(container.bundle), Scene(-1)
    layers = tuple(str(path) for path in container.layers)
    Overlay(bundle, f"{bundle}/{container.spec.root.path}", layers, user_namespace=rootless).mount(scene)
    return os.open(scene.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
