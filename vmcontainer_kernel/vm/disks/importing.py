"""Images of others, taken in: their headers are read first, and nothing that they name is followed.

FILE ──identify──▶ refused, or: one image │ extents beside a descriptor │ disks inside an OVA
                                    └──▶ check, convert (as nobody, by descriptor) ──▶ a qcow2 of our own
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import ImageError, UserError
from .convert import Report, Runner, can_be_nobody, check, convert
from .descriptor import descriptor_of, extent_line
from .disk import FORMATS
from .headers import identify, refuse_names
from .nodes import Node, image
from .ova import is_ova, read_ova
from .source import SECTOR, Extent, Header, Source, open_source
from .store import FILE, Kept, Store

__all__ = ["import_image"]

FIRST_FD: Final = 10  # of a program that the supervisor starts
_CHECKED: Final = ("qcow2", "vmdk")  # the others' readers see for themselves that nothing is missing
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class _Taken:
    """What is to be converted: QEMU's node, and the descriptors that it is read from."""

    node: Node
    size_bytes: int
    descriptors: tuple[int, ...]
    check: bool


def _quiet(phase: str, fraction: float) -> None:
    """Report to nobody."""


def import_image(
    store: Store, run: Runner, path: Path, name: str, format: str = "", report: Report = _quiet
) -> list[str]:
    """Make disks of a file: one called `name`, of an OVA perhaps more (``NAME-2`` …); return their names.

    `format` says what the file should be; it is known by its contents. Raises ImageError for one that is damaged or
    hostile, UserError for one that cannot be had, HostError for a full disk.
    """
    with contextlib.ExitStack() as stack:
        descriptor = _opened(path, stack)
        source = open_source(descriptor, str(path))
        if is_ova(source) and format in ("", "ova"):
            return _import_ova(store, run, source, descriptor, name, report)
        header = _header(source, format)
        if header.extents:
            taken = _extents(source, header, path, store.ready(), stack)
        else:
            taken = _Taken(image(header.format, _fd(0)), header.size_bytes, (descriptor,), header.format in _CHECKED)
        _take(store, run, taken, Kept(name, taken.size_bytes, origin=path.name), report)
    return [name]


def _import_ova(store: Store, run: Runner, source: Source, descriptor: int, name: str, report: Report) -> list[str]:
    names = []
    try:
        for index, member in enumerate(read_ova(source, report), start=1):
            part = source.part(member.offset, member.size_bytes)
            header = identify(part)
            refuse_names(part, header)
            if header.extents:
                raise source.fault(f"its {member.name} is a description without a disk")
            # The tar archive pads each file to whole sectors, QEMU counts in nothing else.
            file = _part(_fd(0), member.offset, -(-member.size_bytes // SECTOR) * SECTOR)
            node = image(header.format, file)
            taken = _Taken(node, header.size_bytes, (descriptor,), header.format in _CHECKED)
            one = name if index == 1 else f"{name}-{index}"
            _take(store, run, taken, Kept(one, header.size_bytes, origin=f"{source.path}: {member.name}"), report)
            names.append(one)
    except BaseException:
        for one in names:
            store.remove(one)
        raise
    return names


def _take(store: Store, run: Runner, taken: _Taken, kept: Kept, report: Report) -> None:
    store.check_size(taken.size_bytes, what="a disk")
    nobody = can_be_nobody()
    with store.made(kept) as folder, contextlib.ExitStack() as stack:
        target = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        stack.callback(os.close, target)
        lent = [_lent(one, folder, stack) if nobody else one for one in taken.descriptors]
        if nobody:
            os.fchmod(target, 0o666)  # only who has it open reaches it: the folder is ours alone
        fds = [*lent, target]
        if taken.check:
            check(run, taken.node, fds, room=folder, nobody=nobody)
        convert(
            run,
            taken.node,
            f"/proc/self/fd/{FIRST_FD + len(lent)}",
            "qcow2",
            room=folder,
            size_bytes=taken.size_bytes,
            fds=fds,
            nobody=nobody,
            report=report,
            phase=f"importing {kept.name}",
        )
        os.fchmod(target, 0o644)
        with (folder / FILE).open("rb") as file:
            made = identify(open_source(file.fileno(), str(folder / FILE)))
        if made != Header("qcow2", taken.size_bytes):
            raise ImageError(f"{kept.name} did not become the disk it should be", hint="fetch or export it again")


def _opened(path: Path, stack: contextlib.ExitStack, folder: int | None = None) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if folder is not None else 0)
    try:
        descriptor = os.open(path, flags, dir_fd=folder)
    except OSError as error:
        raise UserError(
            f"{path} cannot be opened: {error.strerror}", hint="paths begin at the notebook's folder"
        ) from error
    stack.callback(os.close, descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise UserError(f"{path} is no file", hint="name a disk image: qcow2, vmdk, vdi, vhdx, vhd, ova or raw")
    return descriptor


def _header(source: Source, format: str) -> Header:
    """Return what the file is; a wish for another format is refused, but anything may be taken for raw bytes."""
    wanted = FORMATS.get(format.lower(), "") if format else ""
    if format and not wanted:
        known = "raw qcow2 vmdk vdi vhdx vhd ova"
        raise UserError(f"--format {format}: there is no such format", hint=f"one of: {known}")
    if wanted == "raw":
        return Header("raw", -(-source.size_bytes // SECTOR) * SECTOR)
    header = identify(source)
    if wanted not in ("", header.format):
        raise source.fault(f"it is {header.format}, not {wanted}", hint="leave --format out")
    refuse_names(source, header)
    return header


def _fd(index: int) -> Node:
    return {"driver": "file", "filename": f"/proc/self/fd/{FIRST_FD + index}"}


def _part(file: Node, offset_bytes: int, size_bytes: int) -> Node:
    return {"driver": "raw", "offset": offset_bytes, "size": size_bytes, "file": file}


def _extents(source: Source, header: Header, path: Path, folder: Path, stack: contextlib.ExitStack) -> _Taken:
    """Open the extents beside a descriptor, and write a descriptor of our own for QEMU that names our descriptors."""
    beside = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, beside)
    opened: list[int] = []
    lines = []
    for extent in header.extents:
        number = 0
        if extent.kind != "ZERO":
            number = _opened(Path(extent.name), stack, beside)
            _check_extent(source, extent, open_source(number, f"{path.parent}/{extent.name}"))
            opened.append(number)
        lines.append(extent_line(extent, f"/proc/self/fd/{FIRST_FD + len(opened)}"))
    text = _nameless(folder, stack)
    os.write(text, descriptor_of(lines).encode())
    return _Taken(image("vmdk", _fd(0)), header.size_bytes, (text, *opened), check=False)


def _check_extent(source: Source, extent: Extent, part: Source) -> None:
    told = Path(source.path).name
    if extent.kind == "FLAT":
        if extent.offset_bytes + extent.size_bytes > part.size_bytes:
            raise part.fault(f"it ends before the {extent.size_bytes} bytes that {told} tells of")
        return
    found = identify(part)
    refuse_names(part, found)
    if found.format != "vmdk" or found.size_bytes != extent.size_bytes or found.extents:
        raise part.fault(f"it is not the extent that {told} tells of")


def _nameless(folder: Path, stack: contextlib.ExitStack) -> int:
    """Return a new file that has no name, and that whoever has its descriptor may open for reading."""
    descriptor = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o444)
    stack.callback(os.close, descriptor)
    os.fchmod(descriptor, 0o444)
    return descriptor


def _lent(descriptor: int, folder: Path, stack: contextlib.ExitStack) -> int:
    """Return a descriptor that nobody may open again: the same one, or of a copy that has no name."""
    if os.fstat(descriptor).st_mode & stat.S_IROTH:
        return descriptor
    copy = _nameless(folder, stack)
    for offset, length in _pieces(descriptor):
        os.lseek(copy, offset, os.SEEK_SET)
        left = length
        while left and (sent := os.sendfile(copy, descriptor, offset + length - left, min(left, _CHUNK))):
            left -= sent
    os.ftruncate(copy, os.fstat(descriptor).st_size)
    return copy


def _pieces(descriptor: int) -> Iterator[tuple[int, int]]:
    """Give offset and length of what is no hole (lseek(2), SEEK_DATA)."""
    end = 0
    while True:
        try:
            begin = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, end - begin
