"""What divides one process from the rest of its kernel: ids, capabilities, filter, clocks.

Everything is read from that process's own folder of proc(5), which shows it from outside: nothing enters its
namespaces. It is read again when the process runs another program, and every eighth look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..container.linux import CAPABILITIES
from .proc import PROC, read_fields, read_text

__all__ = ["Isolation", "capability_names", "isolation"]

SECCOMP_MODES: Final = {"0": "disabled", "1": "strict", "2": "filter"}
_SETS: Final = {
    "effective": "CapEff",
    "permitted": "CapPrm",
    "inheritable": "CapInh",
    "bounding": "CapBnd",
    "ambient": "CapAmb",
}
_KEPT_LOOKS: Final = 8

Row = dict[str, Any]


class Isolation:
    """Rows that are kept from look to look."""

    def __init__(self, proc: str = PROC) -> None:
        self._proc = proc
        self._kept: dict[tuple[int, str], Row | None] = {}
        self._look = 0

    def rows(
        self,
        node: str,
        agent_pid: int,
        containers: Sequence[Mapping[str, Any]],
        filters: Mapping[str, Any],
        commands: Mapping[int, str],
        *,
        fresh: bool = False,
    ) -> list[Row]:
        """Return the node's own row, which is its agent's, then one for each running container.

        `commands`: pid → what it runs: a container's first process becomes what it is step by step until it runs it.
        """
        self._look += 1
        known = {} if fresh or self._look % _KEPT_LOOKS == 0 else self._kept
        names = {agent_pid: (node, None)} | {one["pid"]: (one["name"], one["name"]) for one in containers if one["pid"]}
        keys = {pid: (pid, commands.get(pid, "")) for pid in names}
        self._kept = {key: known.get(key) or isolation(pid, self._proc) for pid, key in keys.items()}
        return [
            {"name": name, "container": container, **row, "filter": filters.get(name)}
            for pid, (name, container) in names.items()
            if (row := self._kept[keys[pid]])
        ]


def isolation(pid: int, proc: str = PROC) -> Row | None:
    """Return how the process `pid` is set apart, or None if it is gone (docs/architecture.md, ``isolation[]``)."""
    folder = f"{proc}/{pid}"
    status = read_fields(f"{folder}/status")
    if "Name" not in status:
        return None
    filters = status.get("Seccomp_filters", "")  # since Linux 5.9
    return {
        "pid": pid,
        "uid_map": _id_map(read_text(f"{folder}/uid_map")),
        "gid_map": _id_map(read_text(f"{folder}/gid_map")),
        "groups_denied": read_text(f"{folder}/setgroups").strip() == "deny",
        "capabilities": {name: capability_names(status.get(field, "0")) for name, field in _SETS.items()},
        "seccomp": SECCOMP_MODES.get(status.get("Seccomp", ""), "unknown"),
        "seccomp_filters": int(filters) if filters.isdigit() else None,
        "no_new_privs": status.get("NoNewPrivs") == "1",
        "time_offsets": _time_offsets(read_text(f"{folder}/timens_offsets")),
    }


def _id_map(text: str) -> list[dict[str, int]]:
    """Read uid_map(5): id inside, id outside, how many."""
    rows = [[int(word) for word in line.split()] for line in text.splitlines()]
    return [{"inside": row[0], "outside": row[1], "count": row[2]} for row in rows if len(row) == 3]


def capability_names(mask: str) -> list[str]:
    """Return the names in a bit mask of status; a bit without a name is told by its number."""
    bits = int(mask, 16)
    known = [name for number, name in enumerate(CAPABILITIES) if bits >> number & 1]
    return known + [str(number) for number in range(len(CAPABILITIES), 64) if bits >> number & 1]


def _time_offsets(text: str) -> dict[str, float]:
    """Read timens_offsets: what the clocks of the time namespace differ by, in seconds (time_namespaces(7))."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: int(row[1]) + int(row[2]) / 1e9 for row in rows if len(row) == 3}
