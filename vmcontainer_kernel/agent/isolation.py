"""What divides one process from the rest of its kernel: ids, capabilities, filter, mounts, network, sockets.

Everything is read from that process's own folder of proc(5), which shows its namespaces from outside: nothing enters
them. The root of /proc is a parameter, so that a folder of saved files tests the parsers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..container.linux import CAPABILITIES
from .observe import PROC, read_fields, read_text

__all__ = ["ISOLATION_UNITS", "isolation", "isolations"]

ISOLATION_UNITS: Final = {
    "isolation[].links[].received_bytes": ("B", "counter"),
    "isolation[].links[].sent_bytes": ("B", "counter"),
    "isolation[].links[].received_packets": ("packets", "counter"),
    "isolation[].links[].sent_packets": ("packets", "counter"),
    "isolation[].mounts_total": ("mounts", "level"),
    "isolation[].sockets_total": ("sockets", "level"),
}

SECCOMP_MODES: Final = {"0": "disabled", "1": "strict", "2": "filter"}
_TCP_STATES: Final = {"01": "established", "06": "time-wait", "08": "close-wait", "0A": "listening"}
MAX_MOUNTS: Final = 100
MAX_SOCKETS: Final = 100


def isolations(
    node: str, agent_pid: int, containers: Sequence[dict[str, Any]], *, shared: bool, proc: Path = PROC
) -> list[dict[str, Any]]:
    """Return the node's own row, then one for each running container.

    `shared`: the node is a host, whose sockets are other people's too and are not ours to show.
    """
    first = isolation(agent_pid, proc)
    if first and shared:
        first |= {"sockets": [], "sockets_total": None}
    rows = [{"name": node, "container": None} | first] if first else []
    for one in containers:
        found = isolation(one["pid"], proc) if one["pid"] else None
        rows += [{"name": one["name"], "container": one["name"]} | found] if found else []
    return rows


def isolation(pid: int, proc: Path = PROC) -> dict[str, Any] | None:
    """Return how the process `pid` is set apart, or None if it is gone (docs/architecture.md, ``isolation[]``)."""
    folder = proc / str(pid)
    status = read_fields(folder / "status")
    if "Name" not in status:
        return None
    mounts, sockets = _mounts(read_text(folder / "mountinfo")), _sockets(folder / "net")
    return {
        "pid": pid,
        "uid_map": _id_map(read_text(folder / "uid_map")),
        "gid_map": _id_map(read_text(folder / "gid_map")),
        "groups_denied": read_text(folder / "setgroups").strip() == "deny",
        "capabilities": {
            "effective": _capabilities(status.get("CapEff", "0")),
            "bounding": _capabilities(status.get("CapBnd", "0")),
        },
        "seccomp": SECCOMP_MODES.get(status.get("Seccomp", ""), "unknown"),
        "no_new_privs": status.get("NoNewPrivs") == "1",
        "mounts": mounts[:MAX_MOUNTS],
        "mounts_total": len(mounts),
        "links": _links(folder / "net"),
        "sockets": sockets[:MAX_SOCKETS],
        "sockets_total": len(sockets),
        "time_offsets": _time_offsets(read_text(folder / "timens_offsets")),
    }


def _id_map(text: str) -> list[dict[str, int]]:
    """Read uid_map(5): id inside, id outside, how many."""
    rows = [[int(word) for word in line.split()] for line in text.splitlines()]
    return [{"inside": row[0], "outside": row[1], "count": row[2]} for row in rows if len(row) == 3]


def _capabilities(mask: str) -> list[str]:
    """Return the names in a bit mask of status; a bit without a name is told by its number."""
    bits = int(mask, 16)
    known = [name for number, name in enumerate(CAPABILITIES) if bits >> number & 1]
    return known + [str(number) for number in range(len(CAPABILITIES), 64) if bits >> number & 1]


def _mounts(mountinfo: str) -> list[dict[str, str]]:
    """Read proc_pid_mountinfo(5): id parent device root point options [optional fields] - type source options."""
    mounts = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        words, kind = before.split(), after.split()
        if len(words) >= 6 and kind:
            mounts.append({"point": _unescape(words[4]), "type": kind[0], "options": words[5], "root": words[3]})
    return mounts


def _unescape(text: str) -> str:
    """Undo \\040 for a space and its like."""
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, letter)
    return text


def _links(net: Path) -> list[dict[str, Any]]:
    """Read the interfaces of a network namespace with their addresses and counters."""
    addresses = _addresses(net)
    links = []
    for line in read_text(net / "dev").splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = rest.split()
        if len(numbers) >= 10:
            links.append(
                {
                    "name": name.strip(),
                    "addresses": addresses.get(name.strip(), []),
                    "received_bytes": int(numbers[0]),
                    "received_packets": int(numbers[1]),
                    "sent_bytes": int(numbers[8]),
                    "sent_packets": int(numbers[9]),
                }
            )
    return links


def _addresses(net: Path) -> dict[str, list[str]]:
    """Return the addresses of each interface: version 4 by matching local addresses with routes, 6 from if_inet6."""
    found: dict[str, list[str]] = {}
    routes = _routes(read_text(net / "route"))
    for address in _local_addresses(read_text(net / "fib_trie")):
        name = "lo" if address.is_loopback else next((name for name, one in routes if address in one), "")
        if name:
            found.setdefault(name, []).append(str(address))
    for line in read_text(net / "if_inet6").splitlines():
        words = line.split()
        if len(words) == 6:
            found.setdefault(words[5], []).append(str(ipaddress.IPv6Address(int(words[0], 16))))
    return found


def _routes(text: str) -> list[tuple[str, ipaddress.IPv4Network]]:
    """Read /proc/net/route: interfaces and the networks they lead to, without gateways (proc_pid_net(5))."""
    rows = [line.split() for line in text.splitlines()[1:]]
    direct = [row for row in rows if len(row) > 7 and row[2] == "00000000"]
    return [(row[0], ipaddress.IPv4Network((_address(row[1]), str(_address(row[7]))))) for row in direct]


def _address(word: str) -> ipaddress.IPv4Address:
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


def _sockets(net: Path) -> list[dict[str, str]]:
    """Read the open sockets of a network namespace: TCP and UDP of both versions, and named Unix sockets."""
    sockets = []
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in read_text(net / protocol).splitlines()[1:]:
            words = line.split()
            if len(words) > 3:
                state = _TCP_STATES.get(words[3], words[3]) if protocol.startswith("tcp") else ""
                local, remote = _endpoint(words[1]), _endpoint(words[2])
                sockets.append({"protocol": protocol, "local": local, "remote": remote, "state": state})
    for line in read_text(net / "unix").splitlines()[1:]:
        words = line.split(maxsplit=7)
        if len(words) == 8:
            state = "listening" if int(words[3], 16) & 0x10000 else ""  # __SO_ACCEPTCON (linux/net.h)
            sockets.append({"protocol": "unix", "local": words[7], "remote": "", "state": state})
    return sockets


def _endpoint(word: str) -> str:
    """Read ADDRESS:PORT in hexadecimal; each 32-bit word of the address is in the byte order of the machine."""
    address, _, port = word.partition(":")
    parts = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    shown = ipaddress.ip_address(b"".join(parts))
    return f"[{shown}]:{int(port, 16)}" if shown.version == 6 else f"{shown}:{int(port, 16)}"


def _time_offsets(text: str) -> dict[str, float]:
    """Read timens_offsets: what the clocks of the time namespace differ by, in seconds (time_namespaces(7))."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: int(row[1]) + int(row[2]) / 1e9 for row in rows if len(row) == 3}
