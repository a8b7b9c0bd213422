"""Disks that are kept: a folder each, which outlives machines and notebooks.

    folder/NAME/disk.qcow2    what was written
    folder/NAME/disk.json     {"size_bytes", "below": NAME or null, "created_s", "origin"}
    folder/.tmp-XXXX/         one that is being made; its maker holds a lock on it

A disk is made beside its place and renamed, so that it is whole or not there. Which disk lies below which stands in
``disk.json``, and is taken from nowhere else: a guest that has broken out of its QEMU can write into a qcow2 header.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...container.checks import check_name
from ...errors import HostError, LabError, NotFound, UserError
from ...paths import cache_dir
from ..cache import locked, reported_when_full, try_lock
from .disk import Disk, Layer
from .headers import identify
from .source import open_source

__all__ = ["FILE", "Kept", "Store", "own_store", "used_bytes"]

FILE: Final = "disk.qcow2"
NOTE: Final = "disk.json"
TEMPORARY: Final = ".tmp-"  # no disk's name begins with a dot
MAX_CHAIN: Final = 15
# QEMU's lock bytes: which access somebody has (from 100) and which he lets nobody have (from 200), one byte for each
# permission (QEMU's block/file-posix.c, RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE).
_WRITE_BYTE: Final = (101, 1)


@dataclass(frozen=True)
class Kept:
    """What is noted of a disk; `below` is the disk that it is an overlay of, or empty."""

    name: str
    size_bytes: int
    below: str = ""
    created_s: float = 0.0
    origin: str = ""


class Store:
    """The disks in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ready(self) -> Path:
        """Return the folder, made if needed; nobody else can look into it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.folder

    def names(self) -> list[str]:
        """Return all names, sorted."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(one.parent.name for one in self.folder.glob(f"[!.]*/{NOTE}"))
        return []

    def kept(self, name: str) -> Kept:
        """Return what is noted of a disk; raises NotFound with those there are."""
        try:
            note = json.loads((self.folder / name / NOTE).read_text()) if name in self.names() else None
            if note is None:
                there = ", ".join(self.names()) or "none"
                raise NotFound(
                    f"there is no disk {name}", hint=f"there are: {there}. %vm disk create NAME --size 1g makes one"
                )
            return Kept(name, int(note["size_bytes"]), note["below"] or "", note["created_s"], note["origin"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = f"remove it: %vm disk rm {name}"
            raise UserError(f"disk {name} is damaged: {error}", hint=hint, where=str(self.folder / name)) from error

    def disk(self, name: str) -> Disk:
        """Return a disk with all that lies below it."""
        kept = self.kept(name)
        chain: list[Layer] = []
        below = kept.below
        while below:
            chain.append(Layer(self._seen(below), "qcow2"))
            if len(chain) > MAX_CHAIN:
                raise UserError(f"disk {name} lies on more than {MAX_CHAIN} others", hint="flatten one of them")
            below = self.kept(below).below
        return Disk(name, self._seen(name), "qcow2", kept.size_bytes, chain=tuple(chain))

    def writable(self, name: str) -> Disk:
        """Return a disk that is to be written to; raises UserError if others lie on it, which would be garbled."""
        above = self.above(name)
        if above:
            raise UserError(
                f"disk {name} cannot be written to: {', '.join(above)} lies on it",
                hint=f"attach it --read-only, or make one more overlay: %vm disk create NEW --from {name}",
            )
        return self.disk(name)

    def above(self, name: str) -> list[str]:
        """Return the disks that are overlays of this one."""
        found = []
        for other in self.names():
            with contextlib.suppress(LabError):
                if self.kept(other).below == name:
                    found.append(other)
        return found

    def file(self, name: str) -> Path:
        """Return the file of a disk."""
        return self.folder / name / FILE

    def _seen(self, name: str) -> Path:
        """Return a disk's file, once its header is seen to be a qcow2's that names no other file but a backing file:
        that name is never followed, others would be.
        """
        path = self.file(name)
        try:
            with path.open("rb") as file:
                source = open_source(file.fileno(), str(path))
                header = identify(source)
        except OSError as error:
            hint = f"remove it: %vm disk rm {name}"
            raise UserError(f"disk {name} cannot be read: {error.strerror}", hint=hint, where=str(path)) from error
        if header.format != "qcow2" or any(one.role != "backing file" for one in header.names):
            raise source.fault("it is no longer as it was made")
        return path

    @contextlib.contextmanager
    def made(self, kept: Kept) -> Iterator[Path]:
        """Give a folder in which ``disk.qcow2`` is to be written; it becomes the disk when all went well."""
        check_name(kept.name, "disk")
        if kept.name in self.names():
            raise UserError(f"there is a disk {kept.name} already", hint=f"%vm disk rm {kept.name} removes it")
        with self._beside() as folder:
            yield folder
            with _synced(folder / FILE):
                _write_note(folder, kept)
            try:
                folder.rename(self.folder / kept.name)
            except OSError as error:
                raise UserError(f"there is a disk {kept.name} already", hint="choose another name") from error

    @contextlib.contextmanager
    def replaced(self, kept: Kept) -> Iterator[Path]:
        """Give a folder in which a disk's file is to be written anew; it takes the old one's place at the end."""
        with self._beside() as folder, self.locked(kept.name):
            yield folder
            with _synced(folder / FILE):
                _write_note(folder, kept)
            # The file first: with the old note it has layers below, of which it shows nothing any more.
            (folder / FILE).rename(self.file(kept.name))
            (folder / NOTE).rename(self.folder / kept.name / NOTE)

    @contextlib.contextmanager
    def _beside(self) -> Iterator[Path]:
        self.ready()
        with reported_when_full(self.folder, "a disk", need_mib=100):
            with locked(self.folder / "lock"):
                self._sweep()
                folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self.folder))
                hold = _hold(folder)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                if hold is not None:
                    os.close(hold)

    def _sweep(self) -> None:
        """Remove what makers that were killed have left."""
        for folder in self.folder.glob(f"{TEMPORARY}*"):
            hold = _hold(folder)
            if hold is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(hold)

    def remove(self, name: str) -> None:
        """Remove a disk; raises UserError for one that a machine has attached or another lies on."""
        if name not in self.names():
            self.kept(name)
        above = self.above(name)
        if above:
            hint = "remove those first, or flatten them: %vm disk flatten NAME"
            raise UserError(f"disk {name} is needed: {', '.join(above)} lies on it", hint=hint)
        with self.locked(name):
            shutil.rmtree(self.folder / name)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock that QEMU takes on a file it uses; raises UserError if a machine has it."""
        try:
            descriptor = os.open(self.file(name), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield
            return
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
            yield
        except BlockingIOError as error:
            hint = "detach it first: %vm disk detach MACHINE NAME"
            raise UserError(f"disk {name} is in use by a machine", hint=hint) from error
        finally:
            os.close(descriptor)

    def is_used(self, name: str, *, writing: bool = False) -> bool:
        """Whether any QEMU, of whatever notebook, has a disk open, or open for `writing`."""
        try:
            with self.file(name).open("rb") as file:
                answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK, *(_WRITE_BYTE if writing else ())))
        except OSError:
            return False
        return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)

    def check_size(self, size_bytes: int, *, what: str) -> None:
        """Refuse a disk that its own disk could never hold."""
        total_bytes = shutil.disk_usage(self.ready()).total
        if size_bytes > total_bytes:
            raise UserError(
                f"{what} of {size_bytes >> 20} MiB is larger than the file system it would be kept on",
                hint=f"that has {total_bytes >> 20} MiB; VMCONTAINER_CACHE may name a folder on another",
                where=str(self.folder),
            )

    def document(self, name: str) -> dict[str, Any]:
        """Describe a disk and the layers below it, each with the bytes that it takes."""
        kept, disk = self.kept(name), self.disk(name)
        chain = [name, *(layer.path.parent.name for layer in disk.chain)]
        return {
            "name": name,
            "format": disk.format,
            "size_bytes": kept.size_bytes,
            "used_bytes": used_bytes(disk.path),
            "chain": [{"name": one, "used_bytes": used_bytes(self.file(one))} for one in chain],
            "overlays": self.above(name),
            "in_use": self.is_used(name),
            "created_s": kept.created_s,
            "origin": kept.origin,
            "file": str(disk.path),
        }


def own_store() -> Store:
    """Return this user's disks."""
    return Store(cache_dir("disks"))


def used_bytes(path: Path) -> int:
    """Return what a file takes on its disk (stat(2): st_blocks are of 512 bytes)."""
    try:
        return path.stat().st_blocks * 512
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}", hint="is the disk there?") from error


def _hold(folder: Path) -> int | None:
    """Lock a folder, under whatever name it goes; None if somebody else has it."""
    return try_lock(folder, os.O_RDONLY | os.O_DIRECTORY)


def _lock(kind: int, start: int = 100, length: int = 200) -> bytes:
    """Return fcntl(2)'s ``struct flock`` of 64-bit Linux for QEMU's lock bytes."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def _write_note(folder: Path, kept: Kept) -> None:
    note = {"size_bytes": kept.size_bytes, "below": kept.below or None, "origin": kept.origin}
    with (folder / NOTE).open("w") as file:
        json.dump(note | {"created_s": kept.created_s or time.time()}, file)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _synced(path: Path) -> Iterator[None]:
    """Have a new file on the disk before it takes its name."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    yield
