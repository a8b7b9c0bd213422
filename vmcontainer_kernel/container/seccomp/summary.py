"""How much of the kernel a filter leaves open, in numbers of system calls."""

from __future__ import annotations

import os
from functools import lru_cache

from vmcontainer_kernel.container.seccomp.syscalls import ABIS, MACHINES, numbers
from vmcontainer_kernel.container.spec import Seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["summary"]

_OPEN = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")


@lru_cache(maxsize=64)
def summary(seccomp: Seccomp | None, machine: str = "") -> dict[str, Any] | None:
    """Return of the calls `known` on a machine how many are `open`, open on `conditional` arguments only, and `closed`,
    with the names of these two and the `action` taken for the rest; None without a filter. Not to be changed.
    """
    own = MACHINES.get(machine or os.uname().machine)
    if seccomp is None or own is None:
        return None
    known = frozenset(numbers(ABIS[own[0]].name))
    default_open = seccomp.default_action in _OPEN
    named = {name: rule.action in _OPEN for rule in seccomp.rules if not rule.args for name in rule.names}
    conditional = {name for rule in seccomp.rules if rule.args for name in rule.names if named.get(name) is not True}
    conditional &= known
    shut = {name for name in known - conditional if not named.get(name, default_open)}
    return {
        "known": len(known),
        "open": len(known) - len(shut) - len(conditional),
        "conditional": len(conditional),
        "closed": len(shut),
        "conditional_names": sorted(conditional),
        "closed_names": sorted(shut),
        "action": seccomp.default_action.removeprefix("SCMP_ACT_").lower(),
    }
