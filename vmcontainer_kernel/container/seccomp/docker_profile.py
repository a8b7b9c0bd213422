"""A filter's profile from a file, as ``--security-opt seccomp=FILE`` takes it, to ``linux.seccomp`` of a configuration.

Docker and Podman have a form of their own around the specification's: one file for all machines and all sets of
capabilities. What it says besides is decided here, and gone afterwards:

archMap                architectures by the machine's own, where the specification has ``architectures``
includes, excludes     a rule for some capabilities, machines or kernels only: {"caps", "arches", "minKernel"}
name                   one call, where the specification has ``names``
errno, defaultErrno    Podman's: an error by its name
comment                for the reader

A file in the specification's own form has none of these and comes out as it is.
"""

from __future__ import annotations

import errno
import os

from vmcontainer_kernel.container.fields import Fields, brief
from vmcontainer_kernel.container.parsing_linux import SECCOMP_ARCHITECTURES, parse_seccomp, seccomp_rule
from vmcontainer_kernel.container.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["convert"]

_AS_IT_IS = ("defaultAction", "defaultErrnoRet", "architectures", "flags", "listenerPath", "listenerMetadata")
_RULE = ("names", "action", "args", "errnoRet")
_MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
}
"""uname(2) machine → Go's name of it, which ``arches`` uses, and libseccomp's, which ``archMap`` uses."""


class _Here(Record):
    """What conditions are about: capabilities with ``CAP_``, Go's and libseccomp's name of the machine, the kernel."""

    capabilities: frozenset[str]
    go: str
    architecture: str
    kernel: tuple[int, int]


def convert(
    document: Any,
    capabilities: Iterable[str],
    *,
    where: str = "",
    machine: str = "",
    kernel: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return ``linux.seccomp`` for a profile in either form; raise `SpecError` naming the field that is wrong, also of
    a rule that does not hold here.

    `capabilities`: the bounding set, with or without ``CAP_``. `where`: the profile's name in errors. `machine`: as
    uname(2) has it, `kernel`: (6, 1); this one's unless given.
    """
    system = os.uname()
    go, architecture = _MACHINES.get(machine or system.machine, (machine or system.machine, ""))
    held = frozenset(f"CAP_{name.removeprefix('CAP_')}" for name in capabilities)
    here = _Here(held, go, architecture, kernel or _version(system.release) or (0, 0))
    fields = Fields(document, where)
    fields.take("comment")
    mapped = fields.objects("archMap", _architectures)
    converted = {key: value for key in _AS_IT_IS if (value := fields.take(key)) is not None}
    if mapped and converted.get("architectures"):
        raise fields.error("archMap", "is another word for architectures: give one of them")
    for own, *others in mapped:
        if own == architecture:
            converted["architectures"] = [own, *others]
    _name_errno(fields, "defaultErrno", "defaultErrnoRet", converted)
    rules = fields.objects("syscalls", lambda one: _rule(one, here))
    fields.done()
    converted["syscalls"] = [rule for rule in rules if rule is not None]
    parse_seccomp(Fields(converted, where))
    return converted


def _architectures(fields: Fields) -> tuple[str, ...]:
    own = fields.choice("architecture", SECCOMP_ARCHITECTURES)
    others = fields.texts("subArchitectures")
    for other in others:
        if other not in SECCOMP_ARCHITECTURES:
            raise fields.error("subArchitectures", f"must be of {' '.join(SECCOMP_ARCHITECTURES)}, not {brief(other)}")
    return own, *others


def _rule(fields: Fields, here: _Here) -> dict[str, Any] | None:
    """Return a rule in the specification's form, or None if it does not hold here."""
    fields.take("comment")
    rule = {key: value for key in _RULE if (value := fields.take(key)) is not None}
    if one := fields.text("name", ""):
        if rule.get("names"):
            raise fields.error("name", "is another word for names: give one of them")
        rule["names"] = [one]
    _name_errno(fields, "errno", "errnoRet", rule)
    included = fields.child("includes", lambda them: _met(them, here))
    excluded = fields.child("excludes", lambda them: _met(them, here))
    seccomp_rule(Fields(rule, fields.where))  # by its name in the file, which in the result is another
    return rule if all(included) and not any(excluded) else None


def _met(fields: Fields, here: _Here) -> list[bool]:
    """Return of each condition whether it is met: of ``includes`` all must be, of ``excludes`` none."""
    met = [f"CAP_{name.removeprefix('CAP_')}" in here.capabilities for name in fields.texts("caps")]
    arches = fields.texts("arches")
    if arches:
        met.append(here.go in arches)
    if text := fields.text("minKernel", ""):
        needed = _version(text)
        if needed is None:
            raise fields.error("minKernel", f"must be a kernel's version such as 4.8, not {brief(text)}")
        met.append(here.kernel >= needed)
    return met


def _version(text: str) -> tuple[int, int] | None:
    """Return major and minor of ``4.8``, ``6.1.0-18-cloud``; None if it is no version."""
    major, _, rest = text.partition(".")
    minor = rest[: next((at for at, letter in enumerate(rest) if not letter.isdecimal()), len(rest))]
    return (int(major), int(minor)) if major.isdecimal() and minor else None


def _name_errno(fields: Fields, key: str, target: str, into: dict[str, Any]) -> None:
    """Put the number of an error's name into `into`, unless it is there."""
    name = fields.text(key, "")
    if not name:
        return
    number = getattr(errno, name, None)
    if not isinstance(number, int):
        raise fields.error(key, f"must be the name of an error, such as EPERM, not {brief(name)}")
    if into.setdefault(target, number) != number:
        raise fields.error(key, f"is {name}, which is {number}, but {target} is {brief(into[target])}")
