"""What networks there are and what must be done for them, as values; nothing here touches the kernel.

    create("web") ──▶ Network ──create_operations──▶ [bridge, forwarding, firewall]
    attach(…)     ──▶ Endpoint ─attach_operations──▶ [link, listen…]          executed by `helper`, one by one

An `Operation` can say what it does and why, as a `Step` can: the same list is shown by ``--explain`` and executed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from vmcontainer_kernel.container.publish import Publish
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import HostError, UserError

__all__ = [
    "FORWARDING",
    "POOL",
    "Endpoint",
    "Network",
    "Operation",
    "attach_operations",
    "check_host_name",
    "choose_address",
    "choose_subnet",
    "create_operations",
    "interface_prefix",
    "is_host_name",
    "make_network",
    "place_operations",
    "routes_of",
    "slirp_operations",
    "tap_operations",
]

POOL = ipaddress.IPv4Network("172.28.0.0/16")
"""Where networks without a subnet of their own take one of 256 addresses: rarely used elsewhere (RFC 1918)."""

FORWARDING = "/proc/sys/net/ipv4/ip_forward"  # ip-sysctl.rst

_RESERVED = ("none", "host", "slirp4netns")
_NODE = "node"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_MAC_PREFIX = bytes((0x02, 0x76))  # the second-lowest bit of the first byte: locally administered (RFC 7042, 2.1)

Subnet = ipaddress.IPv4Network
Routes = Sequence[tuple[Subnet, str]]


class Network(Record):
    """One network: a bridge, its subnet, and the node's own address in it, which is the way out (`gateway`)."""

    name: str
    interface: str
    subnet: Subnet
    internal: bool = False
    driver: str = "bridge"

    @property
    def owner(self) -> str:
        """Whose operations they are (`Operation`)."""
        return f"network {self.name}"

    @property
    def gateway(self) -> str:
        """The node's address: the first of the subnet."""
        return str(self.subnet[1])

    @property
    def mac(self) -> str:
        """The bridge's own hardware address.

        One that is given none takes the lowest of its ports': with that port's container it would go, and what other
        members had still to say to the node would be sent to nobody.
        """
        return _mac_of(self.subnet[1])

    def describe(self) -> dict[str, Any]:
        """Return what ``network ls`` shows."""
        return {
            "name": self.name,
            "driver": self.driver,
            "subnet": str(self.subnet),
            "gateway": self.gateway,
            "interface": self.interface,
            "internal": self.internal,
        }


class Endpoint(Record):
    """A container's place in a network: its address, its interface, and the other end of that on the bridge."""

    container: str
    network: str
    ip: str
    mac: str
    gateway: str
    interface: str
    peer: str
    aliases: tuple[str, ...] = ()
    published: tuple[Publish, ...] = ()

    @property
    def owner(self) -> str:
        """Whose operations they are (`Operation`)."""
        return f"{self.container} in {self.network}"

    def describe(self) -> dict[str, Any]:
        """Return what `Networks.attach` answers and ``network inspect`` lists."""
        shown = [
            {"host_ip": one.host_ip, "host_port": one.host_port, "port": one.container_port, "protocol": one.protocol}
            for one in self.published
        ]
        names = ("container", "network", "ip", "mac", "gateway", "interface", "peer")
        return {name: getattr(self, name) for name in names} | {"aliases": [*self.aliases], "published": shown}


class Operation(Record):
    """One thing done for a network: which function of the helper (`name`) with which `arguments`; it is undone when
    its `owner` goes: a network, a container's place in one, or the node.
    """

    name: str
    owner: str
    arguments: dict[str, Any]
    call: str
    why: str
    source: str

    def describe(self) -> dict[str, str]:
        """Return what ``--explain`` shows."""
        return {"step": self.name, "call": self.call, "why": self.why, "source": self.source}

    def request(self) -> dict[str, Any]:
        """Return what the helper is told."""
        return {"name": self.name, "owner": self.owner, "arguments": self.arguments}


# -- names


def interface_prefix(session: str) -> str:
    """Return how the names of all interfaces of a session begin; a sweep knows its own by it."""
    import hashlib

    return "vmc" + hashlib.blake2s(session.encode(), digest_size=2).hexdigest()


def _bridge_name(session: str, name: str) -> str:
    """Return a name of at most 15 bytes (IFNAMSIZ of linux/if.h, less its NUL): a long one ends in its digest."""
    import hashlib

    plain = name.lower() == name and name.isalnum()
    short = name if plain and len(name) <= 7 else hashlib.blake2s(name.encode(), digest_size=3).hexdigest() + "x"
    return f"{interface_prefix(session)}-{short}"


def _check_name(name: str) -> None:
    if name in _RESERVED or not name or len(name) > 63 or not _LETTERS.issuperset(name) or not name[0].isalnum():
        raise UserError(
            f"{name!r} cannot be a network's name",
            hint=f"letters, digits, '_', '.' and '-', at most 63, a letter or digit first; not {', '.join(_RESERVED)}",
            where="network",
        )


def is_host_name(name: str) -> bool:
    """Tell whether a name can be a word of hosts(5), by hostname(7); ``localhost`` is everybody's own."""
    labels = name.split(".")
    fine = all(
        label and len(label) <= 63 and _LETTERS.issuperset(label) and "-" not in (label[0], label[-1])
        for label in labels
    )
    return fine and len(name) <= 253 and name.lower() != "localhost"


def check_host_name(name: str, where: str) -> None:
    """Refuse what is no host name: it becomes a word of containers' /etc/hosts."""
    if not is_host_name(name):
        raise UserError(f"{name!r} cannot be a host's name", hint="see hostname(7)", where=where)


# -- addresses


def routes_of(proc_net_route: str, ours: str = " ") -> Routes:
    """Read /proc/net/route (proc(5)): subnets this node reaches directly, and by which interface.

    Interfaces whose names begin with `ours` are networks' own, or the rest of some that is swept.
    """
    found = []
    for line in proc_net_route.splitlines()[1:]:
        words = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(words[index])[::-1], "big") for index in (1, 7))
        if mask and not words[0].startswith(ours):  # the default route overlaps everything and reserves nothing
            found.append((Subnet((address & mask, mask.bit_count())), words[0]))
    return found


def make_network(session: str, name: str, subnet: str, taken: Routes, *, internal: bool = False) -> Network:
    """Check a network's name and subnet and return it; `taken`: subnets in use and by what. Raises `UserError`."""
    _check_name(name)
    chosen = _checked_subnet(subnet, taken) if subnet else choose_subnet(taken)
    return Network(name, _bridge_name(session, name), chosen, internal)


def _checked_subnet(text: str, taken: Routes) -> Subnet:
    try:
        subnet = Subnet(text)
    except ValueError as error:
        raise UserError(f"subnet {text!r}: {error}", hint="write one such as 10.9.8.0/24", where="subnet") from None
    if not 8 <= subnet.prefixlen <= 29 or subnet.is_loopback or subnet.is_multicast or subnet.is_link_local:
        raise UserError(
            f"subnet {text}: containers cannot have these addresses",
            hint="choose private ones (RFC 1918), from /8 to /29, such as 10.9.8.0/24",
            where="subnet",
        )
    for other, user in taken:
        if subnet.overlaps(other):
            raise UserError(f"subnet {text} overlaps {other}, used by {user}", hint="choose another", where="subnet")
    return subnet


def choose_subnet(taken: Routes) -> Subnet:
    """Return the first free /24 of the pool."""
    for subnet in POOL.subnets(new_prefix=24):
        if not any(subnet.overlaps(other) for other, _ in taken):
            return subnet
    raise UserError(
        f"every subnet of {POOL} is in use", hint="remove networks, or name one: --subnet 10.9.8.0/24", where="subnet"
    )


def choose_address(network: Network, taken: Iterable[str]) -> tuple[str, str]:
    """Return the first free address, and a MAC address made of it, so that neighbours' ARP caches stay true."""
    used = {network.gateway, *taken}
    for address in network.subnet.hosts():
        if str(address) not in used:
            return str(address), _mac_of(address)
    raise HostError(
        f"network {network.name} has no address left in {network.subnet}",
        hint="remove containers, or make a network with a larger subnet",
        where="subnet",
    )


def _mac_of(address: ipaddress.IPv4Address) -> str:
    return (_MAC_PREFIX + address.packed).hex(":")


# -- what is to be done


def create_operations(session: str, network: Network) -> list[Operation]:
    """Return what makes a network."""
    bridge, subnet = network.interface, str(network.subnet)
    shared = {"interface": bridge, "subnet": subnet}
    alias = f"vmcontainer {session} network {network.name}"
    found = [
        Operation(
            "bridge",
            network.owner,
            {**shared, "address": network.gateway, "mac": network.mac, "alias": alias},
            f"RTM_NEWLINK bridge {bridge}; RTM_NEWADDR {network.gateway}/{network.subnet.prefixlen}",
            "a switch in software: what one container sends, the others of this network receive",
            "rtnetlink(7), ip-link(8)",
        ),
        Operation(
            "firewall",
            network.owner,
            {**shared, "masquerade": not network.internal},
            f"nft table ip {bridge}: forward to {bridge} only answers"
            + ("" if network.internal else f"; masquerade {subnet}"),
            "no other network starts a conversation with this one, and nobody outside knows the way to its addresses",
            "nft(8)",
        ),
    ]
    return found


def attach_operations(network: Network, endpoint: Endpoint, *, first: bool) -> list[Operation]:
    """Return what connects a container; its default route leads through the `first` network it joins."""
    link = {
        "bridge": network.interface,
        "interface": endpoint.interface,
        "peer": endpoint.peer,
        "address": endpoint.ip,
        "prefix_length": network.subnet.prefixlen,
        "mac": endpoint.mac,
        "gateway": endpoint.gateway if first and not network.internal else "",
    }
    made = Operation(
        "link",
        endpoint.owner,
        link,
        f"RTM_NEWLINK veth {endpoint.peer} in {network.interface}, peer {endpoint.interface} {endpoint.ip}",
        "a cable between two network namespaces: what goes in at one end comes out at the other",
        "veth(4), rtnetlink(7)",
    )
    return [*(_listen(one, endpoint) for one in endpoint.published), made]


def _listen(publish: Publish, endpoint: Endpoint) -> Operation:
    arguments = {
        "protocol": publish.protocol,
        "host_ip": publish.host_ip,
        "host_port": publish.host_port,
        "address": endpoint.ip,
        "port": publish.container_port,
    }
    return Operation(
        "listen",
        endpoint.owner,
        arguments,
        f"bind({publish.host_ip}:{publish.host_port or 'any'}/{publish.protocol}), "
        f"forwarded to {endpoint.ip}:{publish.container_port}",
        "a program of the node takes the port, so nobody else can, and loopback reaches it too",
        "bind(2), listen(2)",
    )


def slirp_operations(endpoint: Endpoint, pid: int) -> list[Operation]:
    """Return what connects an ordinary user's container: a program that speaks TCP/IP in place of the kernel."""
    published = [
        {
            "proto": one.protocol,
            "host_addr": one.host_ip,
            "host_port": one.host_port,
            "guest_addr": endpoint.ip,
            "guest_port": one.container_port,
        }
        for one in endpoint.published
    ]
    arguments = {"pid": pid, "interface": endpoint.interface, "published": published}
    return [
        Operation(
            "slirp",
            endpoint.owner,
            arguments,
            f"slirp4netns --configure --disable-host-loopback … {endpoint.interface}",
            "who may not make interfaces on the node lets a program of his own carry each connection",
            "slirp4netns(1)",
        )
    ]


def tap_operations(network: Network, endpoint: Endpoint) -> list[Operation]:
    """Return what makes a machine's cable: a network card whose other end is a descriptor for QEMU."""
    return [
        Operation(
            "tap",
            endpoint.owner,
            {"bridge": network.interface, "peer": endpoint.peer},
            f"open(/dev/net/tun), TUNSETIFF {endpoint.peer} in {network.interface}",
            "a virtual machine's card is not a device of this kernel: QEMU reads and writes its frames",
            "Documentation/networking/tuntap.rst",
        )
    ]


def place_operations(session: str, *, guest: bool, uplink: str, forwarding: str = "0") -> list[Operation]:
    """Return what all networks of a node share: where their bridges live, and the way out of there if any has one.

    `forwarding`: what a guest's own forwarding was set to before there were networks.
    """
    if guest:
        arguments = {"prefix": interface_prefix(session), "before": forwarding}
        why = "a node that passes packets on is a router; what an earlier helper left is removed first"
        call = f"{FORWARDING} = 1"
        return [Operation("forwarding", _NODE, arguments, call, why, "ip-sysctl.rst")]
    switch = Operation(
        "switch",
        _NODE,
        {},
        "unshare(CLONE_NEWNET)",
        "bridges in a namespace of their own: nothing of the host is changed, nothing can be left behind",
        "network_namespaces(7)",
    )
    if not uplink:
        return [switch]
    call = f"slirp4netns --configure --disable-host-loopback … {uplink}"
    why = "a program carries connections from there to the host's network, as for an ordinary user"
    return [switch, Operation("uplink", _NODE, {"interface": uplink}, call, why, "slirp4netns(1)")]
