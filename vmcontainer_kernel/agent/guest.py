"""PID 1 of a guest: make it a usable Linux, and give a clone an identity of its own.

A clone wakes in the middle of its template's life with the template's clock, random numbers, MAC address, host name
and machine-id. All five are renewed by one request (`renew`) before anything else runs in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any, Final

from ..container import linux
from ..errors import NodeError, ProtocolError
from .protocol import PORT_NAME, get_number, get_str
from .server import Call, Server
from .verbs import GUEST_ENVIRONMENT

__all__ = ["GuestVerbs", "open_port", "set_up"]

_RNDADDENTROPY: Final = 0x40085203  # linux/random.h
_RNDRESEEDCRNG: Final = 0x5207
_SIOCSIFHWADDR: Final = 0x8924  # linux/sockios.h
_ARPHRD_ETHER: Final = 1
_RB_POWER_OFF: Final = 0x4321FEDC  # linux/reboot.h
_REST_S: Final = 0.5
_PLUG_S: Final = 10.0
_NIC: Final = "eth0"
_ADDRESS: Final = "10.0.2.15/24"  # what QEMU's user network expects, qemu-system-x86_64(1) -netdev user
_GATEWAY: Final = "10.0.2.2"

_MOUNTS: Final = (
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    ("devtmpfs", "/dev", "devtmpfs", "mode=755"),
    ("devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "tmpfs", "mode=1777"),
    ("tmpfs", "/run", "tmpfs", "mode=755"),
    ("tmpfs", "/tmp", "tmpfs", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
)


def set_up() -> None:
    """Mount what a Linux system has, name it, and bring its links up."""
    for source, target, kind, options in _MOUNTS:
        if os.path.ismount(target):
            continue
        Path(target).mkdir(parents=True, exist_ok=True)
        linux.mount(source, target, kind, linux.MS_NOSUID, options)
    for link, target in (
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "fd/0"),
        ("/dev/stdout", "fd/1"),
        ("/dev/stderr", "fd/2"),
    ):
        with contextlib.suppress(FileExistsError):
            Path(link).symlink_to(target)
    os.environ.update(GUEST_ENVIRONMENT)
    linux.sethostname("guest")
    linux.link_up("lo")
    if Path("/sys/class/net", _NIC).exists():
        # QEMU's user network has IPv4 only for us: no link-local address, no reports to routers while a clone wakes.
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv6/conf", _NIC, "disable_ipv6").write_text("1")
        _run("ip", "address", "add", _ADDRESS, "dev", _NIC)
        _run("ip", "link", "set", _NIC, "up")
        _run("ip", "route", "add", "default", "via", _GATEWAY)


def _run(*argv: str) -> int:
    return os.spawnvp(os.P_WAIT, argv[0], argv)


def _interface_of(mac: str, deadline_s: float) -> str:
    """Return the interface with a MAC address; its driver may still be at work."""
    while time.monotonic() < deadline_s:
        for path in Path("/sys/class/net").iterdir():
            if (path / "address").read_text().strip() == mac:
                return path.name
        time.sleep(0.01)
    raise NodeError(f"no card with address {mac} appeared in this guest", hint="see its kernel's words: %vm logs")


def open_port(patience_s: float = 10.0) -> int:
    """Open the virtio-serial port to the host, by its name in sysfs: there is no udev that would make a link."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == PORT_NAME:
                return os.open(f"/dev/{name.parent.name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        time.sleep(0.02)
    raise ProtocolError(f"there is no virtio-serial port {PORT_NAME} in this guest")


class GuestVerbs:
    """``renew``, ``settle``, ``join`` and ``poweroff``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # Opened once: a path that is walked for the first time after waking costs a clone a millisecond.
        self._random = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
        self._hostname, self._machine_id = _Line("/etc/hostname"), _Line("/etc/machine-id")
        self._control: socket.socket | None = None
        if Path("/sys/class/net", _NIC).exists():
            self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        server.verbs |= {"renew": self.renew, "settle": self.settle, "join": self.join, "poweroff": self.poweroff}

    def settle(self, call: Call) -> dict[str, Any]:
        """Make ready for being saved as a template: nothing is left to be written out or to be collected."""
        os.sync()
        gc.collect()
        gc.freeze()
        # What the kernel puts off (RCU callbacks, work queues) is done now, or each clone would begin with it.
        time.sleep(_REST_S)
        return {}

    def renew(self, call: Call) -> dict[str, Any]:
        """Take on a new identity: time_s (Unix), seed (hex), hostname, machine_id (32 hex digits), mac.

        The first cell of a clone waits for this, and each function that runs for the first time after waking must be
        translated by the emulator anew: so system calls, and as few libraries as can be.
        """
        arguments = call.arguments
        time.clock_settime(time.CLOCK_REALTIME, get_number(arguments, "time_s"))
        _reseed(self._random, bytes.fromhex(get_str(arguments, "seed")))
        hostname = get_str(arguments, "hostname")
        socket.sethostname(hostname)
        self._hostname.write(hostname)
        self._machine_id.write(get_str(arguments, "machine_id"))
        mac = get_str(arguments, "mac", "")
        if mac and self._control:
            _set_mac(self._control, _NIC, bytes.fromhex(mac.replace(":", "")))
        return {}

    def join(self, call: Call) -> dict[str, Any]:
        """Use the card with address `mac`, which was just plugged in: give it `address`, such as ``10.1.2.3/24``.

        Returns the interface's name.
        """
        mac, address = get_str(call.arguments, "mac"), get_str(call.arguments, "address")
        name = _interface_of(mac, time.monotonic() + _PLUG_S)
        if _run("ip", "address", "add", address, "dev", name) or _run("ip", "link", "set", name, "up"):
            raise NodeError(f"the card {name} does not take the address {address}")
        return {"interface": name}

    def poweroff(self, call: Call) -> dict[str, Any]:
        """End every process and switch off; the answer goes out first."""
        self._server.reply(call.request, {})
        self._server.channel.flush()
        power_off()
        return {}


class _Line:
    """A file of one line, kept open; truncated only if the line was longer, as that costs more than to write."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._fd).st_size

    def write(self, line: str) -> None:
        data = line.encode() + b"\n"
        os.pwrite(self._fd, data, 0)
        if self._size > len(data):
            os.ftruncate(self._fd, len(data))
        self._size = len(data)


def _reseed(device: int, seed: bytes) -> None:
    """Mix in the host's random bytes and use them at once (random(4), RNDADDENTROPY and RNDRESEEDCRNG)."""
    fcntl.ioctl(device, _RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
    fcntl.ioctl(device, _RNDRESEEDCRNG)


def _set_mac(control: socket.socket, name: str, mac: bytes) -> None:
    """Change the address of a link (netdevice(7), SIOCSIFHWADDR); virtio-net allows it while the link is up."""
    fcntl.ioctl(control, _SIOCSIFHWADDR, struct.pack("16sH6s8x", name.encode(), _ARPHRD_ETHER, mac))


def power_off() -> None:
    """End all processes and power off (reboot(2))."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    os.sync()
    ctypes.CDLL(None).reboot(ctypes.c_int(_RB_POWER_OFF))
