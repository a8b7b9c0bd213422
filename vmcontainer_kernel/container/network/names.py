"""How containers of a network find each other: the texts of /etc/hosts, /etc/resolv.conf and /etc/hostname.

A container's three files lie on the node and are bound into it; they are rewritten in place (the bind is of the file,
not of its name), so every member of a network sees another come and go at once, without a server for names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.network.plan import Endpoint, is_host_name

__all__ = ["hosts_text", "mounts", "resolv_text", "write"]

_LOCAL = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
_FILES = ("hosts", "resolv.conf", "hostname")


def hosts_text(
    hostname: str, own: Sequence[Endpoint], others: Iterable[Endpoint], extra: Sequence[tuple[str, str]] = ()
) -> str:
    """Return hosts(5): itself, `others`, which are the members of its networks, and `extra` (address, name)."""
    lines = [_line(one, hostname) for one in own] + [_line(one) for one in others]
    lines += [f"{address} {name}\n" for address, name in extra]
    return _LOCAL + ("" if own else f"127.0.1.1 {hostname}\n") + "".join(lines)


def _line(endpoint: Endpoint, *names: str) -> str:
    """One address and its names; a container may have a name that no host can have, or that is everybody's own."""
    known = dict.fromkeys((*names, endpoint.container, *endpoint.aliases))
    words = [name for name in known if is_host_name(name)]
    return f"{endpoint.ip} {' '.join(words)}\n" if words else ""


def resolv_text(name_servers: Sequence[str]) -> str:
    """Return resolv.conf(5); empty where nobody could answer."""
    return "".join(f"nameserver {one}\n" for one in name_servers)


def mounts(folder: Path) -> list[dict[str, Any]]:
    """Return the OCI mounts of a container's files; read-only, as a container could fill the node's disk by them."""
    options = ["bind", "ro", "nosuid", "nodev", "noexec"]
    return [
        {"destination": f"/etc/{name}", "type": "bind", "source": str(folder / name), "options": options}
        for name in _FILES
    ]


def write(folder: Path, **texts: str) -> None:
    """Write some of the files in place: hosts, resolv_conf, hostname."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    for name, text in texts.items():
        # Not truncated first: who reads meanwhile must not see an empty file.
        path = folder / name.replace("_", ".")
        with open(path, "r+b" if path.exists() else "wb") as file:
            file.write(text.encode())
            file.truncate()
