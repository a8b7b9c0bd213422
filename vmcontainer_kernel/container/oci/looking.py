"""The commands that look at containers and change nothing: ``ps``, ``list``, ``events``."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

from vmcontainer_kernel.container.oci import groups
from vmcontainer_kernel.container.oci.lifecycle import state, status_of
from vmcontainer_kernel.container.oci.state import Folder, names
from vmcontainer_kernel.errors import HostError, NotFound, UserError

if TYPE_CHECKING:
    from vmcontainer_kernel.container.cgroups import Cgroup

__all__ = ["events", "listing", "parse_interval", "processes"]

_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")
_LOOK_S = 0.25
_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _group_of(folder: Folder) -> Cgroup:
    saved = folder.load()
    group = groups.find(saved.cgroup) if saved else None
    if group is None:
        raise HostError("the container has no control group, so its processes are not known", where=folder.path)
    return group


# -- ps


def processes(folder: Folder, form: str, options: list[str]) -> int:
    """Print a container's processes: as ps(1) shows them with these options, or their pids as JSON."""
    if form not in ("table", "json"):
        raise UserError(f"--format is table or json, not {form!r}")
    pids = _group_of(folder).pids()
    if form == "json":
        print(json.dumps(pids))
        return 0
    try:
        shown = subprocess.run(["ps", *(options or ["-ef"])], check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise HostError("there is no program ps", hint="install procps, or use --format json") from error
    if shown.returncode:
        raise UserError(f"ps failed: {shown.stderr.strip()}", where=" ".join(["ps", *options]))
    print(_only(shown.stdout, pids), end="")
    return 0


def _only(table: str, pids: list[int]) -> str:
    head, *lines = table.splitlines()
    if "PID" not in head.split():
        raise UserError("the options of ps must leave the column PID", where=head)
    column = head.split().index("PID")
    wanted = {str(pid) for pid in pids}
    kept = [line for line in lines if len(line.split()) > column and line.split()[column] in wanted]
    return "\n".join([head, *kept]) + "\n"


# -- list


def listing(root: str, form: str, *, quiet: bool) -> str:
    """Return all containers, one that is being deleted left out, as a table or JSON, or only their ids."""
    if form not in ("table", "json"):
        raise UserError(f"--format is table or json, not {form!r}")
    rows = [row for name in names(root) if (row := _row(root, name))]
    if quiet:
        return "".join(f"{row['id']}\n" for row in rows)
    if form == "json":
        return json.dumps(rows) + "\n"
    cells = [[name.upper() for name in _COLUMNS], *([str(row.get(name, "")) for name in _COLUMNS] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(_COLUMNS))]
    lines = ("   ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells)
    return "".join(line.rstrip() + "\n" for line in lines)


def _row(root: str, name: str) -> dict[str, Any] | None:
    try:
        return state(Folder(root, name))
    except (NotFound, UserError):
        return None


# -- events


def events(folder: Folder, interval: str, *, once: bool) -> None:
    """Print what a container uses as JSON lines, once or until it stops; and a line whenever memory ran out."""
    interval_s, group = parse_interval(interval), _group_of(folder)
    status = status_of(folder, folder.load())
    if status == "stopped":
        raise UserError(f"container {folder.name!r} is not running: it is {status}")
    _tell("stats", folder.name, group.oci_stats())
    seen, last_s = group.events()["oom_kills"], time.monotonic()
    while not once and (saved := folder.load()) and saved.init.alive:
        time.sleep(_LOOK_S)
        try:
            kills = group.events()["oom_kills"]
            if time.monotonic() - last_s >= interval_s:
                _tell("stats", folder.name, group.oci_stats())
                last_s = time.monotonic()
        except OSError:  # deleted meanwhile
            return
        if kills > seen:
            _tell("oom", folder.name)
        seen = kills


def parse_interval(text: str) -> float:
    """Return seconds of a time as Go writes it: 5s, 500ms, 1m."""
    number = text.rstrip("mshu")
    try:
        value = float(number) * _UNITS_S[text[len(number) :]]
    except (KeyError, ValueError):
        raise UserError(f"--interval is a time such as 5s, not {text!r}") from None
    if value <= 0:
        raise UserError(f"--interval must be more than 0, not {text}")
    return value


def _tell(kind: str, name: str, data: dict[str, Any] | None = None) -> None:
    print(json.dumps({"type": kind, "id": name} | ({"data": data} if data else {})), flush=True)
