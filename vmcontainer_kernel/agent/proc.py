"""Files of proc(5), read with plain system calls: a path object costs as much as the kernel does to fill the file.

The root of /proc is a parameter wherever it is read, so that a folder of saved files tests the parsers.
"""

# ruff: noqa: PTH208, PTH115

from __future__ import annotations

import os
from typing import Final

__all__ = ["PROC", "inode_of", "names_in", "read_fields", "read_text"]

PROC: Final = "/proc"


def read_text(path: str) -> str:
    """Return a file's text; one that is gone or may not be read is empty."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        parts = [os.read(fd, 65536)]
        while parts[-1]:  # what is longer than a page comes in more than one read(2), at places the kernel chooses
            parts.append(os.read(fd, 65536))
        return b"".join(parts).decode("utf-8", "replace")
    except OSError:  # the process has ended since
        return ""
    finally:
        os.close(fd)


def read_fields(path: str) -> dict[str, str]:
    """Read ``Name:\\tvalue`` lines as in /proc/PID/status and /proc/meminfo."""
    pairs = (line.partition(":") for line in read_text(path).splitlines())
    return {name: value.strip() for name, _, value in pairs}


def names_in(path: str) -> list[str]:
    """Return the names in a folder; one that is gone or may not be read has none."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def inode_of(link: str, kind: str = "") -> int | None:
    """Return the number in a link such as ``pid:[4026531836]`` or ``socket:[1234]``, where it is of this `kind`."""
    try:
        target = os.readlink(link)
    except OSError:
        return None
    found, _, rest = target.partition(":[")
    digits = rest.rstrip("]")
    return int(digits) if digits.isdigit() and kind in ("", found) else None
