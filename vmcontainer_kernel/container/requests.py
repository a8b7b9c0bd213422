"""What parts of a request may look like, in the words of docker-run(1): volumes, devices, limits, restart, health.

Each reader takes a text (or number) and the option's name for errors, and returns a record; nothing is looked up here.
"""

from __future__ import annotations

from vmcontainer_kernel.container.fields import Fields, check_text
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "DeviceRequest",
    "Health",
    "Restart",
    "SecurityOptions",
    "Throttle",
    "Ulimit",
    "Volume",
    "read_device",
    "read_health",
    "read_host",
    "read_label",
    "read_restart",
    "read_security",
    "read_sysctl",
    "read_throttle",
    "read_time_offset",
    "read_tmpfs",
    "read_ulimit",
    "read_volume",
]

_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_PROPAGATION = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
_NO_EFFECT = ("z", "Z", "rw", "cached", "delegated", "consistent", "copy")
_ULIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio"),
    *("rttime", "sigpending", "stack", "as"),
)
_POLICIES = ("no", "on-failure", "always", "unless-stopped")
UNLIMITED = 2**64 - 1


class Volume(Record):
    """A folder or file in the container that is kept elsewhere; `options` as mount(8) has them.

    `kind`: ``bind`` of `source`, an absolute path of the node; ``volume``, whose name is `source` (a nameless one ends
    with the container); or ``tmpfs``, a file system in memory.
    """

    kind: str
    source: str
    target: str
    options: tuple[str, ...] = ()


class DeviceRequest(Record):
    """A device of the node at `path`, seen inside as `target`, and what may be done with it, of "rwm"."""

    path: str
    target: str
    access: str = "rwm"


class Throttle(Record):
    """How many bytes or operations a second a block device does for the container."""

    path: str
    rate: int


class Ulimit(Record):
    """One limit of getrlimit(2); `name` in the words of ulimit: nofile, nproc."""

    name: str
    soft: int
    hard: int


class Restart(Record):
    """When the first process is started again after its end; `most` is how often in a row, 0 for no end."""

    policy: str = "no"
    most: int = 0

    def wants(self, exit_status: int, count: int) -> bool:
        """Tell whether it is started again after this end and `count` restarts."""
        if self.policy == "no" or (self.policy == "on-failure" and exit_status == 0):
            return False
        return not self.most or count < self.most


class Health(Record):
    """A command that tells by its status whether the container does its work; all times in seconds."""

    argv: tuple[str, ...] = ()
    interval_s: float = 30.0
    timeout_s: float = 30.0
    start_period_s: float = 0.0
    retries: int = 3


class SecurityOptions(Record):
    """All ``--security-opt`` together; None is "not said". `seccomp`: ``builtin``, ``unconfined`` or a profile as JSON
    (`seccomp.docker_profile`).
    """

    no_new_privileges: bool | None = None
    seccomp: str = ""
    unmasked: bool = False


def _error(where: str, text: str, problem: str) -> SpecError:
    return SpecError(f"{where}: {text!r} {problem}", where=where)


def _inside(path: str, where: str, text: str) -> str:
    if not path.startswith("/") or ".." in path.split("/"):
        raise _error(where, text, "must lead to an absolute path in the container, without '..'")
    return path


def read_volume(value: Any, where: str) -> Volume:
    """Read ``SOURCE:TARGET[:OPTIONS]``; a target alone is a nameless volume. An empty volume is filled with what the
    image has at its place, unless the options say ``nocopy``.
    """
    text = check_text(value, where)
    source, colon, rest = text.partition(":")
    target, _, words = rest.partition(":") if colon else (source, "", "")
    source = source if colon else ""
    if source and not source.startswith("/") and not (_NAME_LETTERS.issuperset(source) and source[0].isalnum()):
        raise _error(where, text, "must start with an absolute path of the node or a volume's name")
    options = tuple(word for word in words.split(",") if word)
    for option in options:
        if option not in ("ro", "nocopy", *_PROPAGATION, *_NO_EFFECT):
            raise _error(where, text, f"has the unknown option {option!r}; there are ro, rw, nocopy, rslave, rshared …")
    target = _inside(target, where, text)
    if target == "/":
        raise _error(where, text, "cannot replace the container's root")
    kind = "bind" if source.startswith("/") else "volume"
    return Volume(kind, source, target, tuple(option for option in options if option not in _NO_EFFECT))


def read_tmpfs(value: Any, where: str) -> Volume:
    """Read ``TARGET[:OPTIONS]`` of ``--tmpfs``."""
    text = check_text(value, where)
    target, _, words = text.partition(":")
    return Volume("tmpfs", "", _inside(target, where, text), tuple(word for word in words.split(",") if word))


def read_device(value: Any, where: str) -> DeviceRequest:
    """Read ``PATH[:TARGET][:rwm]`` of ``--device``."""
    text = check_text(value, where)
    path, *more = text.split(":")
    access = more.pop() if more and set(more[-1]) <= set("rwm") and more[-1] else "rwm"
    if len(more) > 1 or not path.startswith("/"):
        raise _error(where, text, "must be /dev/NAME[:/dev/NAME][:rwm]")
    return DeviceRequest(path, _inside(more[0] if more else path, where, text), access)


def read_throttle(value: Any, where: str) -> Throttle:
    """Read ``PATH:RATE`` of ``--device-read-bps`` and its like; the rate is a number by now."""
    text = check_text(value, where)
    path, _, rate = text.rpartition(":")
    if not path.startswith("/") or not rate.isdecimal() or not int(rate):
        raise _error(where, text, "must be /dev/NAME:RATE")
    return Throttle(path, int(rate))


def read_ulimit(value: Any, where: str) -> Ulimit:
    """Read ``NAME=SOFT[:HARD]``; -1 and ``unlimited`` are no limit."""
    text = check_text(value, where)
    name, _, numbers = text.partition("=")
    soft, colon, hard = numbers.partition(":")
    if name not in _ULIMITS:
        raise _error(where, text, f"must be one of {' '.join(_ULIMITS)}, then = and a number")
    low, high = (_limit(number, where, text) for number in (soft, hard if colon else soft))
    if low > high:
        raise _error(where, text, "has a soft limit above the hard one")
    return Ulimit(name, low, high)


def _limit(number: str, where: str, text: str) -> int:
    if number in ("-1", "unlimited"):
        return UNLIMITED
    if not number.isdecimal() or int(number) >= UNLIMITED:
        raise _error(where, text, "must be NAME=SOFT[:HARD] in whole numbers")
    return int(number)


def read_restart(value: Any, where: str) -> Restart:
    """Read ``no``, ``on-failure[:N]``, ``always`` or ``unless-stopped``."""
    text = check_text(value, where)
    policy, colon, most = text.partition(":")
    if policy not in _POLICIES or (colon and (policy != "on-failure" or not most.isdecimal())):
        raise _error(where, text, "must be no, on-failure[:N], always or unless-stopped")
    return Restart(policy, int(most or 0))


def read_health(value: Any, where: str) -> Health:
    """Read an object of the fields of `Health`; the command ``NONE`` switches the image's own check off."""
    fields = Fields(value, where)
    health = Health(
        fields.texts("argv"),
        **{
            name: number
            for name in ("interval_s", "timeout_s", "start_period_s")
            if (number := fields.real(name, 0.0 if name == "start_period_s" else 0.05, 86400)) is not None
        },
        retries=fields.number("retries", 1, 1000) or 3,
    )
    fields.done()
    if not health.argv:
        raise SpecError(f"{where}.argv must name a command", where=where)
    return Health() if health.argv == ("NONE",) else health


def read_sysctl(value: Any, where: str) -> tuple[str, str]:
    """Read ``NAME=VALUE`` of ``--sysctl``."""
    return _pair(value, where, needs_value=True)


def read_time_offset(value: Any, where: str) -> tuple[str, int]:
    """Read ``CLOCK=SECONDS`` of ``--time-offset``: what a clock of time_namespaces(7) is ahead."""
    clock, seconds = _pair(value, where, needs_value=True)
    if clock not in ("boottime", "monotonic") or not seconds.removeprefix("-").isdecimal() or len(seconds) > 12:
        raise _error(where, str(value), "must be boottime=SECONDS or monotonic=SECONDS, in whole seconds")
    return clock, int(seconds)


def read_label(value: Any, where: str) -> tuple[str, str]:
    """Read ``NAME[=VALUE]`` of ``--label``."""
    return _pair(value, where, needs_value=False)


def _pair(value: Any, where: str, *, needs_value: bool) -> tuple[str, str]:
    text = check_text(value, where)
    name, equals, content = text.partition("=")
    if not name or (needs_value and not equals):
        raise _error(where, text, "must be NAME=VALUE")
    return name, content


def read_host(value: Any, where: str) -> tuple[str, str]:
    """Read ``NAME:ADDRESS`` of ``--add-host``; returned as (address, name), the order of hosts(5)."""
    text = check_text(value, where)
    name, _, address = text.partition(":")
    if not name or not address or not set(address) <= set("0123456789abcdefABCDEF.:%[]"):
        raise _error(where, text, "must be NAME:ADDRESS")
    return address.strip("[]"), name


def read_security(values: tuple[str, ...], where: str) -> SecurityOptions:
    """Read all ``--security-opt``; what this engine has no means for is refused."""
    found = SecurityOptions()
    for text in values:
        cut = next((at for at, letter in enumerate(text) if letter in "=:"), len(text))
        key, value = text[:cut], text[cut + 1 :]
        if key in ("no-new-privileges", "no_new_privileges") and value in ("", "true", "false"):
            found = found.replace(no_new_privileges=value != "false")
        elif key == "seccomp" and (value in ("unconfined", "builtin") or value.startswith("{")):
            found = found.replace(seccomp=value)
        elif key == "systempaths" and value == "unconfined":
            found = found.replace(unmasked=True)
        elif (key, value) not in (("apparmor", "unconfined"), ("label", "disable")):
            hint = "there are no-new-privileges[:false], seccomp=unconfined|builtin|FILE, systempaths=unconfined"
            raise SpecError(f"{where}: {text!r} is not known here", hint=hint, where=where)
    return found
