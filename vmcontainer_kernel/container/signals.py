"""Signals to a container's processes, and why its first process may not hear them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from vmcontainer_kernel.errors import UserError

__all__ = ["FATAL_BY_DEFAULT", "is_deaf", "number_of", "to_group", "to_process"]

FATAL_BY_DEFAULT = frozenset(
    (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
)


def number_of(text: str) -> int:
    """Return a signal's number for ``SIGTERM``, ``TERM`` or ``15`` (signal(7)); raise `UserError` if it is none."""
    name = text.upper().removeprefix("SIG")
    found = int(name) if name.isdecimal() else getattr(signal, f"SIG{name}", None)
    if not isinstance(found, int) or found not in signal.valid_signals():
        raise UserError(f"there is no signal {text!r}", hint="a name or number of signal(7): TERM, INT, 9")
    return int(found)


def to_process(pid: int, signum: int) -> None:
    """Signal one process; it is no error if it has ended (kill(2): ESRCH)."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def to_group(pid: int, signum: int) -> None:
    """Signal the process group `pid` leads; before its setsid there is none, and the process itself is signalled."""
    try:
        os.killpg(pid, signum)
    except ProcessLookupError:
        to_process(pid, signum)


def is_deaf(pid: int, signum: int) -> bool:
    """Tell whether a process neither handles nor ignores a signal (proc_pid_status(5): SigCgt, SigIgn)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = {
        name: int(value, 16)
        for name, _, value in (line.partition(":\t") for line in lines)
        if name in ("SigIgn", "SigCgt")
    }
    return not any(mask >> (signum - 1) & 1 for mask in masks.values())
