"""Published ports: the words of ``docker run --publish`` as values.

[[HOST_IP:]HOST_PORT:]CONTAINER_PORT[/tcp|/udp]        8080:80   127.0.0.1:5353:53/udp   80   [::1]:8080:80
"""

from __future__ import annotations

from vmcontainer_kernel.container.fields import check_text
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Publish", "read_publish"]

_HINT = "write [[HOST_IP:]HOST_PORT:]CONTAINER_PORT[/tcp|/udp], such as 8080:80"


class Publish(Record):
    """One port of a container that this computer's programs can reach; `host_port` 0 asks for any free one.

    Only this computer's own programs by default: a lab's server is no business of the whole network.
    """

    container_port: int
    host_port: int = 0
    host_ip: str = "127.0.0.1"
    protocol: str = "tcp"


def read_publish(value: Any, where: str = "publish") -> Publish:
    """Read one ``--publish``; raises `SpecError` that says which part is wrong, and `where`."""
    text = check_text(value, where)
    try:
        return _parse(text)
    except ValueError as error:
        raise SpecError(f"{where}: {text!r}: {error}", hint=_HINT, where=where) from None


def _parse(text: str) -> Publish:
    ports, slash, protocol = text.partition("/")
    if slash and protocol not in ("tcp", "udp"):
        raise ValueError(f"{protocol!r} is neither tcp nor udp")
    rest, _, container = ports.rpartition(":")
    host_ip, colon, host = rest.rpartition(":")
    if not rest and ":" in ports:
        raise ValueError("the host's port is missing")
    if colon and not host_ip:
        raise ValueError("the host's address is missing")
    return Publish(
        container_port=_port(container, lowest=1),
        host_port=_port(host, lowest=0) if host else 0,
        host_ip=_address(host_ip) if host_ip else Publish.host_ip,
        protocol=protocol or "tcp",
    )


def _port(port: str, lowest: int) -> int:
    # isdecimal alone lets through digits of other scripts.
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and lowest <= int(port) <= 65535):
        raise ValueError(f"{port!r} is no port from {lowest} to 65535")
    return int(port)


def _address(address: str) -> str:
    import ipaddress

    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        raise ValueError(f"{bare!r} is no IP address") from None
