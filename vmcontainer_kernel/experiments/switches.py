"""The walls of a container, as switches: what each is, how it is left out, and why some cannot be.

A switch that is off is a word of ``--without``, an option that is not given, or one that is; the engine's own words
decide what comes of it, so a switch does what the same option does in a cell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import UserError

__all__ = ["LIMITS", "SWITCHES", "Switch", "check", "peeled", "states"]

LIMITS: Final = {"memory_bytes": 128 << 20, "pids_limit": 64}
"""What a container is limited to here if the cell says nothing, so that there is something to leave out."""

_LIMIT_OPTIONS: Final = (
    *("memory_bytes", "memory_swap_bytes", "memory_reservation_bytes", "cpus", "cpu_shares", "cpuset_cpus"),
    *("cpuset_mems", "pids_limit", "blkio_weight", "device_read_bps", "device_write_bps", "device_read_iops"),
    "device_write_iops",
)
_AHEAD_S: Final = 86400


@dataclass(frozen=True)
class Switch:
    """One wall. `usual`: whether a container has it unless asked otherwise; `locked`: why it cannot be turned.

    `harmless`: beside this computer's own kernel, too, nothing can be changed without it.
    """

    name: str
    group: str
    usual: bool = True
    locked: str = ""
    harmless: bool = False


SWITCHES: Final = (
    Switch("pid", "namespace"),
    Switch("mnt", "namespace", locked="it holds the container's root: without it each mount would stay on the node"),
    Switch("uts", "namespace", harmless=True),
    Switch("ipc", "namespace"),
    Switch("net", "namespace"),
    Switch("cgroup", "namespace", harmless=True),
    Switch("user", "namespace", usual=False, locked="root's containers have none, all others need one"),
    Switch("time", "namespace", usual=False, harmless=True),
    Switch("caps", "protection"),
    Switch("seccomp", "protection"),
    Switch("no-new-privs", "protection", harmless=True),
    Switch("masked-paths", "protection"),
    Switch("readonly-paths", "protection"),
    Switch("devices", "protection"),
    Switch("limits", "protection"),
    Switch("root", "protection"),
    Switch("read-only", "protection", usual=False, harmless=True),
)
"""In the order of namespaces(7), then from rights to files."""

_BY_NAME: Final = {one.name: one for one in SWITCHES}


def check(turned: Collection[str], *, on_host: bool) -> None:
    """Raise UserError for a switch there is not, one that cannot be turned, or one that guards this computer."""
    for name in turned:
        if name not in _BY_NAME:
            raise UserError(f"there is no switch {name}", hint=f"there are: {' '.join(_BY_NAME)}", where="--without")
        if _BY_NAME[name].locked:
            raise UserError(f"{name} cannot be turned: {_BY_NAME[name].locked}", where="--without")
        if on_host and not _BY_NAME[name].harmless:
            raise UserError(
                f"without {name} the cell could change this computer",
                hint="leave --on host out: then it runs in a machine that is thrown away",
                where="--without",
            )


def peeled(options: Mapping[str, Any], turned: Collection[str]) -> dict[str, Any]:
    """Return the options of a request with some switches turned, away from what is usual."""
    changed = dict(options)
    if "limits" in turned:
        changed = {name: value for name, value in changed.items() if name not in _LIMIT_OPTIONS}
    if "read-only" in turned:
        changed["read_only"] = True
    if "time" in turned:
        changed["time_offsets"] = [f"boottime={_AHEAD_S}", f"monotonic={_AHEAD_S}"]
    words = [name for name in turned if name not in ("limits", "read-only", "time")]
    if words:
        changed["without"] = [*changed.get("without", ()), *sorted(words)]
    return changed


def states(turned: Collection[str], *, on_host: bool = False) -> list[dict[str, Any]]:
    """Return a row for each switch: whether it is on, whether that is usual, and why it is locked if it is."""
    return [
        {
            "name": one.name,
            "group": one.group,
            "on": one.usual != (one.name in turned),
            "usual": one.usual,
            "locked": one.locked or ("it guards this computer" if on_host and not one.harmless else None),
        }
        for one in SWITCHES
    ]
