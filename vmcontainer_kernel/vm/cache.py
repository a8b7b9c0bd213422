"""Folders in the cache that are named by a key: complete and unchanging, or not there.

locked(lock): made(KEY) ─▶ tmp-XXXX/ is filled ─▶ rename ─▶ KEY/       a failure or a kill leaves only tmp-XXXX,
                                                                      which the next builder removes
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from ..errors import HostError

__all__ = ["KEYS", "digest", "held", "locked", "made", "prune", "reported_when_full", "try_lock", "used"]

# The names of keys: sixteen hexadecimal digits, as a pattern of glob(3).
KEYS: Final = "[0-9a-f]" * 16


@contextlib.contextmanager
def made(place: Path, beside: Path | None = None) -> Iterator[Path]:
    """Give a folder in `beside` (else beside `place`) that takes its name when all went well, and is removed when
    not.
    """
    folder = Path(tempfile.mkdtemp(prefix="tmp-", dir=beside or place.parent))
    try:
        folder.chmod(0o755)
        yield folder
        folder.rename(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def try_lock(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int | None:
    """Take a lock file, or with other `flags` a folder, and return its descriptor, or None if another has it; closing
    releases it (flock(2)).
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for it; the kernel releases it however the holder ends."""
    while (descriptor := try_lock(path)) is None:
        time.sleep(0.1)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def held(path: Path) -> AsyncIterator[None]:
    """Do as `locked` does, without holding up the event loop."""
    while (descriptor := try_lock(path)) is None:
        await asyncio.sleep(0.1)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def reported_when_full(place: Path, what: str, need_mib: int) -> Iterator[None]:
    """Turn "no space left on device" into a HostError that tells what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        hint = f"free {need_mib} MB, or set VMCONTAINER_CACHE to a folder on another disk"
        raise HostError(f"the disk is full while {what} is made", where=str(place), hint=hint) from error


def used(folder: Path) -> None:
    """Note that a folder is in use now, so that `prune` keeps it; a cache that is read-only is left as it is."""
    with contextlib.suppress(OSError):
        os.utime(folder)


def prune(parent: Path, pattern: str, keep: int) -> None:
    """Remove unfinished folders and all but the `keep` last used that match; call it with the lock held.

    A file that QEMU has open or mapped stays alive until QEMU ends (unlink(2)).
    """
    found = [path for path in parent.glob(pattern) if path.is_dir() and not path.name.startswith("tmp-")]
    old = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[keep:]
    for path in [*old, *parent.glob("tmp-*")]:
        shutil.rmtree(path, ignore_errors=True)


def digest(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
