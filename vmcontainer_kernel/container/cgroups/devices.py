"""The allowed devices (config-linux.md, "Allowed Device list"): for version 1 as lines for two files, for version 2 as
what `program` makes a program of.

Rules hold in order: the last one that speaks of a device and a kind of access decides; what no rule speaks of is
denied. The devices that every container has (config-linux.md, "Default Devices") are allowed after all rules, as in
other runtimes.
"""

from __future__ import annotations

from vmcontainer_kernel.container.spec import DeviceRule
from vmcontainer_kernel.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ALWAYS_ALLOWED", "check", "program_lines", "version_1_lines"]

ALWAYS_ALLOWED = (
    *(DeviceRule(allow=True, type="c", access="m"), DeviceRule(allow=True, type="b", access="m")),
    *(DeviceRule(True, "c", 1, minor) for minor in (3, 5, 7, 8, 9)),  # null zero full random urandom
    *(DeviceRule(True, "c", 5, minor) for minor in (0, 1, 2)),  # tty console ptmx
    DeviceRule(True, "c", 136),  # pts/*
)
"""A node may be made of every device, as that alone opens none."""


_HIGHEST = 2**32 - 1


def check(rules: Sequence[DeviceRule], field: str) -> None:
    """Raise `SpecError` naming the rule that speaks of no device."""
    for index, rule in enumerate(rules):
        if rule.type not in ("a", "b", "c") or not rule.access or not set(rule.access) <= set("rwm"):
            what = f"type {rule.type!r} is one of a, b, c, and access {rule.access!r} of r, w, m"
            raise SpecError(f"{field}[{index}]: {what}", where=f"{field}[{index}]")
        for number in (rule.major, rule.minor):
            if number is not None and not 0 <= number <= _HIGHEST:
                raise SpecError(f"{field}[{index}]: {number} is no device's number", where=f"{field}[{index}]")


def _text(rule: DeviceRule) -> str:
    """Write a rule as version 1 does: ``c 1:3 rwm``."""
    major, minor = ("*" if number is None else str(number) for number in (rule.major, rule.minor))
    return f"{rule.type} {major}:{minor} {rule.access}"


def program_lines(rules: Sequence[DeviceRule]) -> list[str]:
    """Return the rules in the order in which the program tries them: the last one first."""
    tried = reversed([*rules, *ALWAYS_ALLOWED])
    return [*(f"{'allow' if rule.allow else 'deny'} {_text(rule)}" for rule in tried), "deny a *:* rwm"]


# -- version 1

_Key = tuple[str, int | None, int | None]


def version_1_lines(rules: Sequence[DeviceRule], field: str) -> list[tuple[str, str]]:
    """Return (file, text) for version 1, which knows one answer for all devices and a list of exceptions to it
    (cgroup-v1/devices.rst).

    Raises `SpecError` where such a list cannot say what the rules say.
    """
    allowed, exceptions = False, dict[_Key, set[str]]()
    for index, rule in enumerate([*rules, *ALWAYS_ALLOWED]):
        everything = rule.type == "a" and (rule.major, rule.minor) == (None, None) and set(rule.access) == set("rwm")
        if everything:
            allowed = rule.allow
            exceptions.clear()
            continue
        for kind in ("b", "c") if rule.type == "a" else (rule.type,):
            key = (kind, rule.major, rule.minor)
            if rule.allow != allowed:
                exceptions.setdefault(key, set()).update(rule.access)
            else:
                _take_back(exceptions, key, set(rule.access), f"{field}[{index}]")
    first, file = ("devices.allow", "devices.deny") if allowed else ("devices.deny", "devices.allow")
    lines = [(first, "a")]
    for (kind, major, minor), access in exceptions.items():
        if access:
            lines.append((file, _text(DeviceRule(not allowed, kind, major, minor, "".join(sorted(access))))))
    return lines


def _take_back(exceptions: dict[_Key, set[str]], key: _Key, access: set[str], field: str) -> None:
    for other, granted in exceptions.items():
        if not granted & access or not _overlap(key, other):
            continue
        if not _covers(key, other):
            raise SpecError(
                f"{field}: version 1 control groups cannot make an exception to an earlier, wider rule",
                hint="name the devices one by one, or use a node with version 2",
                where=field,
            )
        granted.difference_update(access)


def _covers(wide: _Key, narrow: _Key) -> bool:
    return wide[0] == narrow[0] and all(
        mine in (None, theirs) for mine, theirs in zip(wide[1:], narrow[1:], strict=True)
    )


def _overlap(one: _Key, other: _Key) -> bool:
    return one[0] == other[0] and all(
        None in pair or pair[0] == pair[1] for pair in zip(one[1:], other[1:], strict=True)
    )
