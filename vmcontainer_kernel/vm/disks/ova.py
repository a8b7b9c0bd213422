"""OVA: a tar archive of an OVF, perhaps its manifest, and disks. Disks are read where they lie, nothing is unpacked.

NAME.ovf   NAME.mf: SHA256(NAME.ovf)= …   NAME-disk1.vmdk …          DMTF DSP0243, "Distribution"
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...container.images.tarball import Tape, entries
from ...errors import ImageError
from .ovf import read_disks
from .source import Source

__all__ = ["Member", "is_ova", "read_ova", "write_ova"]

MOST_MEMBERS: Final = 100
LONGEST_TEXT: Final = 1 << 20
_CHUNK: Final = 1 << 20
_DIGEST: Final = re.compile(r"(SHA1|SHA256|SHA512) ?\((.+)\) ?= ?([0-9a-fA-F]+)")
Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Member:
    """A file of the archive: its name, and where its bytes lie."""

    name: str
    offset: int
    size_bytes: int


class _Tape(Tape):
    """A source, read from its beginning; what is passed over is not read."""

    def __init__(self, source: Source) -> None:
        super().__init__(iter(()))
        self.at = 0
        self._source = source

    def take(self, count: int) -> bytes:
        data = self._source.read(self.at, count)
        self.at += len(data)
        return data

    def pieces(self, count: int) -> Iterator[memoryview]:
        while count and (data := self.take(min(count, _CHUNK))):
            count -= len(data)
            yield memoryview(data)

    def skip(self, count: int) -> int:
        passed = max(0, min(count, self._source.size_bytes - self.at))
        self.at += passed
        return passed


def is_ova(source: Source) -> bool:
    """Tell whether this is a tar archive whose first file is an OVF, as the specification demands."""
    start = source.read(0, 512)
    return start[257:262] == b"ustar" and start[:100].rstrip(b"\0").lower().endswith(b".ovf")


def read_ova(source: Source, report: Report) -> list[Member]:
    """Return the disks of a package in its order, all digests checked.

    Raises ImageError for an archive, a description or a manifest that is not what it should be.
    """
    members = _members(source)
    described = next(one for one in members.values() if one.name.lower().endswith(".ovf"))
    try:
        disks = read_disks(_small(source, described))
    except ValueError as error:
        raise source.fault(f"its {described.name} is refused: {error}") from error
    found = []
    for disk in disks:
        if disk.href not in members:
            raise source.fault(f"its disk {disk.href!r} is not in the archive")
        found.append(members[disk.href])
    if not found:
        raise source.fault("it holds no disks")
    _check_digests(source, members, [described, *found], report)
    return found


def _members(source: Source) -> dict[str, Member]:
    tape = _Tape(source)
    found: dict[str, Member] = {}
    try:
        for entry, _ in entries(tape, MOST_MEMBERS):
            name = entry.name.decode("utf-8", "backslashreplace")
            if entry.kind != "file" or entry.pieces is not None or "/" in name or name in found or name in ("", ".."):
                raise source.fault(f"its entry {name!r} is no plain file, or is there twice")
            found[name] = Member(name, tape.at, entry.size)
    except ImageError as error:
        raise source.fault(error.message.removeprefix("layer ")) from error
    return found


def _small(source: Source, member: Member) -> bytes:
    if member.size_bytes > LONGEST_TEXT:
        raise source.fault(f"its {member.name} has {member.size_bytes} bytes, more than {LONGEST_TEXT}")
    return source.read(member.offset, member.size_bytes)


def _check_digests(source: Source, members: dict[str, Member], needed: list[Member], report: Report) -> None:
    """Compare what the manifest tells with what is there; a package without a manifest has no digests."""
    manifest = next((one for one in members.values() if one.name.lower().endswith(".mf")), None)
    if manifest is None:
        return
    digests = {}
    for line in _small(source, manifest).decode("utf-8", "replace").splitlines():
        match = _DIGEST.fullmatch(line.strip())
        if line.strip() and not match:
            raise source.fault(f"its manifest has a line that makes no sense: {line[:80]!r}")
        if match:
            digests[match[2]] = (match[1].lower(), match[3].lower())
    for member in needed:
        if member.name not in digests:
            raise source.fault(f"its manifest does not tell the digest of {member.name}")
        kind, wanted = digests[member.name]
        if _digest(source, member, kind, report) != wanted:
            raise source.fault(f"its {member.name} is not what its manifest says")


def _digest(source: Source, member: Member, kind: str, report: Report) -> str:
    found, done = hashlib.new(kind, usedforsecurity=False), 0
    while data := source.read(member.offset + done, min(_CHUNK, member.size_bytes - done)):
        found.update(data)
        done += len(data)
        report(f"checking {member.name}", done / member.size_bytes)
    return found.hexdigest()


def write_ova(target: Path, ovf: bytes, disk: Path) -> None:
    """Write a package: `ovf`, the manifest, then the disk, as VMware wants their order."""
    name = target.stem
    with disk.open("rb") as file:
        digests = {f"{name}.ovf": hashlib.sha256(ovf).hexdigest()}
        digests[disk.name] = hashlib.file_digest(file, "sha256").hexdigest()
        manifest = "".join(f"SHA256({one})= {digest}\n" for one, digest in digests.items()).encode()
        size_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        with tarfile.open(target, "w", format=tarfile.GNU_FORMAT if size_bytes >> 33 else tarfile.USTAR_FORMAT) as tar:
            for member, data in ((f"{name}.ovf", ovf), (f"{name}.mf", manifest)):
                tar.addfile(_info(member, len(data)), io.BytesIO(data))
            tar.addfile(_info(disk.name, size_bytes), file)


def _info(name: str, size_bytes: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, 0o644
    return info
