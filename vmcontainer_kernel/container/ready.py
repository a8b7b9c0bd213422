"""A process made ready: forked and warm while nobody waits, so that the next start is not slowed by being a fork.

    agent                      ready process                    child: a container's process
      fork ──────────────────▶ copies its pages, waits
      birth ─────────────────▶ clone(CLONE_VM|CLONE_VFORK|CLONE_PARENT|CLONE_NEW…) ──▶ sends its pid, waits
      (control groups)
      work and descriptors ───────────────────────────────────────────────────────▶ plans, goes on as any child

A fork shares every page with its parent until one of them writes to it; then the page is copied, 4 µs each, and Python
writes to some 500 of them (each use of an object counts a reference) on its way through the steps of a container. The
ready process has its copies already. It cannot become the container itself: the first process of a pid namespace must
be born in it. So its child is born into its memory (CLONE_VM), as after vfork(2), and nothing is copied again.

vfork's rule is that the parent must not go on in memory its child has changed. It never does: it sleeps in clone(2),
and is traced, so that it stops before it is back from there (`vfork.park`), be its child the program by then or killed
by another process of its pid namespace. It is ended later, so that taking its memory down delays nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import termios
import time
from collections.abc import Callable, Sequence

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.cgroups import Cgroup
from vmcontainer_kernel.container.launch import Start, abandon, begin, clone_error
from vmcontainer_kernel.container.orders import receive, send
from vmcontainer_kernel.container.process import SETUP_FAILED, reset_signals, signals_to_reset, take_descriptors
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.step import Step
from vmcontainer_kernel.container.vfork import bear, park, warm
from vmcontainer_kernel.errors import ContainerError, LabError, from_json, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["Entered", "Readiness", "Ready", "Recipe"]

Recipe = Callable[[], Sequence[Step]]
"""What makes the steps: a `functools.partial` of a module's function, so that it can be pickled; steps cannot."""

_NUMBER_BYTES = 4
_LOOK_MS, _LONGEST_S = 20, 10.0
_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT


class Entered(Record):
    """The namespaces to join before the child is made, and the group it joins; its descriptor comes with the order."""

    flags: int
    group: Cgroup | None = None


class _Birth(Record):
    """What kind of child is wanted. With it come, if `grouped`, the group to be born in, and if `entered`, a pidfd."""

    flags: int
    grouped: bool = False
    entered: Entered | None = None


class _Work(Record):
    """What the child is to do; with it come stdio (so many), report, sync if there is one, and extra descriptors."""

    recipe: Recipe
    stdio: int
    synced: bool


class Ready:
    """A process that waits for one order; the caller is its parent."""

    def __init__(self, pid: int, gate: socket.socket) -> None:
        self.pid, self.child = pid, 0
        self._pidfd = os.pidfd_open(pid)  # whoever reaps all children may have reaped it: its number is not enough
        self._gate = gate
        self._answer = select.poll()
        self._answer.register(gate, select.POLLIN)

    @property
    def alive(self) -> bool:
        """False if it has ended."""
        try:
            return os.waitid(os.P_PIDFD, self._pidfd, _LOOK) is None
        except ChildProcessError:
            return False

    @property
    def parked(self) -> bool:
        """True once its child has left its memory, for a program or for good: then it is stopped, or gone."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "tTZX"
        return True

    @property
    def untaken(self) -> bool:
        """True if its child has not taken all that was sent to it (unix(7), SIOCOUTQ)."""
        return self._pidfd >= 0 and bool(
            int.from_bytes(fcntl.ioctl(self._gate, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        )

    def clone(
        self, recipe: Recipe, meanwhile: Callable[[], None], entered: Entered | None = None, pidfd: int = -1
    ) -> Callable[[int, Start, int], int]:
        """Return what makes a child as `launch.clone` does: steps are made by `recipe` there, and `meanwhile` is done
        here while the child is born.
        """

        def clone(flags: int, start: Start, group_fd: int) -> int:
            try:
                fds = [fd for fd in (group_fd, pidfd) if fd >= 0]
                send(self._gate, _Birth(flags, group_fd >= 0, entered), fds)
                try:
                    meanwhile()
                finally:
                    self.child = self._child()  # if that failed, too: it must be ended
                self._let_go(recipe, start)
            except BaseException:
                abandon(self.child)
                raise
            return self.child

        return clone

    def _let_go(self, recipe: Recipe, start: Start) -> None:
        # To the child alone: a pipe that the parked process holds, too, would never end.
        sync = [start.sync_fd] if start.sync_fd >= 0 else []
        work = _Work(recipe, len(start.stdio), bool(sync))
        send(self._gate, work, [*start.stdio, start.report_fd, *sync, *start.extra])

    def _child(self) -> int:
        """Return the pid of the child it made; raise what it says if there is none."""
        deadline_s = time.monotonic() + _LONGEST_S
        while not self._answer.poll(_LOOK_MS):
            if time.monotonic() > deadline_s or self._parked():
                self.close()
                hint = "has the container ended, or its memory limit been reached? see inspect"
                raise ContainerError("the process ended before its first step", hint=hint, where="clone")
        answer = self._gate.recv(1 << 16)
        pid = int.from_bytes(answer[:_NUMBER_BYTES], "big")
        if pid:
            return pid
        if not answer:
            raise ContainerError("the process that was ready has ended", hint="try again", where="clone")
        raise from_json(json.loads(answer[_NUMBER_BYTES:]))

    def _parked(self) -> bool:
        """Tell whether its child is gone, or it is itself: then nothing will ever be answered."""
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True

    def close(self) -> None:
        """End and reap it."""
        if self._pidfd < 0:
            return
        self._gate.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1


class Readiness:
    """One process kept ready, made again while nobody waits."""

    def __init__(self) -> None:
        self._ready: Ready | None = None
        self._spent: list[Ready] = []

    @property
    def pids(self) -> list[int]:
        """The processes that are nobody's yet, or any more."""
        return [one.pid for one in (*self._spent, *([self._ready] if self._ready else []))]

    def make(self) -> None:
        """Make one ready if there is none."""
        self._end_spent()
        if self._ready and not self._ready.alive:
            self._ready.close()
            self._ready = None
        if self._ready is None:
            self._ready = make_ready()
            warm()  # our own pages have been shared by the fork, too

    def take(self) -> Ready | None:
        """Return it, if there is one; it takes one order."""
        ready, self._ready = self._ready, None
        if ready is None:
            return None
        self._spent.append(ready)
        return ready if ready.alive else None

    def drop(self) -> None:
        """End it, and what is left of earlier ones."""
        if self._ready:
            self._ready.close()
            self._ready = None
        self._end_spent(all_of_them=True)

    def reaped(self, pid: int) -> None:
        """Take note that the caller has reaped `pid`. If that was a child which never took its descriptors, they are
        still under way, and the end of its report would not be seen.
        """
        for one in self._spent:
            if one.child == pid and one.untaken:
                one.close()

    def _end_spent(self, *, all_of_them: bool = False) -> None:
        """End those that are parked; whoever is last in a memory takes it down (1 to 2 ms), and a child that still
        waits for its work is not to be kept by that when it becomes the program.
        """
        spent, self._spent = self._spent, []
        for one in spent:
            if all_of_them or one.parked:
                one.close()
            else:
                self._spent.append(one)


def make_ready() -> Ready:
    """Fork a process that will follow an order."""
    ours, theirs = socket.socketpair()
    handled = signals_to_reset()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = linux.clone(0)
        if pid == 0:
            _wait(theirs.detach(), handled)
    except OSError as error:
        ours.close()
        raise clone_error(error) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    try:
        park(pid)
        return Ready(pid, ours)
    except OSError:  # where ptrace(2) is not allowed, nothing is made ready
        ours.close()
        abandon(pid)
        raise


def _wait(gate_fd: int, handled: list[int]) -> NoReturn:
    try:
        gc.disable()
        signal.set_wakeup_fd(-1)
        reset_signals(handled)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        gate = socket.socket(fileno=take_descriptors((null, null, null), gate_fd)[0])
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        warm()
        _follow(gate)
    finally:
        os._exit(SETUP_FAILED)


def _follow(gate: socket.socket) -> NoReturn:
    """Make the child. This process does not come back from it; the child goes on as if it were cloned by the caller."""
    birth, fds = receive(gate)
    group_fd = fds.pop(0) if birth.grouped else -1
    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if birth.entered:
            # Not dumpable: from now on processes of the container see this one, and must not reach the agent's program
            # through /proc/PID/exe (CVE-2019-5736). execve makes the user's program dumpable again.
            linux.prctl(linux.PR_SET_DUMPABLE, 0)
            linux.setns(fds.pop(0), birth.entered.flags)
        pid = bear(birth.flags, group_fd)
    except OSError as error:
        gate.sendall(bytes(_NUMBER_BYTES) + json.dumps(to_json(clone_error(error))).encode())
        os._exit(SETUP_FAILED)
    os.write(gate.fileno(), pid.to_bytes(_NUMBER_BYTES, "big"))
    work, given = receive(gate)
    if birth.entered and birth.entered.group:
        birth.entered.group.join(root_fd)
    stdio, (report_fd, *rest) = tuple(given[: work.stdio]), given[work.stdio :]
    sync_fd = rest.pop(0) if work.synced else -1
    try:
        steps = work.recipe()
    except LabError as error:
        with open(report_fd, "w") as report:
            print(json.dumps({"error": to_json(error)}), file=report)
        os._exit(SETUP_FAILED)
    begin(Start(steps, stdio, report_fd, sync_fd, tuple(rest)))
