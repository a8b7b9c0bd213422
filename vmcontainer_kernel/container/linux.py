"""The kernel's own vocabulary: constants under the names of the kernel headers, and one-line wrappers of the system
calls Python 3.11 lacks.

Each wrapper raises `OSError` with the path or name it was called for. The C library is opened with `ctypes.PyDLL`: the
interpreter lock stays held during the call, so the child of `clone` wakes as the owner of the lock and may go on
running Python.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

__all__ = [
    "CAPABILITIES",
    "NAMESPACE_FLAGS",
    "bpf",
    "capabilities_permitted",
    "capset",
    "check",
    "clone",
    "close_range",
    "duplicate",
    "is_procfs",
    "join_session_keyring",
    "last_capability",
    "link_up",
    "mount",
    "mount_setattr",
    "move_mount",
    "namespace_type",
    "open_tree",
    "openat2",
    "personality",
    "pidfd_getfd",
    "pivot_root",
    "prctl",
    "prlimit",
    "sched_setattr",
    "seccomp",
    "set_controlling_tty",
    "set_io_priority",
    "set_window_size",
    "setdomainname",
    "sethostname",
    "setns",
    "syscall",
    "umount",
    "unshare",
]

# linux/sched.h
SIGCHLD = 17
CLONE_VM = 0x100
CLONE_VFORK = 0x4000
CLONE_PARENT = 0x8000
CLONE_PARENT_SETTID = 0x100000
CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

NAMESPACE_FLAGS = {
    "user": CLONE_NEWUSER,
    "pid": CLONE_NEWPID,
    "mount": CLONE_NEWNS,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "network": CLONE_NEWNET,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}
"""OCI namespace type → CLONE_NEW* flag (runtime-spec, config-linux.md, "Namespaces")."""

# linux/mount.h
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000
MNT_DETACH = 2
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

# linux/openat2.h, linux/magic.h, linux/nsfs.h
RESOLVE_NO_MAGICLINKS = 0x2
RESOLVE_NO_SYMLINKS = 0x4
RESOLVE_BENEATH = 0x8
RESOLVE_IN_ROOT = 0x10
_PROC_SUPER_MAGIC = 0x9FA0
_NS_GET_NSTYPE = 0xB703

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

# linux/sockios.h, asm-generic/ioctls.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414

CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)
"""Names of the capabilities without ``CAP_``; the index is the number (linux/capability.h)."""

# Numbers are per architecture for old calls and shared by all for new ones (asm-generic/unistd.h).
_ARM = os.uname().machine == "aarch64"
NR_CLONE = 220 if _ARM else 56
_NR_KEYCTL = 219 if _ARM else 250
_NR_SECCOMP = 277 if _ARM else 317
_NR_IOPRIO_SET = 30 if _ARM else 251
_NR_SCHED_SETATTR = 274 if _ARM else 314
_NR_BPF = 280 if _ARM else 321
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
NR_CLONE3 = 435
_NR_CLOSE_RANGE = 436
_NR_OPENAT2 = 437
_NR_PIDFD_GETFD = 438
_NR_MOUNT_SETATTR = 442
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SECCOMP_SET_MODE_FILTER = 1
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.PyDLL(None, use_errno=True)
_long, _text, _unsigned = ctypes.c_long, ctypes.c_char_p, ctypes.c_ulong
_libc.syscall.restype = _long
_libc.mount.argtypes = (_text, _text, _text, _unsigned, _text)
_libc.prctl.argtypes = (ctypes.c_int, _unsigned, _unsigned, _unsigned, _unsigned)


def check(result: int, subject: object = None) -> int:
    """Return the result of a call of the C library; raise its error."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), None if subject is None else str(subject))
    return result


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call by its number (syscall(2))."""
    wide = [_long(value) if isinstance(value, int) else value for value in arguments]
    return int(_libc.syscall(_long(number), *wide))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def clone(flags: int, group_fd: int = -1) -> int:
    """Fork with new namespaces; return 0 in the child, which runs on a copy of this stack (clone(2)).

    `group_fd`: a version 2 control group for the child to be born in (clone3(2), CLONE_INTO_CGROUP, Linux 5.7).
    """
    if group_fd < 0:
        return check(syscall(NR_CLONE, flags | SIGCHLD, 0, 0, 0, 0), "clone")
    # struct clone_args: flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup
    arguments = struct.pack("=11Q", flags | CLONE_INTO_CGROUP, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, group_fd)
    return check(syscall(NR_CLONE3, arguments, len(arguments)), "clone3")


def unshare(flags: int) -> None:
    """Move this process into new namespaces (unshare(2))."""
    check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Join the namespaces `flags` of the process behind the pidfd `fd` (setns(2), Linux 5.8), or the one namespace
    behind `fd`.
    """
    check(_libc.setns(fd, flags), "setns")


def namespace_type(fd: int) -> int:
    """Return the CLONE_NEW* flag of the namespace behind `fd` (ioctl_ns(2), NS_GET_NSTYPE); ENOTTY: it is none."""
    return fcntl.ioctl(fd, _NS_GET_NSTYPE)


def mount(source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    """Attach a file system (mount(2))."""
    check(_libc.mount(_bytes(source), os.fsencode(target), _bytes(fstype), flags, _bytes(data)), target)


def umount(target: str, flags: int = 0) -> None:
    """Detach a file system (umount2(2))."""
    check(_libc.umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Swap the root mount of this mount namespace (pivot_root(2))."""
    check(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), new_root)


def open_tree(dir_fd: int, path: str, flags: int = OPEN_TREE_CLONE) -> int:
    """Return a descriptor of a detached copy of the mount at `path`, like a bind mount that is nowhere yet
    (open_tree(2)).
    """
    return check(syscall(_NR_OPEN_TREE, dir_fd, os.fsencode(path), flags | OPEN_TREE_CLOEXEC), path)


def openat2(dir_fd: int, path: str, flags: int, resolve: int) -> int:
    """Open with rules for the way there, RESOLVE_* (openat2(2), Linux 5.6); close-on-exec."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return check(syscall(_NR_OPENAT2, dir_fd, os.fsencode(path), how, len(how)), path)


def is_procfs(fd: int) -> bool:
    """Tell whether `fd` is on a procfs and on nothing that looks like one (fstatfs(2))."""
    data = ctypes.create_string_buffer(256)
    check(_libc.fstatfs(fd, data), "fstatfs")
    return int(struct.unpack_from("=Q", data)[0]) == _PROC_SUPER_MAGIC


def move_mount(tree_fd: int, at: int, name: str = "") -> None:
    """Attach the detached mount `tree_fd` at the place behind the descriptor `at`, or at `name` in it; a link there is
    not followed (move_mount(2)).
    """
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if name else MOVE_MOUNT_T_EMPTY_PATH)
    check(syscall(_NR_MOVE_MOUNT, tree_fd, b"", at, os.fsencode(name), flags), name)


def mount_setattr(
    fd: int,
    path: str,
    attributes: int,
    *,
    clear: int = 0,
    propagation: int = 0,
    idmap_fd: int = 0,
    recursive: bool = False,
) -> None:
    """Add MOUNT_ATTR_* flags to a mount, or to a whole tree of them, and take others away (mount_setattr(2), Linux
    5.12).

    `propagation`: MS_PRIVATE and so on; `idmap_fd`: a user namespace, for MOUNT_ATTR_IDMAP.
    """
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    record = struct.pack("=QQQQ", attributes, clear, propagation, idmap_fd)
    check(syscall(_NR_MOUNT_SETATTR, fd, os.fsencode(path), flags, record, len(record)), path)


def prctl(option: int, value: int = 0, third: int = 0) -> None:
    """Change a property of this process (prctl(2))."""
    check(_libc.prctl(option, value, third, 0, 0), "prctl")


def seccomp(program: bytes, flags: int) -> int:
    """Judge every system call of this process from now on by `program`, an array of struct sock_filter (seccomp(2)).

    Returns the listener's descriptor, if `flags` (SECCOMP_FILTER_FLAG_*) ask for one.
    """
    code = ctypes.cast(ctypes.c_char_p(program), ctypes.c_void_p).value  # not copied: struct sock_fprog points to it
    fprog = struct.pack("@HP", len(program) // 8, code)
    return check(syscall(_NR_SECCOMP, _SECCOMP_SET_MODE_FILTER, flags, fprog), "seccomp")


def pidfd_getfd(pidfd: int, number: int) -> int:
    """Return a copy of a descriptor of another process (pidfd_getfd(2), Linux 5.6)."""
    return check(syscall(_NR_PIDFD_GETFD, pidfd, number, 0), "pidfd_getfd")


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the capability sets of this process, each a bit mask (capset(2))."""
    masks = (effective, permitted, inheritable)
    low_and_high = [mask & 0xFFFFFFFF for mask in masks] + [mask >> 32 for mask in masks]
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    check(_libc.capset(header, struct.pack("=6I", *low_and_high)), "capset")


def capabilities_permitted() -> int:
    """Return the bit mask of the capabilities this process may use (capget(2))."""
    data = ctypes.create_string_buffer(24)
    check(_libc.capget(struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0), data), "capget")
    words = struct.unpack("=6I", data.raw)
    return int(words[1]) | int(words[4]) << 32


def bpf(command: int, attribute: ctypes.Array[ctypes.c_char]) -> int:
    """Load, attach or ask of a program in the kernel (bpf(2)); `attribute` is its union bpf_attr, in and out."""
    return check(syscall(_NR_BPF, command, attribute, len(attribute)), "bpf")


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close every descriptor from `first` to `last` (close_range(2), Linux 5.9)."""
    check(syscall(_NR_CLOSE_RANGE, first, last, 0), "close_range")


def duplicate(fd: int, lowest: int) -> int:
    """Copy a descriptor to the first free number from `lowest` up, close-on-exec (fcntl(2))."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def last_capability() -> int:
    """Return the highest capability number of this kernel (PR_CAPBSET_READ of a higher one is EINVAL)."""
    number = len(CAPABILITIES)
    while number and _libc.prctl(PR_CAPBSET_READ, number - 1, 0, 0, 0) < 0:
        number -= 1
    return number - 1


def sethostname(name: str) -> None:
    """Set the host name of this UTS namespace (sethostname(2))."""
    encoded = os.fsencode(name)
    check(_libc.sethostname(encoded, len(encoded)), name)


def setdomainname(name: str) -> None:
    """Set the NIS domain name of this UTS namespace (setdomainname(2))."""
    encoded = os.fsencode(name)
    check(_libc.setdomainname(encoded, len(encoded)), name)


def prlimit(resource: int, soft: int, hard: int) -> None:
    """Set a resource limit of this process, 2**64 - 1 for none (prlimit(2))."""
    # Not Python's resource module: a child that has changed its root must import nothing.
    check(_libc.prlimit(0, resource, struct.pack("=QQ", soft, hard), None), "prlimit")


def sched_setattr(policy: int, flags: int, nice: int, priority: int, times_ns: tuple[int, int, int]) -> None:
    """Set how this process is scheduled; `times_ns`: runtime, deadline, period (sched_setattr(2))."""
    record = struct.pack("=IIQiIQQQ", 48, policy, flags, nice, priority, *times_ns)
    check(syscall(_NR_SCHED_SETATTR, 0, record, 0), "sched_setattr")


def set_io_priority(value: int) -> None:
    """Set the I/O class and priority of this process (ioprio_set(2), IOPRIO_WHO_PROCESS)."""
    check(syscall(_NR_IOPRIO_SET, 1, 0, value), "ioprio_set")


def personality(persona: int) -> None:
    """Set the execution domain of this process (personality(2))."""
    check(_libc.personality(_unsigned(persona)), "personality")


def join_session_keyring() -> None:
    """Leave the inherited session keyring for a new, empty one (keyctl(2)); a kernel without keyrings has none to
    leave.
    """
    result = syscall(_NR_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None)
    if result < 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        check(result, "keyctl")


def link_up(name: str) -> None:
    """Bring a network interface of this network namespace up (netdevice(7), SIOCSIFFLAGS)."""
    # By the C library: importing Python's socket module costs more than starting a container.
    sock = check(_libc.socket(2, 2 | os.O_CLOEXEC, 0), "socket")
    try:
        request = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sh22x", name.encode(), 0))
        flags = struct.unpack("16sh22x", request)[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", name.encode(), flags | IFF_UP))
    finally:
        os.close(sock)


def set_controlling_tty(fd: int) -> None:
    """Make the terminal `fd` the controlling terminal of this session (ioctl_tty(2))."""
    fcntl.ioctl(fd, TIOCSCTTY, 0)


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """Tell the terminal `fd` how large it is, in characters (ioctl_tty(2), TIOCSWINSZ)."""
    fcntl.ioctl(fd, TIOCSWINSZ, struct.pack("=4H", rows, columns, 0, 0))
