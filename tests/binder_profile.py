"""Run a command as Binder would: an ordinary user in a Docker container of the usual kind, with one processor.

    python tests/binder_profile.py UID COMMAND...

* Parts of /proc and /sys are covered or cannot be written, and /dev has only what Docker puts there: no /dev/kvm.
* `no_new_privs`, and a system-call filter like Docker's default. It is the one that this project's own containers get:
  without CAP_SYS_ADMIN it refuses what keeps containers off such a host, namespaces (clone and unshare with CLONE_NEW*,
  setns) and mounts, with EPERM, and clone3, whose flags a filter cannot see, with ENOSYS, so that libc falls back to
  clone.

It keeps the host's process list and network. Memory is limited from outside (`tests.profiles`).
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.config import MASKED_PATHS, READONLY_PATHS, make_config
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.parsing import parse
from vmcontainer_kernel.container.seccomp.compiler import compile_filter

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
HERE = linux.MS_BIND | linux.MS_REC
NO_PROGRAMS = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


def program() -> bytes:
    """Return the filter, compiled."""
    seccomp = parse(make_config(Options(argv=("true",)), {})).linux.seccomp
    assert seccomp is not None
    return compile_filter(seccomp)


def cover() -> None:
    """Cover what Docker covers, in a mount namespace of this process's own; only root can."""
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    for path in filter(os.path.exists, MASKED_PATHS):
        if stat.S_ISDIR(Path(path).stat().st_mode):
            linux.mount("tmpfs", path, "tmpfs", linux.MS_RDONLY)
        else:
            linux.mount("/dev/null", path, None, linux.MS_BIND)
    for path in filter(os.path.exists, READONLY_PATHS):
        linux.mount(path, path, None, HERE)
        linux.mount(None, path, None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | NO_PROGRAMS)
    make_devices(Path("/dev"))


def make_devices(dev: Path) -> None:
    """Put a folder with a container's devices in place of the host's."""
    numbers = {name: (dev / name).stat() for name in DEVICES}
    linux.mount("tmpfs", str(dev), "tmpfs", linux.MS_NOSUID, "mode=755,size=64k")
    mask = os.umask(0)
    for name, status in numbers.items():
        os.mknod(dev / name, 0o666 | stat.S_IFCHR, status.st_rdev)
    for name, target in LINKS.items():
        (dev / name).symlink_to(target)
    (dev / "pts").mkdir(0o755)
    linux.mount("devpts", str(dev / "pts"), "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,ptmxmode=0666")
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "shm").mkdir(0o1777)
    linux.mount("tmpfs", str(dev / "shm"), "tmpfs", NO_PROGRAMS, "mode=1777,size=64m")
    os.umask(mask)


def confine(uid: int) -> None:
    """Become an ordinary user and take on the filter; there is no way back."""
    if os.geteuid() != uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.seccomp(program(), 0)


if __name__ == "__main__":
    if os.geteuid() == 0:
        cover()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    confine(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
