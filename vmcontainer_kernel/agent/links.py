"""The network namespaces of a node as each process in one sees it: interfaces, addresses, routes, neighbours.

Read from the folder ``net`` of proc(5) of a process there: nothing enters the namespace, so no rights are needed in it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, Final

from .proc import PROC, read_text

__all__ = ["UNITS", "address_of", "addresses_of", "link_rows", "neighbour_rows", "network_space", "route_rows"]

UNITS: Final = {
    "spaces[].links[].received_bytes": ("B", "counter"),
    "spaces[].links[].sent_bytes": ("B", "counter"),
    "spaces[].links[].received_packets": ("packets", "counter"),
    "spaces[].links[].sent_packets": ("packets", "counter"),
    "spaces[].links[].received_dropped": ("packets", "counter"),
    "spaces[].links[].sent_dropped": ("packets", "counter"),
}
MAX_ROWS: Final = 100
_DEV: Final = {
    "received_bytes": 0,
    "received_packets": 1,
    "received_dropped": 3,
    "sent_bytes": 8,
    "sent_packets": 9,
    "sent_dropped": 11,
}

Json = dict[str, Any]


def network_space(pid: int, proc: str = PROC) -> Json:
    """Return the links, routes and neighbours of a process's network namespace."""
    net = f"{proc}/{pid}/net"
    routes = read_text(f"{net}/route")
    addresses = addresses_of(routes, read_text(f"{net}/fib_trie"), read_text(f"{net}/if_inet6"))
    links = link_rows(read_text(f"{net}/dev"))
    return {
        "links": [link | {"addresses": addresses.get(link["name"], [])} for link in links[:MAX_ROWS]],
        "routes": route_rows(routes)[:MAX_ROWS],
        "neighbours": neighbour_rows(read_text(f"{net}/arp"))[:MAX_ROWS],
    }


def link_rows(dev: str) -> list[Json]:
    """Read /proc/net/dev: interfaces and their counters (proc_pid_net(5))."""
    links = []
    for line in dev.splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = rest.split()
        if len(numbers) >= 12:
            links.append({"name": name.strip()} | {key: int(numbers[index]) for key, index in _DEV.items()})
    return links


def addresses_of(route: str, fib_trie: str, if_inet6: str) -> dict[str, list[str]]:
    """Return the addresses of each interface: version 4 by matching local addresses with routes, 6 from if_inet6."""
    found: dict[str, list[str]] = {}
    routes = _direct(route)
    for address in _local_addresses(fib_trie):
        name = "lo" if address.is_loopback else next((name for name, one in routes if address in one), "")
        if name:
            found.setdefault(name, []).append(str(address))
    for line in if_inet6.splitlines():
        words = line.split()
        if len(words) == 6:
            found.setdefault(words[5], []).append(str(ipaddress.IPv6Address(int(words[0], 16))))
    return found


def _rows(text: str) -> Iterable[list[str]]:
    return (words for words in map(str.split, text.splitlines()[1:]) if len(words) > 7)


def _direct(route: str) -> list[tuple[str, ipaddress.IPv4Network]]:
    """Return interfaces and the networks they lead to without a gateway."""
    return [(row[0], _network(row)) for row in _rows(route) if row[2] == "00000000"]


def _network(row: list[str]) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network((address_of(row[1]), str(address_of(row[7]))), strict=False)


def route_rows(route: str) -> list[Json]:
    """Read /proc/net/route: to, gateway (None: directly), interface, metric."""
    return [
        {
            "to": str(_network(row)) if row[1] != "00000000" or row[7] != "00000000" else "default",
            "gateway": None if row[2] == "00000000" else str(address_of(row[2])),
            "interface": row[0],
            "metric": int(row[6]),
        }
        for row in _rows(route)
    ]


def neighbour_rows(arp: str) -> list[Json]:
    """Read /proc/net/arp: which card answers for which address; ``00:…`` is one that did not answer yet."""
    rows = (line.split() for line in arp.splitlines()[1:])
    return [{"address": row[0], "mac": row[3], "interface": row[5]} for row in rows if len(row) == 6]


def address_of(word: str) -> ipaddress.IPv4Address:
    """Read an address as proc writes it: in the byte order of the machine."""
    return ipaddress.IPv4Address(bytes.fromhex(word)[::-1])


def _local_addresses(fib_trie: str) -> list[ipaddress.IPv4Address]:
    """Return the namespace's own addresses: a leaf of the routing trie, followed by ``/32 host LOCAL``."""
    found, leaf = [], ""
    for line in fib_trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"] and len(words) > 1:
            leaf = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"] and leaf:
            found.append(ipaddress.IPv4Address(leaf))
    return list(dict.fromkeys(found))
