"""The three commands that start a program: ``create``, ``run`` and ``exec``, from their options to their effects."""

from __future__ import annotations

import os

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.oci import lifecycle
from vmcontainer_kernel.container.oci.arguments import Arguments
from vmcontainer_kernel.container.oci.lifecycle import Request
from vmcontainer_kernel.container.oci.state import Folder
from vmcontainer_kernel.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmcontainer_kernel.container.oci.foreground import Signals

__all__ = ["create", "execute", "run"]

_PR_SET_CHILD_SUBREAPER = 36
_REFUSED = {
    "no-pivot": "without pivot_root the node's files stay reachable below the container's root",
    "process-label": "this runtime does not know SELinux",
    "apparmor": "this runtime does not know AppArmor",
    "cgroup": "a process joins the container's own group",
}


def _refuse(arguments: Arguments) -> None:
    for name, why in _REFUSED.items():
        if arguments.has(name):
            raise UserError(f"--{name} cannot be honoured: {why}")


def _request(arguments: Arguments, *, gated: bool, console_fd: int) -> Request:
    return Request(
        id=arguments.only("ID")[0],
        bundle=arguments.text("bundle", "."),
        console_fd=console_fd,
        preserve_fds=_preserved(arguments),
        keyring=not arguments.flag("no-new-keyring"),
        gated=gated,
    )


def _preserved(arguments: Arguments) -> int:
    """Return how many descriptors above 2 the program gets: those asked for, and those of sd_listen_fds(3)."""
    count = arguments.number("preserve-fds") + int(os.environ.get("LISTEN_FDS") or 0)
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError:
            raise UserError(f"descriptor {fd} is not open", where="--preserve-fds") from None
    return count


def _console(arguments: Arguments) -> int:
    if not (path := arguments.text("console-socket")):
        return -1
    from vmcontainer_kernel.container.oci.console import connect

    return connect(path)


def _write_pid(arguments: Arguments, pid: int) -> None:
    """Write the pid file, so that whoever waits for it sees all of it or nothing."""
    if path := arguments.text("pid-file"):
        side = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}~")
        with open(side, "w", encoding="ascii") as stream:
            stream.write(str(pid))
        os.rename(side, path)


def create(root: str, arguments: Arguments) -> int:
    """Make a container that waits for ``start``."""
    _refuse(arguments)
    request = _request(arguments, gated=True, console_fd=_console(arguments))
    _write_pid(arguments, lifecycle.create(root, request))
    return 0


def run(root: str, arguments: Arguments) -> int:
    """Make a container, run its program and, if not ``--detach``, wait for it and delete the container."""
    _refuse(arguments)
    name, detach = arguments.only("ID")[0], arguments.flag("detach")
    terminal, ours = lifecycle.wants_terminal(arguments.text("bundle", ".")), -1
    console_fd = _console(arguments)
    if terminal and not detach and console_fd < 0:
        from vmcontainer_kernel.container.oci.console import socket_pair

        ours, console_fd = socket_pair()
    if not detach and not arguments.flag("no-subreaper"):
        linux.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signals = None if detach else _signals()
    pid = lifecycle.create(root, _request(arguments, gated=False, console_fd=console_fd))
    _write_pid(arguments, pid)
    if signals is None:
        return 0
    status = _wait(pid, signals, ours)
    if not arguments.flag("keep"):
        lifecycle.delete(Folder(root, name), force=True)
    return status


def _signals() -> Signals:
    from vmcontainer_kernel.container.oci.foreground import Signals

    return Signals()


def _wait(pid: int, signals: Signals, socket_fd: int) -> int:
    from vmcontainer_kernel.container.oci.foreground import wait_for

    if socket_fd < 0:
        return wait_for(pid, signals)
    from vmcontainer_kernel.container.oci.console import receive_master

    return wait_for(pid, signals, receive_master(socket_fd))


def execute(root: str, arguments: Arguments) -> int:
    """Run one more program in a container."""
    from vmcontainer_kernel.container.oci import execute as executing

    _refuse(arguments)
    if not arguments.rest:
        arguments.only("ID", "PROGRAM")
    name, *program = arguments.rest
    changes = executing.Changes(
        args=tuple(program),
        cwd=arguments.text("cwd"),
        env=tuple(arguments.items("env")),
        user=arguments.text("user"),
        groups=tuple(_group(one) for one in arguments.items("additional-gids")),
        capabilities=tuple(arguments.items("cap")),
        no_new_privileges=arguments.flag("no-new-privs"),
        terminal=arguments.flag("tty"),
    )
    folder, detach = Folder(root, name), arguments.flag("detach")
    process = executing.process_of(folder, arguments.text("process"), changes)
    console_fd, ours = _console(arguments), -1
    if arguments.flag("tty"):
        process = process.replace(terminal=True)
    if process.terminal and not detach and console_fd < 0:
        from vmcontainer_kernel.container.oci.console import socket_pair

        ours, console_fd = socket_pair()
    signals = None if detach else _signals()
    pid = executing.execute(
        folder,
        process,
        console_fd=console_fd,
        preserve_fds=_preserved(arguments),
        ignore_paused=arguments.flag("ignore-paused"),
    )
    _write_pid(arguments, pid)
    return 0 if signals is None else _wait(pid, signals, ours)


def _group(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"--additional-gids is a number, not {text!r}")
    return int(text)
