"""A terminal of the container's own, and the way its other end takes to whoever asked for it.

The terminal is made in the container's own devpts (a terminal of the node's would be a way to type into the node,
CVE-2017-5226): the container's process opens /dev/pts/ptmx, keeps the slave as its descriptors 0 to 2 and sends the
master over a unix socket (SCM_RIGHTS, unix(7)): that of ``--console-socket``, or our own in the foreground.
"""

from __future__ import annotations

import _socket  # the module `socket` takes 12 ms to import
import fcntl
import os
import struct
import termios

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.spec import Process
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError, UserError

__all__ = ["connect", "make_raw", "receive_master", "socket_pair", "terminal_step"]

_INT = struct.Struct("=i")
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_TIOCGPTN = 0x80045430


def connect(path: str) -> int:
    """Return a descriptor of a connection to the unix socket `path`."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError as error:
        raise UserError(
            f"nothing listens at the console socket: {error.strerror}", where=path, hint="see --console-socket"
        ) from error
    return sock.detach()


def socket_pair() -> tuple[int, int]:
    """Return two connected descriptors."""
    first, second = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    return first.detach(), second.detach()


def receive_master(socket_fd: int) -> int:
    """Return the terminal's master that comes over a socket, or -1 if the other end closes without sending one."""
    sock = _socket.socket(fileno=os.dup(socket_fd))
    try:
        _, ancillary, _, _ = sock.recvmsg(4096, 64, _socket.MSG_CMSG_CLOEXEC)
    finally:
        sock.close()
    for level, kind, data in ancillary:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS) and len(data) >= _INT.size:
            return int(_INT.unpack_from(data)[0])
    return -1


def terminal_step(process: Process, index: int, *, console: bool = True) -> Step:
    """Return the step that makes the terminal; `index`: where in `Scene.extra` the socket is; `console`: also show it
    as /dev/console, as is done for a container's first process.
    """
    return Step(
        "terminal",
        'open("/dev/pts/ptmx"); ioctl(TIOCGPTPEER); sendmsg(socket, SCM_RIGHTS)'
        + ('; move_mount(…, "/dev/console")' if console else ""),
        "a terminal in the container's own devpts; its master goes to whoever shows it",
        "pts(4), unix(7)",
        lambda scene: _make(scene, process, scene.extra[index], console=console),
    )


def _make(scene: Scene, process: Process, socket_fd: int, *, console: bool) -> None:
    try:
        master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ContainerError(
            "process.terminal needs a devpts at /dev/pts", hint="add it to mounts", where="process.terminal"
        ) from error
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if console:
        number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, b"\0" * 4))[0]
        _show_console(f"/dev/pts/{number}")
    os.fchown(slave, process.user.uid, -1)
    for fd in range(3):
        os.dup2(slave, fd)
    os.close(slave)
    _send(socket_fd, master)
    os.close(master)


def _show_console(path: str) -> None:
    """Show the terminal as /dev/console; a link that an image has there is not followed (CVE-2025-52565)."""
    tree = linux.open_tree(linux.AT_FDCWD, path)
    at = os.open("/dev", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW
    os.close(os.open("console", flags, 0o600, dir_fd=at))
    linux.move_mount(tree, at, "console")
    os.close(tree)
    os.close(at)


def _send(socket_fd: int, master: int) -> None:
    sock = _socket.socket(fileno=socket_fd)
    # Receivers want a name with it, and at least one byte (unix(7)).
    sock.sendmsg([b"/dev/ptmx"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _INT.pack(master))])
    sock.close()


def make_raw(fd: int) -> list[object]:
    """Let a terminal pass every key on; return its settings from before (cfmakeraw(3))."""
    before: list[object] = termios.tcgetattr(fd)
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = termios.tcgetattr(fd)
    iflag &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
        | termios.ICRNL | termios.IXON
    )  # fmt: skip
    oflag &= ~termios.OPOST
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    termios.tcsetattr(fd, termios.TCSANOW, [iflag, oflag, cflag, lflag, ispeed, ospeed, characters])
    return before
