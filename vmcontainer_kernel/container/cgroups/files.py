"""Files of the kernel's that hold a line, a number or a table: read and written with plain system calls, as a path
object or a buffered file costs a forked child copied pages.
"""

from __future__ import annotations

import os

__all__ = ["fields", "fields_of_two", "limit", "number", "read", "table", "write"]

_NO_LIMIT = 2**62  # version 1 shows "no limit" as the highest page-aligned number


def read(path: str) -> str:
    """Return a file's text; what is longer than a page comes in more than one read(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(fd, 65536)]
        while len(parts[-1]) >= 4096:
            parts.append(os.read(fd, 65536))
        return b"".join(parts).decode()
    finally:
        os.close(fd)


def write(path: str, text: str) -> None:
    """Write a file's new text by one write(2), which the kernel takes or refuses as a whole."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:  # write(2) knows no path
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def number(path: str) -> int | None:
    """Return the number in a file; None if this kernel lacks the file or it says "max"."""
    try:
        text = read(path).strip()
    except OSError:  # ENOENT; EOPNOTSUPP of a counter that is switched off
        return None
    return int(text) if text.isdecimal() else None


def limit(path: str) -> int | None:
    """Return a limit; None is "no limit"."""
    found = number(path)
    return None if found is None or found >= _NO_LIMIT else found


def table(path: str) -> dict[str, int]:
    """Read a file of ``name number`` lines; a file this kernel lacks has none."""
    try:
        lines = read(path).splitlines()
    except OSError:
        return {}
    return {name: int(value) for name, _, value in (line.partition(" ") for line in lines) if value.isdecimal()}


def fields(path: str) -> dict[str, dict[str, str]]:
    """Read a file of ``name key=value key=value`` lines (cgroup-v2.rst, "Nested keyed"); one this kernel lacks has
    none.
    """
    try:
        lines = read(path).splitlines()
    except OSError:  # io.pressure is EOPNOTSUPP where pressure is not counted (psi=0)
        return {}
    rows = [line.split() for line in lines if line]
    return {row[0]: dict(pair.split("=", 1) for pair in row[1:] if "=" in pair) for row in rows}


def fields_of_two(path: str) -> dict[str, str]:
    """Read a file of ``name value`` lines as they are; one this kernel lacks has none."""
    try:
        rows = [line.split() for line in read(path).splitlines()]
    except OSError:
        return {}
    return {row[0]: row[1] for row in rows if len(row) == 2}
