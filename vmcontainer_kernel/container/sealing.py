"""A program that whoever it starts cannot write: the agent's own Python (CVE-2019-5736).

A container may hold a script whose first line is ``#!/proc/self/exe``, or a link to it. The process that is to become
this program is still a copy of the agent, so the link leads to the node's Python, which then runs in the container,
and what it has open there can be written as soon as nobody runs it any more. Started through a mount of its own that is
read-only, it cannot, as the link leads through the mount the program was started by.
"""

from __future__ import annotations

import os
from pathlib import Path

from vmcontainer_kernel.container import linux

__all__ = ["open_sealed"]


def open_sealed(program: str) -> int:
    """Return a descriptor to execute `program` by: a read-only mount of it, or, if this process may make none and may
    write the file, a copy in memory that is sealed (memfd_create(2)).
    """
    try:
        mount = linux.open_tree(linux.AT_FDCWD, program)
        linux.mount_setattr(mount, "", linux.MOUNT_ATTR_RDONLY)
    except OSError:  # no CAP_SYS_ADMIN
        return _copy(program) if os.access(program, os.W_OK) else os.open(program, os.O_PATH | os.O_CLOEXEC)
    return mount


def _copy(program: str) -> int:
    import fcntl

    fd = os.memfd_create(Path(program).name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(program, "rb") as source:
        while os.sendfile(fd, source.fileno(), None, 1 << 30):
            pass
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
