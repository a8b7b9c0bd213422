"""What a user asks of a container, in the words of ``docker run``: `Options`, and `ExecOptions` for one more process.

Reading ends with everything typed; `config.make_config` turns it into an OCI ``config.json``.
"""

from __future__ import annotations

from vmcontainer_kernel.container import requests
from vmcontainer_kernel.container.fields import Fields
from vmcontainer_kernel.container.linux import CAPABILITIES
from vmcontainer_kernel.container.publish import Publish, read_publish
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.requests import (
    DeviceRequest,
    Health,
    Restart,
    SecurityOptions,
    Throttle,
    Ulimit,
    Volume,
)
from vmcontainer_kernel.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["NAMESPACES", "PROTECTIONS", "ExecOptions", "Options"]

NAMESPACES = {"pid": "pid", "uts": "uts", "ipc": "ipc", "net": "network", "cgroup": "cgroup", "user": "user"}
"""``--without`` word → type of the OCI specification."""

PROTECTIONS = ("caps", "no-new-privs", "mask", "masked-paths", "readonly-paths", "seccomp", "devices", "root")
"""``mask`` is both kinds of paths; ``root``, the container's own files, can be left out in a guest only."""

NO_VARIABLES: dict[str, str] = {}
_HIGHEST_BYTES = 2**50


class Options(Record):
    """One container as the user describes it; names follow ``docker run``.

    `argv`: empty means the image's own command; `runs_entrypoint`: it is put behind the image's entry point, as docker
    does, where a cell's shell takes its place. `user`: ``uid[:gid]`` or a name of the image. `without`: namespaces
    and protections to leave out. `pid`, `ipc`, `uts`, `userns`, `cgroupns`: empty (its own), ``host`` or
    ``container:NAME``. `time_offsets`: (clock, seconds); with one it gets a time namespace. None is "no limit", or "not
    said".
    """

    image: str = "busybox"
    argv: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    runs_entrypoint: bool = False
    env: dict[str, str] = NO_VARIABLES
    workdir: str = ""
    user: str = ""
    group_add: tuple[str, ...] = ()
    tty: bool = False
    interactive: bool = False
    hostname: str = ""
    domainname: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    network: str = "none"
    network_alias: tuple[str, ...] = ()
    publish: tuple[Publish, ...] = ()
    add_host: tuple[tuple[str, str], ...] = ()
    pid: str = ""
    ipc: str = ""
    uts: str = ""
    userns: str = ""
    cgroupns: str = ""
    time_offsets: tuple[tuple[str, int], ...] = ()

    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    cpus: float | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int | None = None
    blkio_weight: int | None = None
    device_read_bps: tuple[Throttle, ...] = ()
    device_write_bps: tuple[Throttle, ...] = ()
    device_read_iops: tuple[Throttle, ...] = ()
    device_write_iops: tuple[Throttle, ...] = ()
    oom_score_adj: int | None = None
    ulimits: tuple[Ulimit, ...] = ()

    read_only: bool = False
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[Volume, ...] = ()
    shm_size_bytes: int | None = None
    devices: tuple[DeviceRequest, ...] = ()

    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security: SecurityOptions = SecurityOptions()
    sysctls: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = ()

    restart: Restart = Restart()
    stop_signal: str = ""
    stop_timeout_s: float | None = None
    health: Health | None = None

    @classmethod
    def from_json(cls, document: Any) -> Options:
        """Read the options of a request; raise `SpecError` naming the one that is wrong."""
        given = _read(document, _READERS)
        # A port can be published of what is in a network only: as docker's, that of no other name.
        if given.get("publish") and "network" not in given:
            given["network"] = "bridge"
        return cls(**given)

    @property
    def networked(self) -> bool:
        """True if it is put into a network, which is neither the node's nor another container's."""
        return self.network not in ("none", "host") and not self.network.startswith("container:")

    @property
    def named(self) -> bool:
        """True if it gets files of its own that say which names there are: /etc/hosts, resolv.conf."""
        return self.networked or bool(self.add_host)


class ExecOptions(Record):
    """One more process in a running container, as ``docker exec``."""

    argv: tuple[str, ...] = ()
    env: dict[str, str] = NO_VARIABLES
    workdir: str = ""
    user: str = ""
    tty: bool = False

    @classmethod
    def from_json(cls, document: Any) -> ExecOptions:
        """Read the options of a request; raise `SpecError` naming the one that is wrong."""
        readers = {name: _READERS[name] for name in cls._fields}
        options = cls(**_read(document, readers))
        if not options.argv:
            raise SpecError("argv must name a program", where="argv")
        return options


def _read(document: Any, readers: dict[str, Callable[[Fields, str], Any]]) -> dict[str, Any]:
    fields = Fields(document)
    given = {name: read(fields, name) for name, read in readers.items() if fields.has(name)}
    for name in readers:
        fields.take(name)  # null: not said
    fields.done()
    return given


# -- how each one is read


def _text(fields: Fields, name: str) -> str:
    return fields.text(name, "")


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    return fields.texts(name)


def _texts_map(fields: Fields, name: str) -> dict[str, str]:
    return fields.text_map(name)


def _flag(fields: Fields, name: str) -> bool:
    return fields.flag(name, default=False)


def _number(low: int, high: int) -> Callable[[Fields, str], int | None]:
    return lambda fields, name: fields.number(name, low, high)


def _real(low: float, high: float) -> Callable[[Fields, str], float | None]:
    return lambda fields, name: fields.real(name, low, high)


def _items(read: Callable[[Any, str], Any]) -> Callable[[Fields, str], tuple[Any, ...]]:
    return lambda fields, name: fields.items(name, read)


def _one(read: Callable[[Any, str], Any]) -> Callable[[Fields, str], Any]:
    return lambda fields, name: read(fields.take(name), name)


def _shared(*words: str) -> Callable[[Fields, str], str]:
    """Read whose namespace it is: one of `words`, or ``container:NAME``."""

    def read(fields: Fields, name: str) -> str:
        value = fields.text(name)
        kind, colon, other = value.partition(":")
        if value not in words and (kind != "container" or not colon or not other):
            raise fields.error(name, f"must be {' or '.join(filter(None, words))} or container:NAME, not {value!r}")
        return "" if value == "private" else value

    return read


def _network(fields: Fields, name: str) -> str:
    value = fields.text(name)
    kind, colon, other = value.partition(":")
    if not value or (colon and (kind != "container" or not other)):
        raise fields.error(name, f"must be none, host, a network's name or container:NAME, not {value!r}")
    return value


def _without(value: Any, where: str) -> str:
    where = where.partition("[")[0]
    if value in ("mnt", "mount"):
        raise SpecError(
            "without mnt is not possible: the mount namespace holds the container's root",
            hint="every mount of the container would appear on the node, and stay there",
            where=where,
        )
    allowed = (*NAMESPACES, *PROTECTIONS)
    if value not in allowed:
        raise SpecError(f"{where} must be one of {' '.join(allowed)}, not {value!r}", where=where)
    return str(value)


def _capability(value: Any, where: str) -> str:
    plain = str(value).upper().removeprefix("CAP_")
    if plain not in (*CAPABILITIES, "ALL"):
        raise SpecError(f"{where}: there is no capability {value!r}", where=where, hint="see capabilities(7)")
    return plain


def _security(fields: Fields, name: str) -> SecurityOptions:
    return requests.read_security(fields.texts(name), name)


_BYTES = _number(1 << 20, _HIGHEST_BYTES)
_READERS: dict[str, Callable[[Fields, str], Any]] = {
    **dict.fromkeys(("image", "workdir", "user", "hostname", "domainname", "stop_signal"), _text),
    **dict.fromkeys(("cpuset_cpus", "cpuset_mems"), _text),
    **dict.fromkeys(("argv", "entrypoint", "group_add", "network_alias"), _texts),
    **dict.fromkeys(("tty", "interactive", "read_only", "privileged", "runs_entrypoint"), _flag),
    "env": _texts_map,
    "labels": _items(requests.read_label),
    "network": _network,
    "publish": _items(read_publish),
    "add_host": _items(requests.read_host),
    **dict.fromkeys(("pid", "ipc"), _shared("", "host", "private")),
    **dict.fromkeys(("uts", "userns", "cgroupns"), _shared("", "host", "private")),
    "time_offsets": _items(requests.read_time_offset),
    "memory_bytes": _BYTES,
    "memory_swap_bytes": _number(-1, _HIGHEST_BYTES),
    "memory_reservation_bytes": _BYTES,
    "shm_size_bytes": _number(4096, _HIGHEST_BYTES),
    "cpus": _real(0.01, 4096),
    "cpu_shares": _number(2, 262144),
    "pids_limit": _number(1, 2**22),
    "blkio_weight": _number(10, 1000),
    **dict.fromkeys(
        ("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops"),
        _items(requests.read_throttle),
    ),
    "oom_score_adj": _number(-1000, 1000),
    "ulimits": _items(requests.read_ulimit),
    "volumes": _items(requests.read_volume),
    "tmpfs": _items(requests.read_tmpfs),
    "devices": _items(requests.read_device),
    **dict.fromkeys(("cap_add", "cap_drop"), _items(_capability)),
    "security": _security,
    "sysctls": _items(requests.read_sysctl),
    "without": _items(_without),
    "restart": _one(requests.read_restart),
    "stop_timeout_s": _real(0, 86400),
    "health": _one(requests.read_health),
}
