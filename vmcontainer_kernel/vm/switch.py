"""A switch between the cards of machines, as a program of its own: ``python switch.py FD``.

    QEMU a ──cable──┐
    QEMU b ──cable──┼── which card has which address is learned from what it sends ── ends with its control socket
    QEMU c ──cable──┘

A cable is a stream socket; each frame has its length before it, four bytes, as ``-netdev socket`` has it. FD is the
control socket: each byte there brings the descriptor of one more cable (SCM_RIGHTS, unix(7)). Guests are not to be
trusted: a cable with a length that no frame has is cut, and frames for a guest that does not read are dropped, as
every switch does. Only the standard library is used.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
from collections.abc import Iterable
from typing import Final

__all__ = ["FRAME_MAX_BYTES", "Cable", "Table", "main"]

FRAME_MIN_BYTES: Final = 14  # IEEE 802.3: two addresses and a type
FRAME_MAX_BYTES: Final = 69_632  # QEMU's NET_BUFSIZE
QUEUE_MAX_BYTES: Final = 1 << 20
ADDRESSES_MAX: Final = 1024
NOBODY: Final = 65_534


class Table:
    """Which port an address is behind."""

    def __init__(self) -> None:
        self._ports: dict[bytes, int] = {}

    def route(self, frame: bytes, port: int, ports: Iterable[int]) -> list[int]:
        """Learn where a frame's sender is and return the ports that the frame goes to."""
        target, sender = frame[:6], frame[6:12]
        if not sender[0] & 1 and (sender in self._ports or len(self._ports) < ADDRESSES_MAX):
            self._ports[sender] = port
        known = None if target[0] & 1 else self._ports.get(target)
        return [one for one in ports if one != port and known in (None, one)]

    def forget(self, port: int) -> None:
        """Forget what is behind a port."""
        self._ports = {address: one for address, one in self._ports.items() if one != port}


class Cable:
    """One card's stream: bytes that came, as frames; and bytes that wait to be sent."""

    def __init__(self) -> None:
        self._came = bytearray()
        self.waiting = bytearray()

    def frames(self, data: bytes) -> list[bytes]:
        """Return the frames that are whole now; raises ValueError for a length that no frame has."""
        self._came += data
        found = []
        while len(self._came) >= 4:
            size = int.from_bytes(self._came[:4], "big")
            if not FRAME_MIN_BYTES <= size <= FRAME_MAX_BYTES:
                raise ValueError(f"no frame has {size} bytes")
            if len(self._came) < 4 + size:
                break
            found.append(bytes(self._came[4 : 4 + size]))
            del self._came[: 4 + size]
        return found

    def put(self, frame: bytes) -> None:
        """Have a frame sent, unless too many wait already."""
        if len(self.waiting) + len(frame) <= QUEUE_MAX_BYTES:
            self.waiting += len(frame).to_bytes(4, "big") + frame


class _Switch:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._table = Table()
        self._cables: dict[int, tuple[socket.socket, Cable]] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, events in self._selector.select():
                if key.fileobj is self._control:
                    if not self._take_cable():
                        return
                elif key.fd in self._cables:  # it may have been cut just now
                    self._serve(key.fd, events)

    def _take_cable(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        for descriptor in descriptors:
            sock = socket.socket(fileno=descriptor)
            sock.setblocking(False)
            self._cables[descriptor] = (sock, Cable())
            self._selector.register(sock, selectors.EVENT_READ)
        return bool(data)

    def _serve(self, port: int, events: int) -> None:
        sock, cable = self._cables[port]
        try:
            if events & selectors.EVENT_WRITE:
                self._send(port)
            if events & selectors.EVENT_READ:
                data = sock.recv(1 << 18)
                if not data:
                    raise ConnectionError("its QEMU has ended")
                for frame in cable.frames(data):
                    self._forward(port, frame)
        except BlockingIOError:
            pass
        except (OSError, ValueError):
            self._cut(port)

    def _forward(self, port: int, frame: bytes) -> None:
        for one in self._table.route(frame, port, list(self._cables)):
            self._cables[one][1].put(frame)
            try:
                self._send(one)
            except OSError:
                self._cut(one)

    def _send(self, port: int) -> None:
        sock, cable = self._cables[port]
        with contextlib.suppress(BlockingIOError):
            del cable.waiting[: sock.send(cable.waiting)]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if cable.waiting else 0)
        if self._selector.get_key(sock).events != events:
            self._selector.modify(sock, events)

    def _cut(self, port: int) -> None:
        sock, _ = self._cables.pop(port)
        self._selector.unregister(sock)
        self._table.forget(port)
        sock.close()


def main(descriptor: int) -> None:
    """Be a switch until the control socket ends; as nobody, if started by root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _Switch(socket.socket(fileno=descriptor)).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
