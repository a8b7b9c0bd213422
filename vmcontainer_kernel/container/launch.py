"""From plan to process: clone, the conversation between parent and child, and the child's report.

    parent                                    child
      clone(CLONE_NEW…) ───────────────────────▶ steps, each timed
      ids mapped                 ── "+" ──▶      (only in a user namespace)
      group made                 ── "+" ──▶      joins it, unshare(CLONE_NEWCGROUP), more steps
                   ◀── report: {"step", "ms"}… ── execve: both pipes close
                   ◀── or {"error": …} ────────── exit 125, 126 or 127, as docker-run(1)

The child never returns into the caller's code: it becomes the program or it exits.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.cgroups import Cgroup
from vmcontainer_kernel.container.process import (
    CANNOT_RUN,
    NOT_FOUND,
    SETUP_FAILED,
    reset_signals,
    signals_to_reset,
    take_descriptors,
)
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError, HostError, LabError, from_json, to_json

__all__ = ["Launch", "Report", "Stdio", "clone_child", "enter_child", "has_executed", "read_report", "run_steps"]

Stdio = tuple[int, ...]
"""The descriptors a program gets as 0, 1, 2 and, if there are more, from 3 on."""
_ALL_SIGNALS = signal.valid_signals()


@dataclass(frozen=True)
class Launch:
    """A process on its way: its pid (the caller reaps it), and a pipe that ends when it has become the program or
    failed.
    """

    pid: int
    report_fd: int


@dataclass(frozen=True)
class Report:
    """What a child did: (step, milliseconds) in order; `error` if one failed; `complete` if the program was about to
    run or an error told.
    """

    steps: list[tuple[str, float]]
    error: LabError | None
    complete: bool


def read_report(data: bytes) -> Report:
    """Read all that came from `Launch.report_fd`."""
    steps: list[tuple[str, float]] = []
    error: LabError | None = None
    ready = False
    for line in data.splitlines():
        document = json.loads(line)
        if "error" in document:
            error = from_json(document["error"])
        elif document.get("ready"):
            ready = True
        else:
            steps.append((str(document["step"]), float(document["ms"])))
    return Report(steps, error, ready or error is not None)


def clone_child(
    flags: int,
    steps: Sequence[Step],
    stdio: Stdio,
    group_fd: int,
    set_up: Callable[[int, Callable[[], None]], None],
    extra: Sequence[int] = (),
) -> tuple[Launch, int]:
    """Clone a child that executes `steps`; return it and the descriptor for `has_executed`.

    `extra`: descriptors for the steps alone (`Scene.extra`).
    `set_up(pid, go)` is the parent's part; it calls `go` for each go-ahead. If it raises, the child is ended and
    reaped.
    """
    report_r, report_w = os.pipe2(os.O_CLOEXEC)
    ours, theirs = socket.socketpair()
    sync_w, sync_r = ours.detach(), theirs.detach()
    handled = signals_to_reset()
    try:
        pid = _clone(flags, lambda: _child(steps, (stdio, report_w, sync_r, *extra), handled), group_fd)
    except OSError as error:
        os.close(report_r)
        os.close(sync_w)
        raise _clone_error(error) from error
    finally:
        os.close(report_w)
        os.close(sync_r)
    try:
        set_up(pid, lambda: _go(sync_w))
    except BaseException:
        _abandon(pid, report_r, sync_w)
        raise
    return Launch(pid, report_r), sync_w


def _clone(flags: int, child: Callable[[], NoReturn], group_fd: int) -> int:
    """Fork by clone(2); all signals are blocked meanwhile, so that no handler of the parent's runs in the child."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        pid = linux.clone(flags, group_fd)
        if pid == 0:
            child()
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _go(sync_fd: int) -> None:
    # EPIPE: the child has failed already; its report tells why.
    with contextlib.suppress(BrokenPipeError):
        os.write(sync_fd, b"+")


def _abandon(pid: int, *fds: int) -> None:
    for fd in fds:
        os.close(fd)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _clone_error(error: OSError) -> LabError:
    name = errno.errorcode.get(error.errno or 0, "?")
    if error.errno in (errno.EPERM, errno.ENOSYS, errno.EINVAL):
        return HostError(
            f"this node does not let us make namespaces: {error.strerror}",
            hint="run it in a guest, which has a kernel of its own: --on vm",
            where=f"clone: {name}",
        )
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        hint = "see /proc/sys/user/max_*_namespaces; remove containers, or run it in a guest: --on vm"
        return HostError("this node allows no more namespaces", hint=hint, where=f"clone: {name}")
    return ContainerError(
        f"no process could be made: {error.strerror}", hint="remove containers, then try again", where=f"clone: {name}"
    )


def has_executed(sync_fd: int, timeout_s: float) -> bool:
    """Wait until the child has become the program or ended: then its socket is closed (poll(2): POLLHUP)."""
    poller = select.poll()
    poller.register(sync_fd, 0)
    return bool(poller.poll(timeout_s * 1000))


def _child(steps: Sequence[Step], fds: tuple[Any, ...], handled: list[int]) -> NoReturn:
    status = SETUP_FAILED
    try:
        gc.disable()  # a collection would touch, and so copy, every page shared with the parent
        signal.set_wakeup_fd(-1)
        reset_signals(handled)
        report_fd, sync_fd, *extra = take_descriptors(*fds)
        status = run_steps(steps, Scene(report_fd, sync_fd, tuple(extra)))
    finally:
        os._exit(status)


def run_steps(steps: Sequence[Step], scene: Scene) -> int:
    """Execute the steps; return only if one fails, with the exit status for it."""
    step, begin_ns = steps[0], time.perf_counter_ns()
    try:
        for step in steps:
            step.execute(scene)
            now_ns = time.perf_counter_ns()
            scene.lines.append(f'{{"step": "{step.name}", "ms": {(now_ns - begin_ns) / 1e6:.3f}}}\n')
            begin_ns = now_ns
    except BaseException as error:
        told = error if isinstance(error, LabError) else _step_error(step, error)
        scene.lines.append(json.dumps({"error": to_json(told)}) + "\n")
        scene.flush()
        return {"exec: ENOENT": NOT_FOUND}.get(
            told.where, CANNOT_RUN if told.where.startswith("exec:") else SETUP_FAILED
        )
    return SETUP_FAILED


_HINTS = {
    errno.EPERM: "this node does not allow it; run it in a guest: --on vm",
    errno.ENOSPC: "the disk, or a table of the kernel, is full: remove containers and free some space",
    errno.EROFS: "the root is read-only; leave out --read-only or choose another folder",
    errno.ENODEV: "this node's kernel lacks that file system; run it in a guest: --on vm",
    errno.ENOMEM: "the memory limit is too small to start a program: give more",
    errno.EAGAIN: "the limit of processes is reached: raise --pids-limit or end some",
}


def _step_error(step: Step, error: BaseException) -> ContainerError:
    where = f"step {step.name}: {step.call}"
    if not isinstance(error, OSError):
        return ContainerError(f"{step.name} failed: {type(error).__name__}: {error}", where=where)
    subject = f" ({error.filename})" if error.filename else ""
    return ContainerError(
        f"{step.name} failed: {error.strerror}{subject}", hint=_HINTS.get(error.errno or 0, ""), where=where
    )


def enter_child(
    flags: int,
    init_pid: int,
    steps: Sequence[Step],
    stdio: Stdio,
    group: Cgroup | None,
    extra: Sequence[int] = (),
) -> Launch:
    """Start a process inside the namespaces `flags` of the process `init_pid` and in `group`.

    A pid namespace is entered by children only (pid_namespaces(7)), so a short-lived helper joins the namespaces and
    clones the process as its own sibling (CLONE_PARENT): the caller is the parent and gets the pid.
    """
    pidfd, group_fd = os.pidfd_open(init_pid), group.open_for_birth() if group else -1
    report_r, report_w = os.pipe2(os.O_CLOEXEC)
    answer_r, answer_w = os.pipe2(os.O_CLOEXEC)
    handled = signals_to_reset()
    try:
        helper = _clone(
            0, lambda: _helper(flags, steps, (stdio, report_w, answer_w, pidfd, *extra), handled, group), group_fd
        )
    except OSError as error:
        os.close(report_r)
        os.close(answer_r)
        raise _clone_error(error) from error
    finally:
        for fd in (pidfd, group_fd, report_w, answer_w):
            if fd >= 0:
                os.close(fd)
    os.waitpid(helper, 0)
    answer = os.read(answer_r, 16)
    os.close(answer_r)
    if not answer:
        with open(report_r, "rb") as stream:
            report = read_report(stream.read())
        raise report.error or ContainerError(
            "the process ended while it entered the container",
            hint="is its memory limit reached? see inspect",
            where="setns",
        )
    return Launch(int(answer), report_r)


def _helper(
    flags: int, steps: Sequence[Step], fds: tuple[Any, ...], handled: list[int], group: Cgroup | None
) -> NoReturn:
    status = SETUP_FAILED
    try:
        gc.disable()
        signal.set_wakeup_fd(-1)
        reset_signals(handled)
        report_fd, answer_fd, pidfd, *extra = take_descriptors(*fds)
        scene = Scene(report_fd, extra=tuple(extra))
        enter = Step("enter", "setns(pidfd, …)", "", "setns(2)", lambda _: _enter(flags, pidfd, group))
        fork = Step("fork", "clone(CLONE_PARENT)", "", "clone(2)", lambda _: _fork_sibling(steps, scene, answer_fd))
        status = run_steps([enter, fork], scene)
    finally:
        os._exit(status)


def _enter(flags: int, pidfd: int, group: Cgroup | None) -> None:
    # Not dumpable: from now on processes of the container see this one, and must not reach the agent's program through
    # /proc/PID/exe (CVE-2019-5736). execve makes the user's program dumpable again.
    if group is not None:
        group.join()
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.setns(pidfd, flags)


def _fork_sibling(steps: Sequence[Step], scene: Scene, answer_fd: int) -> None:
    pid = linux.clone(linux.CLONE_PARENT)
    if pid:
        os.write(answer_fd, str(pid).encode())
        os._exit(0)
    os.close(answer_fd)
    os._exit(run_steps(steps, scene))
