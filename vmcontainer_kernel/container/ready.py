"""A process made ready: forked and warm while nobody waits, so that the next start is not slowed by being a fork.

    agent                      ready process                    child: a container's process
      fork ──────────────────▶ copies its pages, waits
      birth ─────────────────▶ clone(CLONE_VM|CLONE_VFORK|CLONE_PARENT|CLONE_NEW…) ──▶ sends its pid, waits
      (control groups)
      work and descriptors ───────────────────────────────────────────────────────▶ plans, goes on as any child

If the last order was for a container, the birth is ordered at once: the next one will want the same namespaces.

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
import pickle
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
from vmcontainer_kernel.container.process import SETUP_FAILED, reset_signals, signals_to_reset, take_descriptors
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.step import Step
from vmcontainer_kernel.container.vfork import bear, park, warm
from vmcontainer_kernel.errors import ContainerError, LabError, from_json, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["Entered", "Readiness", "Ready", "Recipe"]

Recipe = Callable[[], Sequence[Step]]
"""What makes the steps: a `functools.partial` of a module's function, so that it can be pickled; steps cannot."""

_NUMBER_BYTES = 4
_MOST_FDS = 64
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
        self.born: int | None = None
        self.busy = False
        self._pidfd = os.pidfd_open(pid)  # whoever reaps all children may have reaped it: its number is not enough
        self._gate = gate
        self._answer = select.poll()
        self._answer.register(gate, select.POLLIN)

    @property
    def alive(self) -> bool:
        """False if it has ended, or the child that was born ahead has."""
        try:
            left = os.waitid(os.P_PIDFD, self._pidfd, _LOOK) is None
            return left and (not self.child or os.waitid(os.P_PID, self.child, _LOOK) is None)
        except ChildProcessError:
            return False

    def bear_ahead(self, flags: int) -> None:
        """Let it have a child with new namespaces (CLONE_NEW* flags), whose work is not known yet."""
        self._send(_Birth(flags))
        self.born, self.child = flags, self._child()

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
        here while a child is born, if none is yet.
        """

        def clone(flags: int, start: Start, group_fd: int) -> int:
            self.busy = True  # from here on the child is the caller's
            try:
                if self.born is None:
                    self._send(_Birth(flags, group_fd >= 0, entered), [fd for fd in (group_fd, pidfd) if fd >= 0])
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
        self._send(work, [*start.stdio, start.report_fd, *sync, *start.extra])

    def _send(self, order: _Birth | _Work, fds: Sequence[int] = ()) -> None:
        message = pickle.dumps(order, pickle.HIGHEST_PROTOCOL)
        # A length ahead: a stream socket may deliver a long message in parts.
        socket.send_fds(self._gate, [len(message).to_bytes(_NUMBER_BYTES, "big")], fds)
        self._gate.sendall(message)

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
        """End and reap it, and a child that was born ahead and got no work."""
        if self._pidfd < 0:
            return
        if self.child and not self.busy:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                abandon(self.child)
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
        self._flags: int | None = None  # what the last child was for: these namespaces, or None, joining others

    @property
    def pids(self) -> list[int]:
        """The processes that are nobody's yet, or any more."""
        ahead = [self._ready.child] if self._ready and self._ready.child else []
        return ahead + [one.pid for one in (*self._spent, *([self._ready] if self._ready else []))]

    def make(self) -> None:
        """Make one ready if there is none that fits an order like the last one."""
        self._end_spent()
        if self._ready and not (self._ready.alive and self._ready.born == self._flags):
            self.drop()
        if self._ready is None:
            self._ready = make_ready()
            if self._flags is not None:
                self._ready.bear_ahead(self._flags)
            warm()  # our own pages have been shared by the fork, too

    def take(self, flags: int | None = None, *, ahead: bool = True) -> Ready | None:
        """Return it, if there is one; it takes one order.

        `flags`: of a child with new namespaces, else it joins others; `ahead`: it may have been born before it was
        asked for, so not in its version 2 group.
        """
        self._flags = flags if ahead else None
        ready, self._ready = self._ready, None
        if ready is None:
            return None
        self._spent.append(ready)
        return ready if ready.alive and ready.born in (None, self._flags) else None

    def drop(self) -> None:
        """End it, and what is left of earlier ones."""
        if self._ready:
            self._spent.append(self._ready)
            self._ready = None
        self._end_spent()

    def reaped(self, pid: int) -> None:
        """Take note that the caller has reaped `pid`. If that was a child which never took its descriptors, they are
        still under way, and the end of its report would not be seen.
        """
        for one in self._spent:
            if one.child == pid and one.untaken:
                one.close()
        if self._ready and self._ready.child == pid:
            self._ready.child = 0
            self.drop()

    def _end_spent(self) -> None:
        while self._spent:
            self._spent.pop().close()


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


def _receive(gate: socket.socket) -> tuple[Any, list[int]]:
    """Wait for an order; end quietly if the other side ends."""
    head, fds, _, _ = socket.recv_fds(gate, _NUMBER_BYTES, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
    message, wanted = b"", int.from_bytes(head, "big")
    while len(message) < wanted or len(head) < _NUMBER_BYTES:
        part = gate.recv(wanted - len(message)) if len(head) == _NUMBER_BYTES else b""
        if not part:
            os._exit(0)
        message += part
    return pickle.loads(message), list(fds)


def _follow(gate: socket.socket) -> NoReturn:
    """Make the child. This process does not come back from it; the child goes on as if it were cloned by the caller."""
    birth, fds = _receive(gate)
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
    work, given = _receive(gate)
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
