"""Waiting for a program in the foreground: its signals, its terminal, its exit status.

One loop over three sources: signals (their numbers arrive on a pipe, signal.set_wakeup_fd), our own terminal, and the
container's.
"""

from __future__ import annotations

import os
import select

from vmcontainer_kernel.container.csignal import signal
from vmcontainer_kernel.container.light import suppress
from vmcontainer_kernel.container.reports import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Signals", "wait_for"]

_SIGCHLD, _SIGWINCH, _SIGPIPE, _SIGKILL, _SIGSTOP = 17, 28, 13, 9, 19
_NOT_PASSED_ON = (_SIGKILL, _SIGSTOP, _SIGPIPE, 8, 11, 4, 7)  # errors of our own: SIGFPE, SIGSEGV, SIGILL, SIGBUS


class Signals:
    """All signals to this process, as numbers to read from `fd`; made before the child is, so that none is lost."""

    def __init__(self) -> None:
        self.fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_fd)
        for number in range(1, signal.NSIG):
            if number not in _NOT_PASSED_ON and number not in (32, 33):  # the C library's own
                signal.signal(number, _nothing)

    def read(self) -> Iterator[int]:
        """Return those that have come."""
        try:
            return iter(os.read(self.fd, 4096))
        except BlockingIOError:
            return iter(())


def _nothing(number: int, frame: object) -> None:
    """Do nothing: the number is in the pipe already."""


def wait_for(pid: int, signals: Signals, master: int = -1) -> int:
    """Wait for a child, pass signals on to it and reap whatever else is ours; return its exit status.

    `master`: the master of its terminal, which is shown on our own descriptors 0 and 1.
    """
    shown = _Terminal(master) if master >= 0 else None
    try:
        status = _loop(pid, signals, shown)
    finally:
        if shown:
            shown.close()
    return exit_status(status)


def _loop(pid: int, signals: Signals, shown: _Terminal | None) -> int:
    poller = select.poll()
    poller.register(signals.fd, select.POLLIN)
    if shown:
        shown.register(poller)
    while True:
        if (status := _reap(pid)) is not None:
            return status
        for fd, _ in poller.poll():
            if fd != signals.fd and shown:
                shown.copy(fd, poller)
        for number in signals.read():
            if number == _SIGWINCH and shown:
                shown.resize()
            elif number != _SIGCHLD:
                _pass_on(pid, number)


def _pass_on(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _reap(pid: int) -> int | None:
    """Reap every child that has ended; return the status of the one that is waited for."""
    wanted = None
    while True:
        try:
            found, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return wanted
        if found == 0:
            return wanted
        if found == pid:
            wanted = status


class _Terminal:
    """Our terminal, or whatever descriptors 0 and 1 are, joined to the container's."""

    def __init__(self, master: int) -> None:
        from vmcontainer_kernel.container.oci.console import make_raw

        self.master = master
        self._before = make_raw(0) if os.isatty(0) else None
        self.resize()

    def register(self, poller: select.poll) -> None:
        poller.register(0, select.POLLIN)
        poller.register(self.master, select.POLLIN)

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        import fcntl
        import termios

        if os.isatty(0):
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))

    def copy(self, fd: int, poller: select.poll) -> None:
        """Copy what has come from one side to the other."""
        try:
            data = os.read(fd, 65536)
        except OSError:  # EIO: nobody has the slave open any more
            data = b""
        if data:
            _write(self.master if fd == 0 else 1, data)
            return
        poller.unregister(fd)
        if fd == 0:
            _write(self.master, b"\x04")  # the end of our input is the end of the container's

    def close(self) -> None:
        """Show what is still to be shown, and give our terminal its settings back."""
        os.set_blocking(self.master, False)
        with suppress(OSError):
            while data := os.read(self.master, 65536):
                _write(1, data)
        os.close(self.master)
        if self._before is not None:
            import termios

            termios.tcsetattr(0, termios.TCSANOW, self._before)  # type: ignore[arg-type]


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
