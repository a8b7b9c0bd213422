"""Published ports: a listening socket on the node, and for each client a connection to the container.

    client ──▶ host_ip:host_port  (node's network namespace)
                     │ bytes, both ways, each direction with its own end of file
                     ▼
               address:port       (the bridge's network namespace)

Done by a program and not by address translation, as Docker's docker-proxy does for loopback: the kernel does not
translate 127.0.0.1 without further settings, a bound port is taken for certain, nobody else's firewall can be in the
way, and nothing is left behind by a process that was killed. What it costs: servers see the bridge as their client.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Callable

from vmcontainer_kernel.container.network.holders import holder_of
from vmcontainer_kernel.errors import HostError, UserError

__all__ = ["Count", "Proxy", "bind"]

_BUFFER_BYTES = 256 * 1024
_READ_BYTES = 64 * 1024
_MAX_CLIENTS = 400  # two descriptors each, of the usual 1024
_UDP_IDLE_S = 60.0

Loop = selectors.BaseSelector
Address = tuple[str, int]


def bind(protocol: str, host_ip: str, host_port: int) -> socket.socket:
    """Take a port of the node; raises `UserError` if it is taken, `HostError` if it cannot be had."""
    family = socket.AF_INET6 if ":" in host_ip else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    try:
        if protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host_ip, host_port))
        if protocol == "tcp":
            sock.listen(128)
        sock.setblocking(False)
        return sock
    except OSError as error:
        sock.close()
        raise _bind_error(protocol, host_ip, host_port, error) from error


def _bind_error(protocol: str, host_ip: str, host_port: int, error: OSError) -> UserError | HostError:
    where = f"publish {host_ip}:{host_port}/{protocol}"
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(protocol, host_port)
        told = f"port {host_port}/{protocol} is taken on this node: {holder} has it"
        return UserError(
            told if holder else f"port {host_port}/{protocol} is taken on this node",
            hint="publish another (0 takes any free one), or end who has it; %container port NAME tells a container's",
            where=where,
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UserError(f"{host_ip} is no address of this node", hint="publish on 127.0.0.1", where=where)
    if error.errno == errno.EACCES:
        return HostError(f"port {host_port} is for root only", hint="publish one from 1024 up", where=where)
    return HostError(f"the port cannot be published: {error.strerror}", where=where)


class Count:
    """What went through a published port: conversations, and bytes to and from the container."""

    __slots__ = ("conversations", "in_bytes", "out_bytes")

    def __init__(self) -> None:
        self.conversations = self.in_bytes = self.out_bytes = 0


class Proxy:
    """All published ports of a node, on one event loop whose keys hold the function to call with the events."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._clients: set[_Conversation] = set()
        self._counts: dict[socket.socket, Count] = {}

    def listen(self, sock: socket.socket, target: Address) -> Callable[[], None]:
        """Serve a bound socket; return what ends it and its conversations."""
        count = self._counts[sock] = Count()
        if sock.type == socket.SOCK_DGRAM:
            datagrams = _Datagrams(self._loop, sock, target, count)
            return lambda: self._close(sock, datagrams.close)
        self._loop.register(sock, selectors.EVENT_READ, lambda _: self._accept(sock, target))
        return lambda: self._close(sock, lambda: self._end(sock))

    def counts(self) -> dict[str, dict[str, int]]:
        """Return ``tcp 127.0.0.1:8080`` → `Count` as a document, of each port that is served."""
        return {
            _shown(sock): {name: getattr(one, name) for name in Count.__slots__} for sock, one in self._counts.items()
        }

    def _accept(self, sock: socket.socket, target: Address) -> None:
        try:
            client, _ = sock.accept()
        except OSError:  # gone before we looked (accept(2))
            return
        if len(self._clients) >= _MAX_CLIENTS:
            client.close()
            return
        count = self._counts[sock]
        count.conversations += 1
        self._clients.add(_Conversation(self._loop, client, target, sock, count, self._clients.discard))

    def _close(self, sock: socket.socket, end: Callable[[], None]) -> None:
        del self._counts[sock]
        end()

    def _end(self, sock: socket.socket) -> None:
        self._loop.unregister(sock)
        for one in [one for one in self._clients if one.listener is sock]:
            one.close()
        sock.close()


def _shown(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{'udp' if sock.type == socket.SOCK_DGRAM else 'tcp'} {host}:{port}"


class _End:
    """One of a conversation's two sockets: what is still to be sent to it, and whether it will say more."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.unsent = bytearray()
        self.ended = False  # its end of file was read
        self.told = False  # it was told the other's end of file
        self.events = 0

    def receive(self) -> bytes:
        """Return what arrived; empty at the end of file, which is noted."""
        data = self.sock.recv(_READ_BYTES)
        self.ended = not data
        return data

    def send(self) -> None:
        """Send as much as goes."""
        if self.unsent:
            del self.unsent[: self.sock.send(self.unsent)]


class _Conversation:
    """A client and a container's server: bytes both ways, until both have ended or one failed."""

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        target: Address,
        listener: socket.socket,
        count: Count,
        on_close: Callable[[_Conversation], None],
    ) -> None:
        self.listener, self._count = listener, count
        self._loop, self._on_close = loop, on_close
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._ends = (_End(client), _End(server))
        for end in self._ends:
            end.sock.setblocking(False)
            end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connecting = True
        server.connect_ex(target)  # EINPROGRESS; how it went is told when it can be written to (connect(2))
        self._watch(self._ends[1], selectors.EVENT_WRITE)

    def _serve(self, end: _End, events: int) -> None:
        other = self._ends[1] if end is self._ends[0] else self._ends[0]
        try:
            if self._connecting and end.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.close()
                return
            self._connecting = False
            if events & selectors.EVENT_READ:
                data = end.receive()
                other.unsent += data
                if end is self._ends[0]:
                    self._count.in_bytes += len(data)
                else:
                    self._count.out_bytes += len(data)
                other.send()
            if events & selectors.EVENT_WRITE:
                end.send()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._go_on()

    def _go_on(self) -> None:
        for end, other in (self._ends, self._ends[::-1]):
            if other.ended and not end.unsent and not end.told:
                end.told = True
                with contextlib.suppress(OSError):
                    end.sock.shutdown(socket.SHUT_WR)
        if all(end.told for end in self._ends):
            self.close()
            return
        for end, other in (self._ends, self._ends[::-1]):
            wants = 0 if end.ended or len(other.unsent) >= _BUFFER_BYTES else selectors.EVENT_READ
            self._watch(end, wants | (selectors.EVENT_WRITE if end.unsent else 0))

    def _watch(self, end: _End, events: int) -> None:
        if events == end.events:
            return
        if not end.events:
            self._loop.register(end.sock, events, lambda seen: self._serve(end, seen))
        elif not events:
            self._loop.unregister(end.sock)
        else:
            self._loop.modify(end.sock, events, self._loop.get_key(end.sock).data)
        end.events = events

    def close(self) -> None:
        """End it at once."""
        for end in self._ends:
            self._watch(end, 0)
            end.sock.close()
        self._on_close(self)


class _Datagrams:
    """A published UDP port: each client gets a socket of its own to the container, until both were silent a while."""

    def __init__(self, loop: Loop, sock: socket.socket, target: Address, count: Count) -> None:
        self._loop, self._sock, self._target, self._count = loop, sock, target, count
        self._clients: dict[Address, tuple[socket.socket, float]] = {}
        loop.register(sock, selectors.EVENT_READ, lambda _: self._forward())

    def _forward(self) -> None:
        with contextlib.suppress(OSError):
            data, client = self._sock.recvfrom(65536)
            self._count.in_bytes += self._server(client).send(data)

    def _server(self, client: Address) -> socket.socket:
        now = time.monotonic()
        if client not in self._clients:
            self._count.conversations += 1
            self._forget(now - _UDP_IDLE_S)
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.setblocking(False)
            server.connect(self._target)
            self._loop.register(server, selectors.EVENT_READ, lambda _: self._answer(server, client))
        else:
            server = self._clients.pop(client)[0]
        self._clients[client] = (server, now)
        return server

    def _answer(self, server: socket.socket, client: Address) -> None:
        with contextlib.suppress(OSError):  # ECONNREFUSED: nobody listens in the container (yet)
            self._count.out_bytes += self._sock.sendto(server.recv(65536), client)

    def _forget(self, before_s: float) -> None:
        """Drop clients that were silent, the oldest of them first, and the oldest anyway if there are too many."""
        for client, (server, last_s) in [*self._clients.items()]:
            if last_s >= before_s and len(self._clients) < _MAX_CLIENTS:
                return
            self._loop.unregister(server)
            server.close()
            del self._clients[client]

    def close(self) -> None:
        """End it."""
        self._forget(float("inf"))
        self._loop.unregister(self._sock)
        self._sock.close()
