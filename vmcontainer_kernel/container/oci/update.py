"""``update``: other limits for a container that is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.oci import groups
from vmcontainer_kernel.container.oci.arguments import Arguments
from vmcontainer_kernel.container.oci.lifecycle import status_of
from vmcontainer_kernel.container.oci.state import Folder
from vmcontainer_kernel.container.parsing import parse
from vmcontainer_kernel.errors import HostError, SpecError, UserError

__all__ = ["update", "wanted"]

_NUMBERS = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-share": ("cpu", "shares"),
    "pids-limit": ("pids", "limit"),
    "blkio-weight": ("blockIO", "weight"),
}
_TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}


def update(folder: Folder, arguments: Arguments) -> None:
    """Set the limits that are given; what is not given, or 0, stays as it is."""
    changes = wanted(arguments)
    with folder:
        saved = folder.load()
        status = status_of(folder, saved)
        if saved is None or status == "stopped":
            raise UserError(f"container {folder.name!r} cannot be updated: it is {status}")
        group = groups.find(saved.cgroup)
        if group is None:
            raise HostError("the container has no control group, so it has no limits")
        document = json.loads(folder.read("config.json"))
        linux = document.get("linux") or {}
        groups.update(group, parse(document | {"linux": linux | {"resources": changes}}).linux.resources)
        document["linux"] = linux | {"resources": _merged(linux.get("resources") or {}, changes)}
        folder.write("config.json", json.dumps(document))


def wanted(arguments: Arguments) -> dict[str, Any]:
    """Return the resources asked for, as the specification has them, without what is 0 or empty."""
    if file := arguments.text("resources"):
        return _pruned(_load(file))
    found: dict[str, Any] = {}
    for name, (part, key) in _NUMBERS.items():
        if arguments.has(name):
            found.setdefault(part, {})[key] = _number(name, arguments.text(name))
    for name, (part, key) in _TEXTS.items():
        if arguments.has(name):
            found.setdefault(part, {})[key] = arguments.text(name)
    return _pruned(found)


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"--{name} is a number, not {text!r}") from None


def _load(file: str) -> dict[str, Any]:
    try:
        document = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"no resources can be read: {error}", where=file) from error
    if not isinstance(document, dict):
        raise SpecError("resources must be a JSON object", where=file)
    return document


def _pruned(document: dict[str, Any]) -> dict[str, Any]:
    parts = {key: _pruned(value) if isinstance(value, dict) else value for key, value in document.items()}
    return {key: value for key, value in parts.items() if value not in (0, "", None, {}, []) or value is False}


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Put the new values over the old ones, part by part."""
    return old | {
        key: _merged(old.get(key) or {}, value) if isinstance(value, dict) else value for key, value in new.items()
    }
