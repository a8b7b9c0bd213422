"""What an output tells about the computer it was made on, and what is stored in its place.

Stored outputs travel: to GitHub, to the course's pages, to each learner. So what only the author's computer has is
replaced before they are stored (`anonymous`), and what is still there is found afterwards (`leaks`).
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from vmcontainer_kernel.paths import cache_dir

__all__ = ["anonymous", "leaks"]

ROOT = Path(__file__).parent.parent
USUAL_INITS = ("bash", "docker-init", "dumb-init", "init", "launchd", "sh", "systemd", "tini")
USUAL_NAMES = ("debian", "guest", "host", "localhost", "ubuntu", "vm")
USUAL_RELEASE = re.compile(r"[\d.]+(-\d+)?(-(cloud-)?(amd64|arm64)|-generic)?")  # of a kernel: Debian's, Ubuntu's
USUAL_MOUNTS = re.compile(r"/(boot|dev|etc|home|proc|run|snap|sys|tmp|usr|var)?(/|$)")
# Whoever checks: a home that is not an image's own, a Python environment that was not replaced.
ANYWHERE = re.compile(r"/(?:home|Users)/(?!guest\b)\w+|(?<!…/vmcontainer)/\.venv/")


def anonymous(text: str) -> str:
    """Return a text without what tells where its author works."""
    for place, name in _places(ROOT).items():
        text = text.replace(place, name)
    return text


def leaks(text: str, root: Path = ROOT) -> Iterator[str]:
    """Name what a text tells about this computer, or about the author's."""
    yield from (f"{place!r}, which only this computer has," for place in _places(root) if place in text)
    for point in mount_points():
        if not USUAL_MOUNTS.match(point) and point in text:
            yield f"{point}, a file system of this computer,"
    name = socket.gethostname()
    if name not in USUAL_NAMES and re.search(rf"\b{re.escape(name)}\b", text):
        yield f"{name}, the name of this computer,"
    yield from (f"{found!r}, a place on somebody's computer," for found in ANYWHERE.findall(text))


def mount_points() -> list[str]:
    """Return where this computer's file systems are."""
    return [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]


@cache
def _places(root: Path) -> dict[str, str]:
    """Return what only this computer has, longest first, and what a reader sees instead."""
    places = {
        str(root): "…/vmcontainer",
        sys.prefix: "…/vmcontainer/.venv",
        str(cache_dir()): "~/.cache/vmcontainer",
        str(Path.home()): "~",
    }
    release = os.uname().release
    if not USUAL_RELEASE.fullmatch(release):
        places[release] = release.partition("-")[0]
    program, command = Path("/proc/1/comm").read_text().strip(), Path("/proc/1/cmdline").read_bytes()
    if program not in USUAL_INITS:
        line = command.replace(b"\0", b" ").decode(errors="replace").strip()
        places |= {line: "/sbin/init", program: "init"}
    return {place: places[place] for place in sorted(places, key=len, reverse=True) if place not in ("", "/")}
