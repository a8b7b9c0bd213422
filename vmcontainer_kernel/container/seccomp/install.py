"""Loads a filter into the kernel, and hands the calls it leaves open to whoever decides them.

child                                    parent                       agent at listenerPath
  seccomp(…, NEW_LISTENER) = 5
  "5" ────────────────────────────────▶  pidfd_getfd(child, 5)
                                         connect, send ─────────────▶ container process state, SCM_RIGHTS
  goes on ◀──────────────────── "+"
  execve
"""

from __future__ import annotations

import os

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.light import partial
from vmcontainer_kernel.container.seccomp.cache import folder, program
from vmcontainer_kernel.container.spec import Seccomp, Spec
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeGuard

__all__ = ["FLAGS", "has_listener", "ordered", "pass_on", "seccomp_steps", "waiting_for"]

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1 << 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}
"""What the configuration may ask for (linux/seccomp.h)."""

_NEW_LISTENER, _TSYNC_ESRCH = 1 << 3, 1 << 4
_NOTIFY = "SCMP_ACT_NOTIFY"


def seccomp_steps(seccomp: Seccomp | None) -> list[Step]:
    """Return the step that loads the filter, compiled now; none if there is no filter.

    Where it belongs: with no_new_privs as late as possible, as it judges the set-up's own calls too; without, before
    the ids and capabilities change, as only CAP_SYS_ADMIN may load a filter then (seccomp(2)).
    """
    if seccomp is None:
        return []
    if has_listener(seccomp) and not _may_write(seccomp):
        where = "linux.seccomp.syscalls"
        raise SpecError(f"{where} must allow write beside {_NOTIFY}: it is how the agent is told", where=where)
    flags, code = _flags(seccomp), program(seccomp, folder())
    names = " | ".join(seccomp.flags) or "SECCOMP_FILTER_FLAG_SPEC_ALLOW"
    return [
        Step(
            "seccomp",
            f"seccomp(SECCOMP_SET_MODE_FILTER, {names}, {len(code) // 8} instructions)",
            f"closes what the program does not need of the kernel, for all it starts too: {_summary(seccomp)}",
            "seccomp(2)",
            partial(_load, code, flags, may_write=_may_write(seccomp)),
        )
    ]


def ordered(spec: Spec, last: Sequence[Step], made: Sequence[Step] | None = None) -> tuple[list[Step], list[Step]]:
    """Return the filter's step (`made` if it is already), and the `last` steps before the program: wherever it may, the
    filter comes after them.

    One that leaves calls to an agent comes before them, with no_new_privs too: they wait for `start`, and the parent
    must still be there to `pass_on`.
    """
    steps = seccomp_steps(spec.linux.seccomp) if made is None else [*made]
    if has_listener(spec.linux.seccomp) and spec.process.no_new_privileges:
        return [], [*steps, *last]
    return steps, list(last)


def has_listener(seccomp: Seccomp | None) -> TypeGuard[Seccomp]:
    """Tell whether the filter leaves calls to an agent."""
    return seccomp is not None and any(rule.action == _NOTIFY for rule in seccomp.rules)


def _summary(seccomp: Seccomp) -> str:
    named = {name for rule in seccomp.rules for name in rule.names}
    return f"{seccomp.default_action} for all but {len(named)}"


def _flags(seccomp: Seccomp) -> int:
    # Without a word on flags: as runc, no brake against speculation (Spectre v4), which Linux 5.16 left off as well.
    names = set(seccomp.flags) or {"SECCOMP_FILTER_FLAG_SPEC_ALLOW"}
    flags = sum(FLAGS[name] for name in names)
    if not has_listener(seccomp):
        return flags & ~FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]  # means something to a listener only
    return flags | _NEW_LISTENER | (_TSYNC_ESRCH if flags & FLAGS["SECCOMP_FILTER_FLAG_TSYNC"] else 0)


def _may_write(seccomp: Seccomp) -> bool:
    found = [rule.action for rule in seccomp.rules if "write" in rule.names and not rule.args]
    return (found or [seccomp.default_action])[0] in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")


def _load(code: bytes, flags: int, scene: Scene, *, may_write: bool) -> None:
    if not may_write:
        scene.ready()  # afterwards nothing can be reported
    fd = linux.seccomp(code, flags)
    if flags & _NEW_LISTENER:
        os.write(scene.sync_fd, str(fd).encode())
        scene.await_parent()


def pass_on(seccomp: Seccomp | None, state: Callable[[], dict[str, Any]], pid: int, sync_fd: int) -> None:
    """Do the parent's part for a filter that leaves calls to an agent; nothing for any other.

    `state`: asked when it is needed, the OCI state; `pid`: the process the filter is for, as the runtime sees it;
    `sync_fd`: our end of the child's `Scene.sync_fd`.
    """
    if not has_listener(seccomp) or not (number := os.read(sync_fd, 16)):
        return  # if it has failed, its report tells why
    pidfd = os.pidfd_open(pid)
    try:
        fd = linux.pidfd_getfd(pidfd, int(number))
    finally:
        os.close(pidfd)
    try:
        _send(seccomp, state(), pid, fd)
    finally:
        os.close(fd)
    os.write(sync_fd, b"+")


def waiting_for(seccomp: Seccomp | None, state: Callable[[], dict[str, Any]]) -> Callable[[int, int], None] | None:
    """Return what the parent of one more process in a container has to do (`launch.enter_child`), or None."""
    if not has_listener(seccomp):
        return None
    return lambda pid, sync_fd: pass_on(seccomp, state, pid, sync_fd)


def _send(seccomp: Seccomp, state: dict[str, Any], pid: int, fd: int) -> None:
    """Give the agent the descriptor, with the container process state (config-linux.md)."""
    import json
    import socket

    document = {"ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": pid, "state": state}
    if seccomp.listener_metadata:
        document["metadata"] = seccomp.listener_metadata
    data = json.dumps(document).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(10)
            sock.connect(seccomp.listener_path)
            sent = socket.send_fds(sock, [data], [fd])
            sock.sendall(data[sent:])
    except OSError as error:
        raise ContainerError(
            f"the agent at {seccomp.listener_path} cannot be told of the filter: {error.strerror or error}",
            hint="linux.seccomp.listenerPath must be a socket on which somebody listens",
            where="step seccomp",
        ) from error
