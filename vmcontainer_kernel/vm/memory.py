"""A guest's memory as a file: most of it is zero, and zeros take neither space nor time."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["copy", "digest"]

_PAGE: Final = 4096
_WINDOW: Final = 1 << 20
_ZEROS: Final = bytes(_WINDOW)


def copy(descriptor: int, path: Path) -> None:
    """Write a memory file to a new file, with a hole for each page that is zero.

    Raises OSError when the disk is full.
    """
    with path.open("wb", buffering=0) as file:
        file.truncate(os.fstat(descriptor).st_size)
        for at, data in _windows(descriptor):
            for start, end in _runs(data):
                file.seek(at + start)
                _write(file, data[start:end])


def _write(file: io.FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's windows of 1 MiB that are not zero, each after its place; holes cost nothing."""
    total = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for at, data in _windows(file.fileno()):
            total.update(at.to_bytes(8, "big"))
            total.update(data)
        total.update(os.fstat(file.fileno()).st_size.to_bytes(8, "big"))
    return total.hexdigest()


def _windows(descriptor: int) -> Iterator[tuple[int, memoryview]]:
    """Yield (place, bytes) of each window that is not zero."""
    at, size = 0, os.fstat(descriptor).st_size
    while at < size and (found := _data_after(descriptor, at)) is not None:
        at = found // _WINDOW * _WINDOW
        data = os.pread(descriptor, _WINDOW, at)
        if data != _ZEROS[: len(data)]:
            yield at, memoryview(data)
        at += _WINDOW


def _data_after(descriptor: int, at: int) -> int | None:
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # only holes follow (lseek(2))
            return None
        raise


def _runs(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the pages that are not zero, neighbours as one."""
    begin = -1
    for at in range(0, len(data), _PAGE):
        page = data[at : at + _PAGE]
        zero = page == _ZEROS[: len(page)]
        if zero and begin >= 0:
            yield begin, at
            begin = -1
        elif not zero and begin < 0:
            begin = at
    if begin >= 0:
        yield begin, len(data)
