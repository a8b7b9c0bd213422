"""PID 1 of a guest: make it a usable Linux, serve its host, and give a clone an identity of its own.

    kernel ─▶ RAM disk (vm/initrd.py): modules, root disk, mounts ─▶ /sbin/init ─▶ main: links, names, network, serve

A clone wakes in the middle of its template's life with the template's clock, random numbers, MAC address, host name
and machine-id. All five are renewed by one request (`renew`) before anything else runs in it.

Under emulation an import takes twenty times as long as on the host, and every machine whose size has no template yet
waits for it. So what is imported here is small: no `json`, `re`, `enum`, `pathlib`, `typing`, `contextlib`, `socket`
or `ctypes`, and nothing of the container engine (`engine`). A test keeps the list.
"""

from __future__ import annotations

import _socket as socket  # `socket` brings `enum` and `selectors`
import fcntl
import gc
import os
import select
import struct
import time

from ..container.csignal import signal
from ..container.light import suppress
from ..errors import NodeError, ProtocolError
from .channel import Channel
from .protocol import PORT_NAME, get_number, get_str
from .server import Call, Server
from .verbs import GUEST_ENVIRONMENT, NodeVerbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from ..container.runtime import Runtime

__all__ = ["GuestServer", "GuestVerbs", "main", "note", "open_port", "set_up"]

_RNDADDENTROPY: Final = 0x40085203  # linux/random.h
_RNDRESEEDCRNG: Final = 0x5207
_SIOCADDRT: Final = 0x890B  # linux/sockios.h
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFADDR: Final = 0x8916
_SIOCSIFNETMASK: Final = 0x891C
_SIOCSIFHWADDR: Final = 0x8924
_IFF_UP: Final = 1
_RTF_UP_GATEWAY: Final = 3  # linux/route.h
_ARPHRD_ETHER: Final = 1
_RB_POWER_OFF: Final = 0x4321FEDC  # linux/reboot.h
_REST_S: Final = 0.5
_PLUG_S: Final = 10.0
_RECONNECT_S: Final = 10.0
_NIC: Final = "eth0"
# What QEMU's user network expects, qemu-system-x86_64(1) -netdev user.
_ADDRESS, _NETMASK, _GATEWAY = b"\x0a\x00\x02\x0f", b"\xff\xff\xff\x00", b"\x0a\x00\x02\x02"


def main() -> None:
    """Be PID 1: set up, serve until the host has gone, power off."""
    note("main")
    os.environ.clear()
    os.environ.update(GUEST_ENVIRONMENT)
    set_up()
    server = GuestServer(Channel(open_port(), passes_fds=False))
    NodeVerbs(server, server.engine, guest=True)
    GuestVerbs(server)
    gc.freeze()
    note("ready")
    server.run()
    power_off()


def note(phase: str) -> None:
    """Put a mark on the console, with the kernel's own time stamp: ``[    2.202262] vmcontainer: ready``.

    As an error's level: a quiet kernel shows nothing less (kmsg(4), <3>).
    """
    with open("/dev/kmsg", "w") as log:
        log.write(f"<3>vmcontainer: {phase}\n")


class GuestServer(Server):
    """A server whose channel may end for a moment: a clone is connected before it wakes."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel, {"node": "guest", "release": os.uname().release})
        self._engine: Runtime | None = None
        self.load = self.engine
        self.splice = channel.splice

    def engine(self) -> Runtime:
        """Return the container engine, made when somebody first asks for it."""
        if self._engine is None:
            from .engine import guest_engine

            self._engine = guest_engine(self)
        return self._engine

    def lost(self) -> bool:
        """Wait for the host a while; a guest without a host is of no use to anybody."""
        deadline = time.monotonic() + _RECONNECT_S
        while time.monotonic() < deadline:
            time.sleep(0.05)
            if self._connected():
                return True
        return False

    def _connected(self) -> bool:
        """Tell whether the host has opened its end; else a virtio port hangs up (drivers/char/virtio_console.c)."""
        poll = select.poll()
        poll.register(self.channel.fd, 0)
        return not any(event & select.POLLHUP for _, event in poll.poll(0))


def set_up() -> None:
    """Make what a Linux system has besides its mounts, name it, and bring its links up."""
    with open("/proc/self/comm", "w") as name:
        name.write("vmc-agent")
    for link, target in (
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "fd/0"),
        ("/dev/stdout", "fd/1"),
        ("/dev/stderr", "fd/2"),
    ):
        with suppress(FileExistsError):
            os.symlink(target, link)  # noqa: PTH211 - `pathlib` would have to be imported
    socket.sethostname("guest")
    control = _control()
    _link_up(control, "lo")
    if os.access(f"/sys/class/net/{_NIC}", os.F_OK):
        # QEMU's user network has IPv4 only for us: no link-local address, no reports to routers while a clone wakes.
        with suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{_NIC}/disable_ipv6", "w") as switch:
            switch.write("1")
        _configure(control)
    control.close()


def _control() -> socket.socket:
    """Return a socket for netdevice(7), which takes any."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _link_up(control: socket.socket, name: str) -> None:
    """Switch a link on, as link_up of `container.linux` does, which brings `ctypes`."""
    answer = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sh22x", name.encode(), 0))
    flags = struct.unpack("16sh22x", answer)[1]
    fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", name.encode(), flags | _IFF_UP))


def _configure(control: socket.socket) -> None:
    """Give the card its address and the guest its way out: netdevice(7) and rtentry of linux/route.h.

    Three runs of ip(8) would take longer than all else here.
    """
    for request, address in ((_SIOCSIFADDR, _ADDRESS), (_SIOCSIFNETMASK, _NETMASK)):
        fcntl.ioctl(control, request, struct.pack("16s16s8x", _NIC.encode(), _inet(address)))
    _link_up(control, _NIC)
    route = struct.pack("8x16s16s16sH62x", _inet(bytes(4)), _inet(_GATEWAY), _inet(bytes(4)), _RTF_UP_GATEWAY)
    fcntl.ioctl(control, _SIOCADDRT, route)


def _inet(address: bytes) -> bytes:
    """Return a sockaddr_in without port (ip(7))."""
    return struct.pack("=H2x4s8x", socket.AF_INET, address)


def _run(*argv: str) -> int:
    return os.spawnvp(os.P_WAIT, argv[0], argv)


def _interface_of(mac: str, deadline_s: float) -> str:
    """Return the interface with a MAC address; its driver may still be at work."""
    while time.monotonic() < deadline_s:
        for name in os.listdir("/sys/class/net"):  # noqa: PTH208
            if _line_of(f"/sys/class/net/{name}/address") == mac:
                return name
        time.sleep(0.01)
    raise NodeError(f"no card with address {mac} appeared in this guest", hint="see its kernel's words: %vm logs")


def open_port(patience_s: float = 10.0) -> int:
    """Open the virtio-serial port to the host, by its name in sysfs: there is no udev that would make a link."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        for port in _ports():
            if _line_of(f"/sys/class/virtio-ports/{port}/name") == PORT_NAME:
                return os.open(f"/dev/{port}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        time.sleep(0.02)
    raise ProtocolError(f"there is no virtio-serial port {PORT_NAME} in this guest")


def _ports() -> list[str]:
    try:
        return os.listdir("/sys/class/virtio-ports")  # noqa: PTH208
    except FileNotFoundError:  # its driver is still at work
        return []


def _line_of(path: str) -> str:
    with suppress(OSError), open(path) as file:
        return file.read().strip()
    return ""


class GuestVerbs:
    """``renew``, ``settle``, ``join`` and ``poweroff``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # Opened once: a path that is walked for the first time after waking costs a clone a millisecond.
        self._random = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
        self._hostname, self._machine_id = _Line("/etc/hostname"), _Line("/etc/machine-id")
        self._control: socket.socket | None = None
        if os.access(f"/sys/class/net/{_NIC}", os.F_OK):
            self._control = _control()
        server.verbs |= {"renew": self.renew, "settle": self.settle, "join": self.join, "poweroff": self.poweroff}

    def settle(self, call: Call) -> dict[str, Any]:
        """Make ready for being saved as a template: nothing is left to be imported, written out or collected."""
        self._server.load()
        os.sync()
        gc.collect()
        gc.freeze()
        # What the kernel puts off (RCU callbacks, work queues) is done now, or each clone would begin with it.
        time.sleep(_REST_S)
        return {}

    def renew(self, call: Call) -> dict[str, Any]:
        """Take on a new identity: time_s (Unix), seed (hex), hostname, machine_id (32 hex digits), mac.

        The last three stay as they are if they are not given: a machine that was saved wakes as itself.
        The first cell of a clone waits for this, and each function that runs for the first time after waking must be
        translated by the emulator anew: so system calls, and as few libraries as can be.
        """
        arguments = call.arguments
        time.clock_settime(time.CLOCK_REALTIME, get_number(arguments, "time_s"))
        _reseed(self._random, bytes.fromhex(get_str(arguments, "seed")))
        hostname = get_str(arguments, "hostname", "")
        if hostname:
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
    import ctypes

    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    os.sync()
    ctypes.CDLL(None).reboot(ctypes.c_int(_RB_POWER_OFF))
