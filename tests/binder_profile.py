"""Run a command as Binder would: an ordinary user, no_new_privs, and a system-call filter like Docker's default.

    python tests/binder_profile.py UID COMMAND...

The filter refuses what keeps containers off such a host: new namespaces (clone and unshare with CLONE_NEW*), setns and
mounts, with EPERM; clone3, whose flags a filter cannot see, with ENOSYS, so that libc falls back to clone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

AUDIT_ARCH_X86_64 = 0xC000003E
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K
NAMESPACE_FLAGS = 0x7E020000
CLONE, CLONE3 = 56, 435
FORBIDDEN = {
    "unshare": 272,
    "setns": 308,
    "mount": 165,
    "umount2": 166,
    "pivot_root": 155,
    "open_tree": 428,
    "fsopen": 430,
}


def instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """Pack one struct sock_filter (linux/filter.h); `yes` and `no` count the instructions to skip."""
    return struct.pack("=HBBI", code, yes, no, value)


def program() -> bytes:
    """Return the filter; struct seccomp_data has nr at 0, arch at 4, the first argument's low half at 16."""
    refuse = instruction(RETURN, REFUSE | errno.EPERM)
    lines = [
        instruction(LOAD, 4),
        instruction(JUMP_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        refuse,
        instruction(LOAD, 0),
        instruction(JUMP_EQUAL, CLONE3, 0, 1),
        instruction(RETURN, REFUSE | errno.ENOSYS),
    ]
    for number in FORBIDDEN.values():
        lines += [instruction(JUMP_EQUAL, number, 0, 1), refuse]
    lines += [
        instruction(JUMP_EQUAL, CLONE, 0, 3),
        instruction(LOAD, 16),
        instruction(JUMP_SET, NAMESPACE_FLAGS, 0, 1),
        refuse,
        instruction(RETURN, ALLOW),
    ]
    return b"".join(lines)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine(uid: int) -> None:
    """Become an ordinary user and take on the filter; there is no way back."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc = ctypes.CDLL(None, use_errno=True)
    code = program()
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(code) // 8, code)), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    confine(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
