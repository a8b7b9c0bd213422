"""Another OCI runtime for machines: the distribution's own runc, by which Docker and containerd run their containers.

    apt ──packages──▶ cache/runtimes/runc/{usr/bin/runc, usr/lib/…/libseccomp.so.2} ──give_runc──▶ a machine

It is fetched and checked as the packages of guests are (`vm.packages`), once for this computer.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from .node import Node
from .paths import cache_dir
from .vm import packages as distribution
from .vm.cache import locked, made, reported_when_full

__all__ = ["ensure_runc", "give_runc"]

_PACKAGES: Final = ("runc", "libseccomp2")
# In /usr/bin or /usr/sbin, by release, or a link in one of them. The library has the name that the program asks for.
_FILES: Final = ("usr/*bin/runc", "usr/lib/*/libseccomp.so.2")
_MADE_OF: Final = "made-of.json"
OS_RELEASE = distribution.OS_RELEASE

Report = Callable[[str, float], None]


def _quiet(phase: str, fraction: float) -> None:
    """Report to nobody."""


def ensure_runc(report: Report = _quiet) -> Path:
    """Return the folder with runc and the library that no guest has, at their places below it; fetched if it is not
    there.

    Raises HostError and MachineError as guests do (`vm.guest.ensure_guest`).
    """
    runtimes, guests = cache_dir("runtimes"), cache_dir("guests")
    place = runtimes / "runc"
    if _system(place) == OS_RELEASE.read_text():
        return place
    with locked(runtimes / "lock"), locked(guests / "lock"), reported_when_full(runtimes, "runc", need_mib=40):
        if _system(place) != OS_RELEASE.read_text():
            shutil.rmtree(place, ignore_errors=True)
            with made(place) as folder:
                _fetch(folder, guests, report)
    return place


def _system(place: Path) -> str:
    """Return the os-release(5) of the system it was made for, or nothing."""
    try:
        return str(json.loads((place / _MADE_OF).read_text())["system"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _fetch(folder: Path, guests: Path, report: Report) -> None:
    apt = distribution.Apt(guests / "apt")
    apt.prepare()
    report("package lists", 0.0)
    distribution.update(apt)
    packages = [distribution.parse_record(apt.show(name)) for name in _PACKAGES]
    debs = distribution.fetch(apt, packages, guests / "packages", lambda part: report("packages", 0.2 + 0.6 * part))
    apt.forget()
    report("unpack", 0.9)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=guests) as unpacked:
        root = Path(unpacked)
        distribution.unpack(debs, root)
        for pattern in _FILES:
            path = min(root.glob(pattern))
            target = folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path.resolve(), target)
    document = {"system": OS_RELEASE.read_text(), "packages": [asdict(package) for package in packages]}
    (folder / _MADE_OF).write_text(json.dumps(document, indent=1))


async def give_runc(node: Node) -> None:
    """Put runc into a machine, ready to be called by its name."""
    place = await asyncio.to_thread(ensure_runc)
    for path in (one for pattern in _FILES for one in place.glob(pattern)):
        await node.put(path.read_bytes(), f"/{path.relative_to(place)}", 0o755)
