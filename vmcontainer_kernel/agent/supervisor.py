"""The host agent's second duty: whatever it started ends with the notebook, however the notebook ends.

    notebook ──socketpair──▶ supervisor ──parent of──▶ containers, QEMUs, helpers
        ✗ SIGKILL              EOF: kill them all, remove cgroups and run folder, exit

It runs in a session of its own (an interrupt of the notebook does not reach it), adopts orphans of its children
(PR_SET_CHILD_SUBREAPER, prctl(2)), and, as root, has a mount namespace of its own, so that mounts vanish with it.
A folder whose lock nobody holds belongs to a session whose supervisor was killed too; `sweep` clears it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

from ..container import linux
from ..container.cgroups import Cgroups
from ..container.ids import Steward
from ..container.runtime import Runtime
from ..errors import LabError
from .processes import descendants

__all__ = ["end", "isolate", "lock", "sweep"]

PR_SET_CHILD_SUBREAPER = 36
_END_S = 10.0


def isolate() -> None:
    """Take what makes this process the supervisor (see above). Mounts arrive from the host; ours never leave."""
    linux.prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.geteuid() == 0:
        try:
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount(None, "/", None, linux.MS_SLAVE | linux.MS_REC)
        except (
            OSError
        ):  # no CAP_SYS_ADMIN: containers need a user namespace or a guest here, and make no mounts outside
            return


def lock(folder: Path) -> int:
    """Make and lock a run folder for the life of this process; return the descriptor to keep (flock(2)).

    A session that starts at this moment may just be sweeping the folder: it is waited for, and the folder made anew.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)


def _try_lock(folder: Path) -> int | None:
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def sweep(run: Path, own: str, steward: Steward) -> list[str]:
    """Remove what sessions left whose supervisor is gone; return their names."""
    swept = []
    for folder in sorted(run.iterdir()):
        if folder.name == own or not folder.is_dir() or _is_new(folder):
            continue
        fd = _try_lock(folder)
        if fd is None:
            continue
        _remove(folder, steward)
        os.close(fd)
        swept.append(folder.name)
    return swept


def _is_new(folder: Path) -> bool:
    """Tell whether a session may be about to lock this folder."""
    return not (folder / "lock").exists() and time.time() - folder.stat().st_mtime < 5


def _remove(folder: Path, steward: Steward) -> None:
    cgroups = Cgroups.detect(folder.name)
    if cgroups:
        with contextlib.suppress(OSError, LabError):  # what cannot be removed now is met by the next sweep
            cgroups.close()
    with contextlib.suppress(OSError):
        steward.remove_tree(folder)


def end(runtime: Runtime, folder: Path) -> None:
    """Kill every descendant, then remove cgroups and the run folder. One failure does not keep the rest from ending."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    _kill_descendants()
    with contextlib.suppress(Exception):
        runtime.close()
    _kill_descendants()
    _remove(folder, runtime.store.steward)


def _kill_descendants() -> None:
    """Kill and reap until no child is left; a process that forks on is met again, as its orphans become ours."""
    deadline = time.monotonic() + _END_S
    own = os.getpid()
    while time.monotonic() < deadline:
        for pid in descendants(own)[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)
