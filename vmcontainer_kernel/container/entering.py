"""One more process in a container: a helper joins its namespaces and clones the process as its own sibling."""

from __future__ import annotations

import _socket
import os
from collections.abc import Callable, Sequence
from functools import partial

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.cgroups import Cgroup
from vmcontainer_kernel.container.launch import Clone, Entry, Start, Stdio, abandon, clone_by_helper, instead_of
from vmcontainer_kernel.container.namespaces import flag_text
from vmcontainer_kernel.container.process import signals_to_reset
from vmcontainer_kernel.container.reports import Launch
from vmcontainer_kernel.container.scheduling import pin
from vmcontainer_kernel.container.settings import oom_steps
from vmcontainer_kernel.container.spec import Process
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError

__all__ = ["enter_child", "enter_step"]


def enter_child(
    flags: int,
    init_pid: int,
    steps: Sequence[Step],
    stdio: Stdio,
    group: Cgroup | None,
    extra: Sequence[int] = (),
    process: Process | None = None,
    set_up: Callable[[int, int], None] | None = None,
    clone: Callable[[int], Clone] | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> Launch:
    """Start a process inside the namespaces `flags` of the process `init_pid` and in `group`; `process` may say on
    which CPUs it begins and ends up, and how soon it is killed when memory runs out.

    `set_up(pid, sync_fd)`: the parent's part, if the steps wait for one; if it raises, the child is ended and reaped.
    `clone(pidfd)`: what makes the process, if not this one. `alive()`: whether `init_pid` is still the container's, for
    who is not its parent: asked when nobody else can become it any more.
    """
    pidfd = _open(init_pid, alive)
    group_fd = group.open_for_birth() if group else -1
    report_r, report_w = os.pipe2(os.O_CLOEXEC)
    ours, theirs = (one.detach() for one in _socket.socketpair()) if set_up else (-1, -1)
    start = Start(steps, stdio, report_w, theirs, tuple(extra), (("pidfd", pidfd),), tuple(signals_to_reset()))
    cpus = (process.initial_cpus, process.final_cpus) if process else ("", "")
    enter = enter_step(flags, group, cpus)
    first = oom_steps(process) if process else []
    try:
        make = clone(pidfd) if clone else partial(clone_by_helper, entry=Entry((*first, enter)), gate=None)
        pid = make(0, start, group_fd)
    except BaseException as error:
        os.close(report_w)
        report_w = -1
        told = instead_of(error, report_r)
        _close(report_r, ours)
        if told is error:
            raise
        raise told from error
    finally:
        _close(pidfd, group_fd, report_w, theirs)
    if set_up:
        try:
            set_up(pid, ours)
        except BaseException:
            abandon(pid, report_r, ours)
            raise
        os.close(ours)
    return Launch(pid, report_r)


def enter_step(flags: int, group: Cgroup | None, cpus: tuple[str, str] = ("", "")) -> Step:
    """Return the helper's step; `cpus`: those on which it begins and ends up."""
    kinds = tuple(kind for kind, flag in linux.NAMESPACE_FLAGS.items() if flags & flag)
    return Step(
        "enter",
        f"setns(pidfd, {flag_text(kinds)})",
        "one call joins the namespaces of the container's first process; a new pid namespace is for children only, so"
        " the command is a child",
        "setns(2), pid_namespaces(7)",
        lambda scene: _enter(flags, scene, group, cpus),
    )


def _open(pid: int, alive: Callable[[], bool]) -> int:
    pidfd = os.pidfd_open(pid)
    if not alive():
        os.close(pidfd)
        raise ContainerError("the container has ended meanwhile", where="pidfd_open")
    return pidfd


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _enter(flags: int, scene: Scene, group: Cgroup | None, cpus: tuple[str, str]) -> None:
    pin(cpus[0], "process.execCPUAffinity.initial")
    if group is not None:
        group.join()
    pin(cpus[1], "process.execCPUAffinity.final")
    # Not dumpable: from now on processes of the container see this one, and must not reach the agent's program through
    # /proc/PID/exe (CVE-2019-5736). execve makes the user's program dumpable again.
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.setns(scene.handed["pidfd"], flags)
