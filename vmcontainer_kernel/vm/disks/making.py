"""What can be done with disks that no machine has: made, laid over another, made whole, written back, written out."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...errors import HostError, UserError
from .convert import OPTIONS, Report, Runner, bounded, convert, finished, progress
from .disk import FORMATS, Disk, layers
from .nodes import Node, file_name, image
from .ova import write_ova
from .ovf import write_ovf
from .source import SECTOR
from .store import FILE, MAX_CHAIN, Kept, Store

__all__ = ["FILE_SYSTEMS", "commit", "create", "export", "flatten", "overlay"]

MIN_BYTES: Final = 1 << 20
FILE_SYSTEMS: Final = ("ext4", "ext2")


def _quiet(phase: str, fraction: float) -> None:
    """Report to nobody."""


def create(store: Store, run: Runner, name: str, size_bytes: int, file_system: str = "") -> None:
    """Make an empty disk, or one with an empty file system on all of it."""
    store.check_size(size_bytes, what="a disk")
    if size_bytes < MIN_BYTES or size_bytes % SECTOR:
        raise UserError(f"a disk cannot have {size_bytes} bytes", hint="1 MiB is the least, in steps of 512 bytes")
    if file_system and file_system not in FILE_SYSTEMS:
        raise UserError(f"a disk is not made with {file_system!r}", hint=f"there are: {', '.join(FILE_SYSTEMS)}")
    with store.made(Kept(name, size_bytes, origin=file_system or "blank")) as folder:
        if not file_system:
            _empty(run, folder, size_bytes)
            return
        raw = folder / "disk.raw"
        with raw.open("wb") as file:
            file.truncate(size_bytes)
        _format(run, raw, file_system)
        source = image("raw", _plain(raw))
        convert(run, source, str(folder / FILE), "qcow2", room=folder, size_bytes=size_bytes)
        raw.unlink()


def _format(run: Runner, raw: Path, file_system: str) -> None:
    # Owned by root, whoever we are; without discards, which would make holes where there are holes.
    command = ["mke2fs", "-q", "-F", "-t", file_system, "-E", "root_owner=0:0,nodiscard", str(raw)]
    status, output = run(bounded(command, raw.stat().st_size, nobody=False), (), lambda output: None)
    if status == 127 or "failed to execute" in output:
        raise HostError("mke2fs is not installed", hint="apt-get install e2fsprogs", where=output[-200:])
    finished(status, output, raw.parent)


def _empty(run: Runner, folder: Path, size_bytes: int, below: str = "") -> None:
    """Make an empty qcow2; `below` is written into its header for other programs, and never read by us."""
    backing = ["-u", "-b", f"../{below}/{FILE}", "-F", "qcow2"] if below else []
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", OPTIONS["qcow2"], *backing]
    most_bytes = 1 << 30
    argv = bounded([*command, str(folder / FILE), str(size_bytes)], most_bytes, nobody=False)
    finished(*run(argv, (), lambda output: None), folder)


def overlay(store: Store, run: Runner, name: str, below: str) -> None:
    """Make a disk that shows another one until it is written to; the other is then only read."""
    base = store.disk(below)
    if len(base.chain) >= MAX_CHAIN:
        raise UserError(f"disk {below} lies on {len(base.chain)} others already", hint=f"%vm disk flatten {below}")
    _require_rest(store, below)
    with store.made(Kept(name, base.size_bytes, below, origin=f"overlay of {below}")) as folder:
        _empty(run, folder, base.size_bytes, below)
    try:
        _require_rest(store, below)  # who attaches it from now on looks for overlays
    except UserError:
        store.remove(name)
        raise


def _require_rest(store: Store, name: str) -> None:
    if store.is_used(name, writing=True):
        raise UserError(f"a machine writes to disk {name}", hint="detach it first: what lies below must not change")


def flatten(store: Store, run: Runner, name: str, report: Report = _quiet) -> None:
    """Copy what lies below into a disk, which then needs no other."""
    kept, disk = store.kept(name), store.disk(name)
    if not kept.below:
        return
    with store.replaced(Kept(name, kept.size_bytes, "", kept.created_s, kept.origin)) as folder:
        source = _chain(disk, locked=True)
        target, phase = str(folder / FILE), f"copying the layers of {name}"
        convert(run, source, target, "qcow2", room=folder, size_bytes=kept.size_bytes, report=report, phase=phase)


def commit(store: Store, run: Runner, name: str, report: Report = _quiet) -> str:
    """Write a disk's changes into the one it lies on, after which it has none; return the name of that one."""
    kept = store.kept(name)
    if not kept.below:
        raise UserError(f"disk {name} lies on no other", hint="%vm disk inspect shows what lies on what")
    others = [one for one in store.above(kept.below) if one != name]
    if others:
        raise UserError(
            f"disk {kept.below} cannot be changed: {', '.join(others)} lies on it, too", hint="flatten those first"
        )
    with store.locked(name):
        command = ["qemu-img", "commit", "-p", file_name(_chain(store.disk(name), locked=True))]
        most_bytes = shutil.disk_usage(store.folder).free + store.file(kept.below).stat().st_size

        def told(output: str) -> None:
            report(f"writing {name} into {kept.below}", progress(output))

        finished(*run(bounded(command, most_bytes, nobody=False), (), told), store.folder)
    return kept.below


def export(store: Store, run: Runner, name: str, target: Path, format: str = "", report: Report = _quiet) -> None:
    """Write a disk, with all its layers, into one file for another hypervisor; the format follows the file's name."""
    disk = store.disk(name)
    wanted = format or target.suffix.removeprefix(".").lower()
    kind = "vmdk" if wanted == "ova" else FORMATS.get(wanted)
    if kind is None or kind == "qcow":
        known = "ova raw qcow2 vmdk vdi vhdx vhd"
        raise UserError(f"{target.name}: {wanted or 'nothing'} is no format to write", hint=f"--format: one of {known}")
    with _beside(target) as folder:
        written = folder / (f"{target.stem}-disk1.vmdk" if wanted == "ova" else target.name)
        options = "subformat=streamOptimized" if wanted == "ova" else ""
        convert(
            run,
            _chain(disk),
            str(written),
            kind,
            room=folder,
            size_bytes=disk.size_bytes,
            options=options,
            report=report,
            phase=f"writing {target.name}",
        )
        if wanted == "ova":
            ovf = write_ovf(name, written.name, written.stat().st_size, disk.size_bytes, memory_mib=512, cpus=1)
            write_ova(folder / target.name, ovf, written)
        (folder / target.name).rename(target)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Give a folder on the disk of a file that is to be there at once and whole."""
    if target.is_dir():
        raise UserError(f"{target} is a folder", hint="name a file in it")
    try:
        # Absolute, as mkdtemp itself makes it from Python 3.12 on: qemu-img runs in another folder.
        folder = Path(tempfile.mkdtemp(prefix=".vmcontainer-", dir=target.parent.absolute()))
    except OSError as error:
        raise UserError(f"nothing can be written to {target.parent}: {error.strerror}") from error
    try:
        yield folder
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}", hint="is the disk full?") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _plain(path: Path) -> Node:
    return {"driver": "file", "filename": os.fspath(path)}


def _chain(disk: Disk, *, locked: bool = False) -> Node:
    """Return a disk's layers as one tree; `locked`: the uppermost has our own lock on it, QEMU's would be refused."""
    node: Node | None = None
    for depth, layer in reversed(list(enumerate(layers(disk)))):
        file = _plain(layer.path) | ({"locking": "off"} if locked and depth == 0 else {})
        node = image(layer.format, file, node)
    assert node is not None
    return node
