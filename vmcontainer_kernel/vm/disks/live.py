"""Disks that come and go while a machine runs: QMP's part of it.

    attach   add-fd (each layer) ─▶ blockdev-add (each node) ─▶ device_add scsi-hd
    detach   device_del ─▶ DEVICE_DELETED ─▶ blockdev-del (each node) ─▶ remove-fd

QEMU opens no path: it is given descriptors, and takes its locks on them, so that no other QEMU, of whatever notebook,
writes to the same file (QEMU's docs/system/images.rst, "Disk image file locking").
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...errors import LabError, MachineError, UserError
from .disk import Disk, Layer, layers
from .nodes import blockdev, names

__all__ = ["Attachment", "Drives", "Limits", "Machine", "Monitor", "in_use"]

BUS = "scsi.0"
TARGETS = 60
LAYERS = 16
# Of descriptors (QMP ``add-fd``): each disk has a row of sets, one for each layer; `handing` begins at 1000.
FIRST_SET = 1
SERIAL_LETTERS = 36  # what a SCSI disk tells of its serial number (QEMU's hw/scsi/scsi-disk.c)
UNPLUG_LIMIT_S = 10.0
_LOCKED = re.compile(r'Failed to get (?:shared )?"[a-z ]+" lock')


@dataclass(frozen=True)
class Limits:
    """What a disk may do a second: bytes and operations, read and written together; 0 is without limit."""

    bytes_per_s: int = 0
    operations_per_s: int = 0


@dataclass(frozen=True)
class Attachment:
    """A disk in a machine: `number` is its SCSI target."""

    disk: Disk
    number: int
    limits: Limits = Limits()

    @property
    def node(self) -> str:
        """The name of its uppermost block node."""
        return f"data{self.number}"

    @property
    def device(self) -> str:
        """QEMU's name of the SCSI disk."""
        return f"{self.node}-drive"

    @property
    def link(self) -> str:
        """Its path in a guest, where udev makes such links or we do."""
        return f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{self.disk.name[:SERIAL_LETTERS]}"


class Monitor(Protocol):
    """What a disk needs of QMP."""

    async def execute(self, command: str, *, exact: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
        """Run a command; in argument names ``_`` stands for ``-``, but not in those of `exact`."""

    async def share(self, descriptor: int, number: int) -> str:
        """Pass a descriptor; return the path by which a block node opens it."""


class Machine(Protocol):
    """What a disk needs of a machine."""

    @property
    def monitor(self) -> Monitor:
        """The QMP connection."""

    def expect(self, event: str, **fields: str) -> asyncio.Future[None]:
        """Return a future of the next such event."""

    async def within(self, awaitable: Awaitable[None], limit_s: float, doing: str) -> None:
        """Wait for it, at most `limit_s` seconds."""


class Drives:
    """The disks of one machine, by name."""

    def __init__(self, machine: Machine) -> None:
        self.attachments: dict[str, Attachment] = {}
        self._machine = machine
        self._busy = asyncio.Lock()

    async def attach(self, disk: Disk, limits: Limits = Limits()) -> Attachment:
        """Plug a disk in; the guest sees it when its driver has found it.

        Raises UserError for a disk that is in use elsewhere in a way that does not go together.
        """
        async with self._busy:
            if disk.name in self.attachments:
                raise UserError(f"disk {disk.name} is attached to this machine already", hint="detach it first")
            taken = {one.number for one in self.attachments.values()}
            number = next((number for number in range(TARGETS) if number not in taken), None)
            if number is None or len(disk.chain) >= LAYERS:
                raise UserError(f"no more than {TARGETS} disks of at most {LAYERS} layers can be attached")
            found = Attachment(disk, number, limits)
            await self._plug(found)
            self.attachments[disk.name] = found
            return found

    async def detach(self, name: str) -> Attachment:
        """Pull a disk out and close its files; what the guest had not written is lost, so it is to be unmounted."""
        async with self._busy:
            found = self.find(name)
            await self._unplug(found)
            del self.attachments[name]
            return found

    async def limit(self, name: str, limits: Limits) -> None:
        """Change how much a disk may do, while it is at work."""
        found = self.find(name)
        await self._throttle(found, limits)
        self.attachments[name] = Attachment(found.disk, found.number, limits)

    def find(self, name: str) -> Attachment:
        """Return the attachment of a disk; raises UserError with those there are."""
        try:
            return self.attachments[name]
        except KeyError:
            there = ", ".join(self.attachments) or "none"
            raise UserError(f"disk {name} is not attached to this machine", hint=f"attached are: {there}") from None

    async def _plug(self, found: Attachment) -> None:
        async with contextlib.AsyncExitStack() as undo:
            files = await self._share(found, undo)
            for node in blockdev(found.disk, files, found.node):
                try:
                    await self._machine.monitor.execute("blockdev-add", **node)
                except MachineError as error:
                    raise _refused(error, found.disk, str(node["node-name"])) from error
                undo.push_async_callback(self._quietly, "blockdev-del", node_name=node["node-name"])
            name = found.disk.name
            place = {"bus": BUS, "scsi-id": found.number, "drive": found.node, "id": found.device}
            told = {"serial": name[:SERIAL_LETTERS], "device_id": name}
            # By default a machine whose disk finds no room any more stands still: its cell would hang without a word.
            told |= {"werror": "report", "rerror": "report"}
            try:
                await self._machine.monitor.execute("device_add", driver="scsi-hd", exact=place | told)
            except MachineError as error:
                raise _refused(error, found.disk, found.node) from error
            if found.limits != Limits():
                undo.push_async_callback(self._quietly, "device_del", id=found.device)
                await self._throttle(found, found.limits)
            undo.pop_all()

    async def _share(self, found: Attachment, undo: contextlib.AsyncExitStack) -> list[str]:
        """Open every layer and pass it to QEMU; return the names by which it opens them."""
        files = []
        for depth, layer in enumerate(layers(found.disk)):
            number = _set(found, depth)
            descriptor = _opened(layer, write=depth == 0 and not found.disk.read_only)
            try:
                files.append(await self._machine.monitor.share(descriptor, number))
            finally:
                os.close(descriptor)
            undo.push_async_callback(self._quietly, "remove-fd", fdset_id=number)
        return files

    async def _unplug(self, found: Attachment) -> None:
        deleted = self._machine.expect("DEVICE_DELETED", device=found.device)
        try:
            await self._machine.monitor.execute("device_del", id=found.device)
            await self._machine.within(deleted, UNPLUG_LIMIT_S, f"let go of disk {found.disk.name}")
        finally:
            deleted.cancel()
        sets = [_set(found, depth) for depth in range(len(layers(found.disk)))]
        for name in names(blockdev(found.disk, [""] * len(sets), found.node)):
            await self._machine.monitor.execute("blockdev-del", node_name=name)
        for number in sets:
            await self._machine.monitor.execute("remove-fd", fdset_id=number)

    async def _throttle(self, found: Attachment, limits: Limits) -> None:
        both = {"id": found.device, "bps": limits.bytes_per_s, "iops": limits.operations_per_s}
        apart = dict.fromkeys(("bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
        await self._machine.monitor.execute("block_set_io_throttle", exact=both | apart)

    async def _quietly(self, command: str, **arguments: Any) -> None:
        with contextlib.suppress(LabError):
            await self._machine.monitor.execute(command, **arguments)


def _set(found: Attachment, depth: int) -> int:
    return FIRST_SET + found.number * LAYERS + depth


def _opened(layer: Layer, *, write: bool) -> int:
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(layer.path, flags)
    except OSError as error:
        hint = "attach it with --read-only" if write else "see %vm disk ls"
        raise UserError(f"{layer.path} cannot be opened: {error.strerror}", hint=hint) from error


def _refused(error: MachineError, disk: Disk, node: str) -> LabError:
    """Say of a disk in use that it is; other errors are QEMU's own."""
    if not _LOCKED.search(error.message):
        return error
    depth = re.search(r"-(\d+)", node)
    layer = layers(disk)[int(depth[1])].path.parent.name if depth else disk.name
    return in_use(disk.name, layer)


def in_use(name: str, layer: str) -> UserError:
    """Return the error for a disk, or a layer of it, that somebody else writes to or relies on."""
    what = f"disk {name}" if layer == name else f"disk {layer}, on which {name} lies,"
    return UserError(
        f"{what} is in use by another machine",
        hint="detach it there; several machines can share a disk if all have it --read-only, "
        "or each have an overlay of their own (%vm disk create MINE --from NAME)",
    )
