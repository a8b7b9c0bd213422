"""A request's pseudo-terminal, from the outside: how large it is, and its end.

window resized ──resize──▶ TIOCSWINSZ, and the kernel sends SIGWINCH
window closed  ──hangup──▶ SIGHUP to the shell and to what runs in the foreground, as pty(7) does when its master closes
"""

from __future__ import annotations

import os

from ..container.csignal import signal
from ..container.light import suppress
from ..errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .jobs import Job

__all__ = ["hang_up", "resize"]

_MOST = 1000  # rows and columns: a program may ask for memory for each place


def resize(job: Job | None, rows: int, columns: int) -> bool:
    """Tell a terminal its size in characters; return whether there is one."""
    from ..container import linux

    if not (1 <= rows <= _MOST and 1 <= columns <= _MOST):
        raise UserError(f"a terminal of {rows} rows and {columns} columns", hint=f"each is 1 to {_MOST}")
    master_fd = _master(job)
    if master_fd < 0:
        return False
    linux.set_window_size(master_fd, rows, columns)
    return True


def hang_up(job: Job | None, *, force: bool) -> bool:
    """Signal the terminal's session leader and its foreground group; return whether there is such a terminal.

    The leader may end first, and then the kernel no longer knows who was in the foreground: it is kept in the job.
    """
    master_fd = _master(job)
    if job is None or master_fd < 0:
        return False
    job.signalled = True
    if job.wait_status is None:
        job.groups.add(job.pid)
        with suppress(OSError):  # nobody is in the foreground any more
            job.groups.add(os.tcgetpgrp(master_fd))
    for group in job.groups - {0}:
        with suppress(OSError):  # it has ended
            os.killpg(group, signal.SIGKILL if force else signal.SIGHUP)
    return True


def _master(job: Job | None) -> int:
    """Return our side of a request's terminal, or -1 if it has none, or none any more."""
    fds = [output.fd for output in job.outputs if output.open] if job else []
    return fds[0] if fds and os.isatty(fds[0]) else -1
