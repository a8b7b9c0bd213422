"""Interfaces, addresses and routes through rtnetlink(7): bridges, cables of containers, cards of machines.

This module and `firewall` are the only ones that import pyroute2, which costs 200 ms and 24 MB: they run in the
`helper`, a process of its own, never in the one that clones containers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.network.plan import FORWARDING
from vmcontainer_kernel.errors import HostError

__all__ = ["Links", "forwarding", "inside", "netlink_errors"]

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000

Undo = Callable[[], None]


@contextlib.contextmanager
def inside(netns_fd: int) -> Iterator[None]:
    """Be in another network namespace for a moment (setns(2)); sockets made there stay there."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.setns(netns_fd, linux.CLONE_NEWNET)
        try:
            yield
        finally:
            linux.setns(own, linux.CLONE_NEWNET)
    finally:
        os.close(own)


@contextlib.contextmanager
def netlink_errors(doing: str) -> Iterator[None]:
    """Map pyroute2's error, whose code is an errno, to ours."""
    try:
        yield
    except NetlinkError as error:
        raise _told(doing, error) from error


def _told(doing: str, error: NetlinkError) -> HostError:
    hints = {
        errno.EOPNOTSUPP: "this node's kernel lacks it (modules veth, bridge, nf_tables, nft_masq, nft_ct)",
        errno.EPERM: "networks need root's rights on a node: run it in a guest: --on vm",
        errno.EEXIST: "the container shares a network namespace which has it already",
    }
    name = errno.errorcode.get(error.code, str(error.code))
    return HostError(f"{doing}: {os.strerror(error.code)}", hint=hints.get(error.code, ""), where=f"netlink: {name}")


def forwarding(before: str) -> Undo:
    """Let this network namespace pass packets on between interfaces; return what sets that to `before`."""
    try:
        Path(FORWARDING).write_text("1")
    except OSError as error:
        raise HostError(
            f"packets cannot be forwarded: {error.strerror}", hint="run it in a guest: --on vm", where=FORWARDING
        ) from error
    return lambda: (Path(FORWARDING).write_text(before), None)[1]


class Links:
    """The interfaces of the network namespace in which this object was made."""

    def __init__(self) -> None:
        self._route = IPRoute()

    def close(self) -> None:
        """Close the netlink socket."""
        self._route.close()

    def _index(self, name: str) -> int:
        try:
            return socket.if_nametoindex(name)  # a tenth of what a question over netlink costs
        except OSError:
            hint = "somebody removed it: make the network again"
            raise HostError(f"the interface {name} is gone", hint=hint) from None

    def up(self, name: str) -> None:
        """Switch an interface on."""
        self._route.link("set", index=self._index(name), state="up")

    def remove(self, name: str) -> None:
        """Remove an interface; its container's end of the world may have come first."""
        try:
            self._route.link("del", index=socket.if_nametoindex(name))
        except OSError:
            return
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise

    def names(self) -> list[str]:
        """List the interfaces."""
        return [str(link.get_attr("IFLA_IFNAME")) for link in self._route.get_links()]

    def bridge(self, interface: str, address: str, subnet: str, mac: str, alias: str) -> Undo:
        """Make a bridge, give it the network's first address and switch it on."""
        with netlink_errors(f"bridge {interface}"):
            self._route.link("add", ifname=interface, kind="bridge", address=mac)
            try:
                index = self._index(interface)
                self._route.link("set", index=index, ifalias=alias, state="up")
                self._route.addr("add", index=index, address=address, prefixlen=int(subnet.partition("/")[2]))
            except BaseException:
                self.remove(interface)
                raise
        return lambda: self.remove(interface)

    def link(
        self,
        netns_fd: int,
        bridge: str,
        interface: str,
        peer: str,
        address: str,
        prefix_length: int,
        mac: str,
        gateway: str,
    ) -> Undo:
        """Make a cable from the bridge into a container's network namespace; configure the container's end."""
        other = {"ifname": interface, "net_ns_fd": netns_fd, "address": mac}
        with netlink_errors(f"interface {interface} of the container"):
            self._route.link("add", ifname=peer, kind="veth", peer=other, master=self._index(bridge), state="up")
            try:
                with inside(netns_fd), IPRoute() as there:
                    _configure(there, interface, address, prefix_length, gateway)
            except BaseException:
                self.remove(peer)
                raise
        return lambda: self.remove(peer)

    def tap(self, bridge: str, peer: str) -> tuple[int, Undo]:
        """Make a machine's card; return the descriptor that QEMU is given. It vanishes when that is closed."""
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", peer.encode(), flags))
            with netlink_errors(f"card {peer}"):
                self._route.link("set", index=self._index(peer), master=self._index(bridge), state="up")
        except BaseException:
            os.close(fd)
            raise
        return fd, lambda: self.remove(peer)


def _configure(route: Any, interface: str, address: str, prefix_length: int, gateway: str) -> None:
    index = socket.if_nametoindex(interface)
    route.addr("add", index=index, address=address, prefixlen=prefix_length)
    route.link("set", index=index, state="up")
    if gateway:
        route.route("add", dst="default", gateway=gateway)
