"""Run a command as Binder would: an ordinary user, no_new_privs, and a system-call filter like Docker's default.

    python tests/binder_profile.py UID COMMAND...

The filter is the one that this project's own containers get: without CAP_SYS_ADMIN it refuses what keeps containers off
such a host, namespaces (clone and unshare with CLONE_NEW*, setns) and mounts, with EPERM, and clone3, whose flags a
filter cannot see, with ENOSYS, so that libc falls back to clone.
"""

from __future__ import annotations

import os
import sys

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.config import make_config
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.parsing import parse
from vmcontainer_kernel.container.seccomp.compiler import compile_filter


def program() -> bytes:
    """Return the filter, compiled."""
    seccomp = parse(make_config(Options(argv=("true",)), {})).linux.seccomp
    assert seccomp is not None
    return compile_filter(seccomp)


def confine(uid: int) -> None:
    """Become an ordinary user and take on the filter; there is no way back."""
    if os.geteuid() != uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.seccomp(program(), 0)


if __name__ == "__main__":
    confine(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
