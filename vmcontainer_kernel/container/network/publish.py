"""Published ports: the words of ``docker run --publish`` as values.

[[HOST_IP:]HOST_PORT:]CONTAINER_PORT[/tcp|/udp]        8080:80   127.0.0.1:5353:53/udp   80   [::1]:8080:80
"""

from __future__ import annotations

from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import SpecError

__all__ = ["Publish", "parse_publish"]

_WHERE = "publish"
_HINT = "write [[HOST_IP:]HOST_PORT:]CONTAINER_PORT[/tcp|/udp], such as 8080:80"


class Publish(Record):
    """One port of a container that this computer's programs can reach; `host_port` 0 asks for any free one.

    Only this computer's own programs by default: a lab's server is no business of the whole network.
    """

    container_port: int
    host_port: int = 0
    host_ip: str = "127.0.0.1"
    protocol: str = "tcp"

    @property
    def text(self) -> str:
        """As docker-port(1) shows it: ``127.0.0.1:8080->80/tcp``."""
        host = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        return f"{host}:{self.host_port}->{self.container_port}/{self.protocol}"


def parse_publish(text: str) -> Publish:
    """Read one ``--publish``; raises `SpecError` that says which part is wrong."""
    ports, slash, protocol = text.partition("/")
    if slash and protocol not in ("tcp", "udp"):
        raise _error(text, f"{protocol!r} is neither tcp nor udp")
    rest, _, container = ports.rpartition(":")
    host_ip, colon, host = rest.rpartition(":")
    if not rest and ":" in ports:
        raise _error(text, "the host's port is missing")
    if colon and not host_ip:
        raise _error(text, "the host's address is missing")
    return Publish(
        container_port=_port(text, container, lowest=1),
        host_port=_port(text, host, lowest=0) if host else 0,
        host_ip=_address(text, host_ip) if host_ip else Publish.host_ip,
        protocol=protocol or "tcp",
    )


def _port(text: str, port: str, lowest: int) -> int:
    # isdecimal alone lets through digits of other scripts.
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and lowest <= int(port) <= 65535):
        raise _error(text, f"{port!r} is no port from {lowest} to 65535")
    return int(port)


def _address(text: str, address: str) -> str:
    import ipaddress

    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        raise _error(text, f"{bare!r} is no IP address") from None


def _error(text: str, problem: str) -> SpecError:
    return SpecError(f"{_WHERE} {text!r}: {problem}", hint=_HINT, where=_WHERE)
