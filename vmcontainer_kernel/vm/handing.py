"""The files of a machine as open descriptors: QEMU may run as a user who could open none of them.

    MachineConfig, Wiring ──hand──▶ the same with /dev/fdset/N, /proc/self/fd/N for each path; what to open, in order

A disk's descriptor is used itself: QEMU opens ``/dev/fdset/N`` by copying one of that set (``-add-fd``). A kernel or a
RAM file QEMU opens by its name, and the name of a descriptor leads to the file past all folders (proc_pid_fd(5)); only
the file's own permissions count then, so a file of root's is made accessible to the one group that QEMU is in.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..container.ids import DYNAMIC_IDS
from ..errors import MachineError
from .config import Boot, Firmware, MachineConfig, Multiboot, Wiring
from .disks.disk import Disk

__all__ = ["File", "Handed", "hand", "opened"]

_SETS_FROM = 1000  # what is attached later has fdsets of its own, with smaller numbers


@dataclass(frozen=True)
class File:
    """A file to open, with flags of open(2); `by_name`: QEMU then opens it anew, by the descriptor's name."""

    path: Path
    flags: int
    by_name: bool


@dataclass(frozen=True)
class Handed:
    """A machine whose paths are names of descriptors: `files` are to be opened and become the descriptors from the
    first on, `options` is what QEMU is told of them.
    """

    config: MachineConfig
    wiring: Wiring
    files: tuple[File, ...]
    options: tuple[str, ...]


class _Hand:
    def __init__(self, first_fd: int) -> None:
        self.files: list[File] = []
        self.options: list[str] = []
        self._first_fd = first_fd

    def _add(self, path: Path, *, read_only: bool, by_name: bool) -> int:
        self.files.append(File(path, os.O_RDONLY if read_only else os.O_RDWR, by_name))
        return self._first_fd + len(self.files) - 1

    def by_name(self, path: Path, *, read_only: bool = True) -> Path:
        return Path(f"/proc/self/fd/{self._add(path, read_only=read_only, by_name=True)}")

    def by_copy(self, path: Path, *, read_only: bool = True) -> Path:
        fd = self._add(path, read_only=read_only, by_name=False)
        self.options += ["-add-fd", f"fd={fd},set={_SETS_FROM + fd}"]
        return Path(f"/dev/fdset/{_SETS_FROM + fd}")


def hand(config: MachineConfig, wiring: Wiring, first_fd: int) -> Handed:
    """Return the machine with a descriptor's name in the place of each path; the first becomes `first_fd`."""
    to = _Hand(first_fd)
    if wiring.ram:
        wiring = replace(wiring, ram=to.by_name(wiring.ram, read_only=False))
    drives = tuple(replace(drive, disk=_disk(drive.disk, to)) for drive in config.drives)
    config = replace(config, boot=_boot(config.boot, to), drives=drives)
    return Handed(config, wiring, tuple(to.files), tuple(to.options))


def _disk(disk: Disk, to: _Hand) -> Disk:
    path = to.by_copy(disk.path, read_only=disk.read_only)
    return replace(disk, path=path, chain=tuple(replace(layer, path=to.by_copy(layer.path)) for layer in disk.chain))


def _boot(boot: Boot, to: _Hand) -> Boot:
    if isinstance(boot, Firmware):
        return replace(boot, uefi=to.by_name(boot.uefi) if boot.uefi else None)
    root = to.by_copy(boot.root) if boot.root else None
    if isinstance(boot, Multiboot):
        modules = tuple((to.by_name(path), line) for path, line in boot.modules)
        return replace(boot, kernel=to.by_name(boot.kernel), modules=modules, root=root)
    initrd = to.by_name(boot.initrd) if boot.initrd else None
    return replace(boot, kernel=to.by_name(boot.kernel), initrd=initrd, root=root)


@contextmanager
def opened(handed: Handed) -> Iterator[tuple[list[int], list[int]]]:
    """Open the files for as long as it takes to pass them on; yields the descriptors, and the groups that a QEMU under
    another user needs to open them anew. Raises MachineError naming the file that cannot be opened.
    """
    with ExitStack() as stack:
        descriptors: list[int] = []
        groups: list[int] = []
        for file in handed.files:
            try:
                fd = os.open(file.path, file.flags | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                if file.by_name and os.geteuid() == 0:
                    fd = _made_accessible(fd, file, groups)
                    stack.callback(os.close, fd)
            except OSError as error:
                message = f"a file of machine {handed.config.name} cannot be opened: {error.strerror}"
                raise MachineError(message, where=str(file.path), hint="is it still there?") from None
            descriptors.append(fd)
        yield descriptors, groups


def _made_accessible(fd: int, file: File, groups: list[int]) -> int:
    """Return a descriptor of root's that another user may open by its name: a copy, if the file is not everybody's to
    read; what is to be written gets a group of its own, which only that QEMU is in.
    """
    status = os.fstat(fd)
    if file.flags == os.O_RDWR:
        if status.st_gid not in DYNAMIC_IDS:
            os.fchown(fd, -1, secrets.choice(DYNAMIC_IDS))
        os.fchmod(fd, stat.S_IMODE(status.st_mode) | 0o664)
        groups.append(os.fstat(fd).st_gid)
    elif not status.st_mode & stat.S_IROTH:
        copy = os.memfd_create(file.path.name, os.MFD_CLOEXEC)
        with os.fdopen(os.dup(fd), "rb") as source, os.fdopen(os.dup(copy), "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        return copy
    return os.dup(fd)
