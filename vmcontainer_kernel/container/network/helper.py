"""The process that makes networks: told operations over a socket, it does them and knows how to undo each.

    agent ──{"do": [{"name", "owner", "arguments"}…]}──▶ helper     descriptors beside it (SCM_RIGHTS)
          ◀──{"results": [{…}…]} or {"error", …}────────
          ──{"undo": [owner…]}─────────────────────────▶
          ──{"count": true}────────────────────────────▶
          ◀──{…, "counts": {"rules", "ports"}}──────────

It is exec'd by the agent when the first network is made, as pyroute2 is too large for the agent. On a host it makes a
network namespace of its own, in which the bridges live: whatever ends it, they end with it, and the host's interfaces,
routes and firewall are never touched. A guest is ours as a whole, so there they live in the guest's own namespace.
At the end of its socket it undoes there, newest first, all it did.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.network import proxy, slirp
from vmcontainer_kernel.errors import HostError, LabError, to_json

__all__ = ["MAX_MESSAGE_BYTES", "Helper", "main"]

MAX_MESSAGE_BYTES = 64 * 1024
_MAX_FDS = 4

Undo = Callable[[], None]
Outcome = tuple[dict[str, Any], Undo]


class Helper:
    """What was made, for whom, oldest first, with what undoes it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._loop = selectors.DefaultSelector()
        self._proxy = proxy.Proxy(self._loop)
        self._made: list[tuple[str, Undo]] = []
        self._links: Any = None
        self._apart = False  # in a network namespace that ends with this process
        self._fds: list[int] = []
        self._answer_fds: list[int] = []
        # Where published ports are: the node's own network namespace.
        self._node_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._loop.register(control, selectors.EVENT_READ, lambda _: self._serve())

    def run(self) -> None:
        """Serve until the agent is gone, then undo everything."""
        try:
            while self._control.fileno() >= 0:
                for key, events in self._loop.select():
                    # A callback before this one may have closed it.
                    if key.fd in self._loop.get_map() and self._loop.get_map()[key.fd] is key:
                        key.data(events)
        finally:
            if not self._apart:
                self._undo_all([*self._made])

    def _serve(self) -> None:
        data, self._fds = _receive(self._control)
        if not data:
            self._loop.unregister(self._control)
            self._control.close()
            return
        try:
            request = json.loads(data)
            answer: dict[str, Any] = {"results": self.do(request.get("do", ()))}
            self.undo(request.get("undo", ()))
            if request.get("count"):
                answer["counts"] = self.counts()
        except Exception as error:
            answer = to_json(_told(error))
        finally:
            _close_all(self._fds)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self._answer_fds))]
        with contextlib.suppress(BrokenPipeError):
            self._control.sendmsg([json.dumps(answer).encode()], rights if self._answer_fds else [])
        _close_all(self._answer_fds)
        self._answer_fds = []

    # -- operations

    def do(self, operations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Do all of them, or none: what was done is undone when one fails."""
        results: list[dict[str, Any]] = []
        before = len(self._made)
        try:
            for one in operations:
                result, undo = getattr(self, "do_" + one["name"])(**one["arguments"])
                self._made.append((one["owner"], undo))
                results.append(result)
        except BaseException:
            self._undo_all(self._made[before:])
            raise
        return results

    def undo(self, owners: Sequence[str]) -> None:
        """Undo all that was done for these, the newest first."""
        self._undo_all([made for made in self._made if made[0] in owners])

    def _undo_all(self, made: Sequence[tuple[str, Undo]]) -> None:
        """One that fails is told in the log and does not keep the others."""
        for one in reversed(made):
            self._made.remove(one)
            try:
                one[1]()
            except Exception as error:
                print(f"undo {one[0]}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def counts(self) -> dict[str, Any]:
        """Return what the rules of each network took, and what went through each published port."""
        from vmcontainer_kernel.container.network import firewall

        return {"rules": firewall.counts() if self._links else {}, "ports": self._proxy.counts()}

    def do_switch(self) -> Outcome:
        """Make the network namespace of the bridges and stay in it."""
        _do_without_ssl()
        from vmcontainer_kernel.container.network import links

        try:
            linux.unshare(linux.CLONE_NEWNET)
        except OSError as error:
            raise HostError(
                f"no network namespace can be made here: {error.strerror}", hint="run it in a guest: --on vm"
            ) from error
        self._apart = True
        self._links = links.Links()
        self._links.up("lo")
        links.forwarding("0")
        return {}, self._leave

    def _leave(self) -> None:
        self._apart = False
        self._links.close()
        linux.setns(self._node_fd, linux.CLONE_NEWNET)

    def do_forwarding(self, prefix: str, before: str) -> Outcome:
        """Use this node's own network namespace; first clear it of what a helper left that was killed.

        `before`: what forwarding is set to at the end; it may be on already by that helper.
        """
        _do_without_ssl()
        from vmcontainer_kernel.container.network import firewall, links

        self._links = links.Links()
        with links.netlink_errors("what an earlier helper left"):
            for name in self._links.names():
                if name.startswith(prefix):
                    self._links.remove(name)
        firewall.sweep_tables(prefix)
        return {}, links.forwarding(before)

    def do_uplink(self, interface: str) -> Outcome:
        """Connect the bridges' network namespace to the node's network."""
        switch_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with self._at_node():
                return {}, slirp.start(f"/proc/{os.getpid()}/fd/{switch_fd}", interface)
        finally:
            os.close(switch_fd)

    def do_bridge(self, **arguments: Any) -> Outcome:
        """Make a bridge."""
        return {}, self._links.bridge(**arguments)

    def do_firewall(self, **arguments: Any) -> Outcome:
        """Make a network's table."""
        from vmcontainer_kernel.container.network import firewall

        return {}, firewall.firewall(**arguments)

    def do_link(self, **arguments: Any) -> Outcome:
        """Connect a container; its network namespace came with the request."""
        return {}, self._links.link(self._fds[0], **arguments)

    def do_listen(self, protocol: str, host_ip: str, host_port: int, address: str, port: int) -> Outcome:
        """Publish a port."""
        with self._at_node():
            sock = proxy.bind(protocol, host_ip, host_port)
        return {"host_port": sock.getsockname()[1]}, self._proxy.listen(sock, (address, port))

    def do_slirp(self, pid: int, interface: str, published: list[dict[str, Any]]) -> Outcome:
        """Connect a container without a bridge."""
        with self._at_node():
            for one in published:  # slirp4netns would not say why it cannot have a port, nor choose one
                with proxy.bind(one["proto"], one["host_addr"], one["host_port"]) as sock:
                    one["host_port"] = sock.getsockname()[1]
            stop = slirp.start_published(pid, interface, published)
        return {"host_ports": [one["host_port"] for one in published]}, stop

    def _at_node(self) -> contextlib.AbstractContextManager[None]:
        """Be in the node's own network namespace for a moment."""
        if not self._apart:
            return contextlib.nullcontext()
        from vmcontainer_kernel.container.network import links

        return links.inside(self._node_fd)

    def do_tap(self, bridge: str, peer: str) -> Outcome:
        """Make a machine's card; its descriptor goes with the answer."""
        fd, undo = self._links.tap(bridge, peer)
        self._answer_fds.append(fd)
        return {}, undo


def _do_without_ssl() -> None:
    """Let pyroute2 import an empty `ssl` in a guest, whose Python has no OpenSSL: it needs it for probes we never send.

    asyncio is first, as it finds out for itself that there is none.
    """
    import asyncio  # noqa: F401

    try:
        import ssl  # noqa: F401
    except ImportError:
        sys.modules["ssl"] = types.ModuleType("ssl")


def _told(error: Exception) -> LabError:
    if isinstance(error, LabError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return HostError(f"{error.name} is not installed, which makes networks", hint=f"pip install {error.name}")
    return HostError(f"the network could not be made: {type(error).__name__}: {error}")


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """Return one message and the descriptors with it; empty at the end."""
    fds = array.array("i")
    try:
        data, ancillary, _, _ = control.recvmsg(
            MAX_MESSAGE_BYTES, socket.CMSG_LEN(_MAX_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError:
        return b"", []
    for level, kind, rights in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    return data, list(fds)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def main(fd: int) -> None:
    """Serve the agent at the other end of socket `fd`."""
    Path("/proc/self/comm").write_text("vmc-network")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Helper(socket.socket(fileno=fd)).run()
