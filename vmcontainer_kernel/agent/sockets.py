"""The open sockets of a network namespace, with the processes that hold each: proc_pid_net(5), proc_pid_fd(5)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, Final

from .proc import PROC, inode_of, names_in, read_text

__all__ = ["MAX_SOCKETS", "UNITS", "holders_of", "socket_rows", "socket_spaces"]

MAX_SOCKETS: Final = 100
UNITS: Final = {
    "spaces[].total": ("sockets", "level"),
    "spaces[].sockets[].unread_bytes": ("B", "level"),
    "spaces[].sockets[].unsent_bytes": ("B", "level"),
}
_MAX_PROCESSES: Final = 64
_MAX_DESCRIPTORS: Final = 256
# include/net/tcp_states.h
_TCP_STATES: Final = {
    "01": "established",
    "02": "syn-sent",
    "03": "syn-received",
    "04": "fin-wait-1",
    "05": "fin-wait-2",
    "06": "time-wait",
    "07": "closed",
    "08": "close-wait",
    "09": "last-ack",
    "0A": "listening",
    "0B": "closing",
}
_ACCEPTS: Final = 0x10000  # __SO_ACCEPTCON (linux/net.h)

Json = dict[str, Any]


def socket_spaces(places: Iterable[tuple[str, str | None, int, Iterable[int]]], proc: str = PROC) -> Json:
    """Return the part ``sockets``: `places` are name, container or None, a process of each, and who may hold one."""
    spaces = []
    for name, container, pid, members in places:
        rows, holders = socket_rows(f"{proc}/{pid}/net"), holders_of(members, proc)
        shown = [{"pids": holders.get(row.pop("inode"), []), **row} for row in rows[:MAX_SOCKETS]]
        spaces.append({"name": name, "container": container, "sockets": shown, "total": len(rows)})
    return {"spaces": spaces, "units": UNITS}


def holders_of(pids: Iterable[int], proc: str = PROC) -> dict[int, list[int]]:
    """Return inode of a socket → the processes with a descriptor of it, as far as this user may see."""
    found: dict[int, list[int]] = {}
    for pid in list(pids)[:_MAX_PROCESSES]:
        folder = f"{proc}/{pid}/fd"
        for inode in {inode_of(f"{folder}/{fd}", "socket") for fd in names_in(folder)[:_MAX_DESCRIPTORS]}:
            if inode is not None:
                found.setdefault(inode, []).append(pid)
    return found


def socket_rows(net: str) -> list[Json]:
    """Read the sockets of a namespace: TCP and UDP of both versions, and Unix sockets that have a name.

    protocol, local, remote, state, unsent_bytes, unread_bytes, inode.
    """
    rows = []
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in read_text(f"{net}/{protocol}").splitlines()[1:]:
            words = line.split()
            if len(words) > 9:
                rows.append(_internet(protocol, words))
    for line in read_text(f"{net}/unix").splitlines()[1:]:
        words = line.split(maxsplit=7)
        if len(words) == 8:
            rows.append(_unix(words))
    return rows


def _internet(protocol: str, words: list[str]) -> Json:
    """Read ``sl local remote st tx:rx tr:when retrnsmt uid timeout inode``."""
    unsent, _, unread = words[4].partition(":")
    return {
        "protocol": protocol,
        "local": _endpoint(words[1]),
        "remote": _endpoint(words[2]),
        "state": _TCP_STATES.get(words[3], words[3]) if protocol.startswith("tcp") else "",
        "unsent_bytes": int(unsent, 16),
        "unread_bytes": int(unread, 16),
        "inode": int(words[9]),
    }


def _unix(words: list[str]) -> Json:
    """Read ``Num RefCount Protocol Flags Type St Inode Path``, which counts no bytes."""
    return {
        "protocol": "unix",
        "local": words[7].rstrip("\n"),
        "remote": "",
        "state": "listening" if int(words[3], 16) & _ACCEPTS else "",
        "unsent_bytes": None,
        "unread_bytes": None,
        "inode": int(words[6]),
    }


def _endpoint(word: str) -> str:
    """Read ADDRESS:PORT in hexadecimal; each 32-bit word of the address is in the byte order of the machine."""
    address, _, port = word.partition(":")
    parts = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    shown = ipaddress.ip_address(b"".join(parts))
    return f"[{shown}]:{int(port, 16)}" if shown.version == 6 else f"{shown}:{int(port, 16)}"
