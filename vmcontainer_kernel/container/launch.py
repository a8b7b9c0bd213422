"""From plan to process: clone, the conversation between parent and child, and the child's report.

    parent                                    child
      clone(CLONE_NEW…) ───────────────────────▶ steps, each timed
      ids mapped                 ── "+" ──▶      (only in a new user namespace)
      group made                 ── "+" ──▶      joins it, unshare(CLONE_NEWCGROUP), more steps
      hooks run                  ◀── "?" ──      (only if there are any)
                         ── "+", state ──▶       its own hooks, more steps
                   ◀── report: {"step", "ms"}… ── execve: both pipes close
                   ◀── or {"error": …} ────────── exit 125, 126 or 127, as docker-run(1)

Where namespaces are joined, a helper comes first, which enters them and clones the child as its own sibling
(CLONE_PARENT), so that the caller is its parent:

    parent ── fork ──▶ helper ── setns, unshare ── "map" ──▶ parent maps ids ── "+" ──▶ clone(CLONE_PARENT|CLONE_NEW…)

The child never returns into the caller's code: it becomes the program or it exits.
"""

from __future__ import annotations

import _socket  # `socket` and `json` take too long to import for a command of the runtime
import errno
import gc
import os
import select
import time

from vmcontainer_kernel.container import jsontext, linux
from vmcontainer_kernel.container.csignal import signal
from vmcontainer_kernel.container.light import suppress
from vmcontainer_kernel.container.process import (
    CANNOT_RUN,
    NOT_FOUND,
    SETUP_FAILED,
    reset_signals,
    signals_to_reset,
    take_descriptors,
)
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.reports import Launch, read_report
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError, HostError, LabError, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn, TypeAlias

__all__ = [
    "Clone",
    "Entry",
    "Gate",
    "Start",
    "Stdio",
    "abandon",
    "begin",
    "clone_by_helper",
    "clone_child",
    "clone_error",
    "has_executed",
    "instead_of",
    "run_steps",
]

Stdio = tuple[int, ...]
"""The descriptors a program gets as 0, 1, 2 and, if there are more, from 3 on."""
_ALL_SIGNALS = signal.valid_signals()


class Gate:
    """The parent's end of the conversation with the child; calling it is a go-ahead."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __call__(self, message: bytes = b"") -> None:
        """Let the child go on, with something to read if it asked."""
        # EPIPE: the child has failed already; its report tells why.
        with suppress(BrokenPipeError):
            os.write(self.fd, b"+" + message)

    def wait(self) -> bool:
        """Wait until the child asks; False if it failed instead."""
        try:
            return os.read(self.fd, 1) == b"?"
        except ConnectionResetError:
            return False


class Entry(Record):
    """What comes before the clone: `steps` of a helper, `handed` to it or the child by name, and `map_ids(pid)` if a
    user namespace is made.
    """

    steps: tuple[Step, ...] = ()
    handed: tuple[tuple[str, int], ...] = ()
    map_ids: Callable[[int], None] | None = None


class Start(Record):
    """All a child is told; `others` it gets by name, and closes before the program runs."""

    steps: Sequence[Step]
    stdio: Stdio
    report_fd: int
    sync_fd: int = -1
    extra: tuple[int, ...] = ()
    others: tuple[tuple[str, int], ...] = ()
    signals: tuple[int, ...] = ()


Clone: TypeAlias = "Callable[[int, Start, int], int]"
"""What makes a child: (CLONE_NEW* flags, what it is told, a version 2 group's descriptor or -1) to its pid."""


def clone_child(
    flags: int,
    steps: Sequence[Step],
    stdio: Stdio,
    group_fd: int,
    set_up: Callable[[int, Gate], None],
    extra: Sequence[int] = (),
    entry: Entry = Entry(),  # noqa: B008 - a frozen value
    clone: Clone | None = None,
) -> tuple[Launch, int]:
    """Clone a child that executes `steps`; return it and the descriptor for `has_executed`.

    `extra`: descriptors for the steps alone (`Scene.extra`); `clone`: what makes the child, if not this process.
    `set_up(pid, gate)` is the parent's part; it calls `gate` for each go-ahead. If it raises, the child is ended and
    reaped.
    """
    report_r, report_w = os.pipe2(os.O_CLOEXEC)
    ours, theirs = _socket.socketpair()
    gate, sync_r = Gate(ours.detach()), theirs.detach()
    start = Start(steps, stdio, report_w, sync_r, tuple(extra), entry.handed, tuple(signals_to_reset()))
    pid = 0
    try:
        try:
            if entry.steps:
                pid = clone_by_helper(flags, start, group_fd, entry, gate)
            else:
                pid = (clone or _clone)(flags, start, group_fd)
        finally:
            os.close(report_w)
            os.close(sync_r)
        if entry.map_ids and not entry.steps:
            entry.map_ids(pid)
            gate()
        set_up(pid, gate)
    except BaseException as error:
        told = instead_of(error, report_r)
        abandon(pid, report_r, gate.fd)
        if told is error:
            raise
        raise told from error
    return Launch(pid, report_r), gate.fd


def instead_of(error: BaseException, report_fd: int) -> BaseException:
    """Return what the helper said in place of "it ended"."""
    if not isinstance(error, EOFError):
        return error
    with open(report_fd, "rb", closefd=False) as stream:
        report = read_report(stream.read())
    return report.error or ContainerError(
        "the process ended while it entered its namespaces",
        hint="is its memory limit reached? see inspect",
        where="setns",
    )


def abandon(pid: int, *fds: int) -> None:
    """End and reap a child that is not wanted any more, and close what led to it."""
    for fd in fds:
        os.close(fd)
    if pid:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _clone(flags: int, start: Start, group_fd: int) -> int:
    """Fork by clone(2); all signals are blocked meanwhile, so that no handler of the parent's runs in the child."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        pid = linux.clone(flags, group_fd)
        if pid == 0:
            begin(start)
        return pid
    except OSError as error:
        raise clone_error(error) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(start: Start) -> NoReturn:
    """Go on as the child: take the descriptors, then the steps."""
    status = SETUP_FAILED
    try:
        gc.disable()  # a collection would touch, and so copy, every page shared with the parent
        signal.set_wakeup_fd(-1)
        reset_signals(start.signals)
        status = run_steps(start.steps, _scene(start))
    finally:
        os._exit(status)


def _scene(start: Start) -> Scene:
    """Take the descriptors that were handed over, and close all others."""
    given = [start.report_fd, *([start.sync_fd] if start.sync_fd >= 0 else []), *start.extra]
    try:
        report_fd, *numbers = take_descriptors(start.stdio, *given, *(fd for _, fd in start.others))
    except OSError as error:
        _tell(Scene(start.report_fd), _failed("taking descriptors", "fcntl(F_DUPFD_CLOEXEC)", error))
        raise
    scene = Scene(report_fd, numbers.pop(0) if start.sync_fd >= 0 else -1, tuple(numbers[: len(start.extra)]))
    for (name, _), number in zip(start.others, numbers[len(start.extra) :], strict=True):
        scene.handed[name] = number
    return scene


def clone_by_helper(flags: int, start: Start, group_fd: int, entry: Entry, gate: Gate | None) -> int:
    """Let a helper do the entry's steps and clone the child; return the child's pid, `EOFError` if there is none.

    A pid namespace is entered by children only (pid_namespaces(7)); of a sibling (CLONE_PARENT) the caller is the
    parent and gets the pid.
    """
    answer_r, answer_w = os.pipe2(os.O_CLOEXEC)
    steps, others = start.steps, (*start.others, ("answer", answer_w))
    clone = Step("clone", "clone(CLONE_PARENT|…)", "", "clone(2)", lambda scene: _clone_sibling(flags, steps, scene))
    try:
        helper = _clone(0, start.replace(steps=(*entry.steps, clone), others=others), group_fd)
    except BaseException:
        os.close(answer_r)
        raise
    finally:
        os.close(answer_w)
    with open(answer_r, "rb", buffering=0) as stream:
        try:
            answer = stream.read(16)
            if answer == b"map\n" and entry.map_ids and gate:
                entry.map_ids(helper)
                gate()
                answer = stream.read(16)
        except BaseException:
            os.kill(helper, signal.SIGKILL)
            raise
        finally:
            os.waitpid(helper, 0)
    if not answer or not answer.strip().isdigit():
        raise EOFError
    return int(answer)


def _clone_sibling(flags: int, steps: Sequence[Step], scene: Scene) -> None:
    if "pid" in scene.handed:
        linux.prctl(linux.PR_SET_DUMPABLE, 0)  # as in `_enter`: those who are in the pid namespace will see the child
    try:
        pid = linux.clone(flags | linux.CLONE_PARENT)
    except OSError as error:
        raise clone_error(error) from error
    answer_fd = scene.handed.pop("answer")
    if pid:
        os.write(answer_fd, f"{pid}\n".encode())
        os._exit(0)
    os.close(answer_fd)
    os._exit(run_steps(steps, scene))


def clone_error(error: OSError) -> LabError:
    """Return what a failed clone(2) means to who asked for a container."""
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


def run_steps(steps: Sequence[Step], scene: Scene) -> int:
    """Execute the steps; return only if one fails, with the exit status for it."""
    step, begin_ns = steps[0], time.monotonic_ns()
    scene.lines.append(f'{{"begin_ns": {begin_ns}}}\n')
    try:
        for step in steps:
            step.execute(scene)
            now_ns = time.monotonic_ns()
            scene.lines.append(f'{{"step": {jsontext.quote(step.name)}, "ms": {(now_ns - begin_ns) / 1e6:.3f}}}\n')
            begin_ns = now_ns
    except BaseException as error:
        told = error if isinstance(error, LabError) else _failed(step.name, step.call, error)
        _tell(scene, told)
        return {"exec: ENOENT": NOT_FOUND}.get(
            told.where, CANNOT_RUN if told.where.startswith("exec:") else SETUP_FAILED
        )
    return SETUP_FAILED


def _tell(scene: Scene, error: LabError) -> None:
    scene.lines.append(jsontext.dumps({"error": to_json(error)}) + "\n")
    scene.flush()


_HINTS = {
    errno.EPERM: "this node does not allow it; run it in a guest: --on vm",
    errno.ENOSPC: "the disk, or a table of the kernel, is full: remove containers and free some space",
    errno.EROFS: "the root is read-only; leave out --read-only or choose another folder",
    errno.ENODEV: "this node's kernel lacks that file system; run it in a guest: --on vm",
    errno.ENOMEM: "the memory limit is too small to start a program: give more",
    errno.EMFILE: "the limit of open files is reached: remove containers, or raise it (ulimit -n)",
    errno.EAGAIN: "the limit of processes is reached: raise --pids-limit or end some",
}


def _failed(name: str, call: str, error: BaseException) -> ContainerError:
    where = f"step {name}: {call}"
    if not isinstance(error, OSError):
        return ContainerError(f"{name} failed: {type(error).__name__}: {error}", where=where)
    subject = f" ({error.filename})" if error.filename else ""
    return ContainerError(
        f"{name} failed: {error.strerror}{subject}", hint=_HINTS.get(error.errno or 0, ""), where=where
    )
