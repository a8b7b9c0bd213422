"""A child that is born into its parent's memory, what keeps that parent from coming back, and the pages of a memory
(clone(2), ptrace(2), madvise(2)).
"""

from __future__ import annotations

import ctypes
import os
import struct
from signal import SIGCHLD

from vmcontainer_kernel.container import linux

__all__ = ["bear", "park", "warm"]

_MADV_POPULATE_WRITE = 23
_PTRACE_SEIZE = 0x4206
_PTRACE_O_TRACEVFORKDONE = 0x20
_PTRACE_O_EXITKILL = 0x100000
_NR_MADVISE = {"x86_64": 28, "aarch64": 233}.get(os.uname().machine, 0)
_NR_PTRACE = {"x86_64": 101, "aarch64": 117}.get(os.uname().machine, -1)


def bear(flags: int, group_fd: int = -1) -> int:
    """Clone a child into this memory and for this process's own parent; return in the child, with its pid in the
    parent's pid namespace (clone(2): CLONE_VM, CLONE_VFORK, CLONE_PARENT, CLONE_PARENT_SETTID).

    `group_fd`: as in `linux.clone`. This process sleeps until the child runs another program or ends; `park` keeps it
    from coming back then, as its stack is the child's.
    """
    tid = ctypes.c_uint32()
    address = ctypes.addressof(tid)
    flags |= linux.CLONE_VM | linux.CLONE_VFORK | linux.CLONE_PARENT | linux.CLONE_PARENT_SETTID
    if group_fd < 0:
        linux.check(linux.syscall(linux.NR_CLONE, flags | SIGCHLD, 0, address, 0, 0), "clone")
        return tid.value
    # No exit signal: clone3 takes none with CLONE_PARENT (EINVAL), the child sends its parent what its sibling would.
    fields = (flags | linux.CLONE_INTO_CGROUP, 0, 0, address, 0, 0, 0, 0, 0, 0, group_fd)
    arguments = struct.pack("=11Q", *fields)
    linux.check(linux.syscall(linux.NR_CLONE3, arguments, len(arguments)), "clone3")
    return tid.value


def park(pid: int) -> None:
    """Let the child `pid` of this process never come back from `bear`: it stops in the kernel on its way, however its
    child ended, and nothing but SIGKILL moves it (ptrace(2), PTRACE_EVENT_VFORK_DONE). If this process ends, so does
    it. `OSError` where ptrace(2) is not allowed.
    """
    options = _PTRACE_O_TRACEVFORKDONE | _PTRACE_O_EXITKILL
    linux.check(linux.syscall(_NR_PTRACE, _PTRACE_SEIZE, pid, 0, options), "ptrace")


def warm() -> None:
    """Copy every page of this process that its next write would have to copy (MADV_POPULATE_WRITE, Linux 5.14; an
    older kernel knows no such advice, and the writes do it).
    """
    with open("/proc/self/maps") as maps:
        lines = maps.read().splitlines()
    for words in map(str.split, lines):
        if _NR_MADVISE and words[1] == "rw-p" and words[-1] != "[stack]":
            begins, ends = (int(word, 16) for word in words[0].split("-"))
            linux.syscall(_NR_MADVISE, begins, ends - begins, _MADV_POPULATE_WRITE)
