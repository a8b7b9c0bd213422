"""Disks in machines of this session: plugged in, found in the guest, mounted there; and qemu-img run by the supervisor.

    attach   QEMU: `vm.disks.live` ─▶ guest: its driver finds the disk ─▶ a link as udev makes it ─▶ mount
    detach   guest: unmount, forget ─▶ QEMU

A guest without our agent finds a new disk, or does not, by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from .errors import HostError, LabError, MachineError, UserError
from .node import Node

if TYPE_CHECKING:
    from .vm.disks.live import Attachment, Drives
    from .vm.machine import Launcher, Machine

__all__ = [
    "Wanted",
    "attach",
    "check",
    "detach",
    "drives_of",
    "find_again",
    "in_guest",
    "parse_wanted",
    "release",
    "run_program",
]

STUCK_S: Final = 300.0
POLL_S: Final = 0.05
RELEASE_LIMIT_S: Final = 5.0
LOG_BYTES: Final = 1 << 20
GUEST_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"

# $1 SCSI target, $2 link, $3 folder or nothing, $4 mount options. There is no udev, which would load the drivers (the
# controller was there when the guest booted) and make the link. A journal that was not closed is skipped if it cannot
# be played back.
_FIND: Final = """
modprobe virtio_scsi && modprobe sd_mod || exit 1
tries=0
until disk=$(ls /sys/bus/scsi/devices/*:0:$1:0/block 2>/dev/null) && [ -b "/dev/$disk" ]; do
    tries=$((tries + 1))
    [ $tries -lt 500 ] || { echo "its driver does not find the disk" >&2; exit 1; }
    usleep 20000
done
mkdir -p /dev/disk/by-id && ln -sf "../../$disk" "$2"
echo "/dev/$disk"
[ -z "$3" ] && exit
grep -qF "/dev/$disk $3 " /proc/mounts && exit
mkdir -p "$3" || exit 1
mount -o "$4" "/dev/$disk" "$3" && exit
[ "$4" = ro ] && mount -t ext4 -o ro,noload "/dev/$disk" "$3"
"""
# $1 SCSI target, $2 link. The kernel writes out what it has for the disk when it is told to forget it.
_FORGET: Final = """
disk=$(ls /sys/bus/scsi/devices/*:0:$1:0/block 2>/dev/null) || exit 0
while read -r device folder rest; do
    case $device in /dev/$disk*) umount "$folder" || exit 1 ;; esac
done < /proc/mounts
rm -f "$2"
sync
echo 1 > "/sys/block/$disk/device/delete"
"""


@dataclass(frozen=True)
class Wanted:
    """A disk that a machine is to have: its name, whether for reading only, and where its guest is to mount it."""

    name: str
    read_only: bool = False
    folder: str = ""


_known: WeakKeyDictionary[Machine, Drives] = WeakKeyDictionary()


def drives_of(machine: Machine) -> Drives:
    """Return the disks of a machine that are attached while it runs."""
    from .vm.disks.live import Drives

    return _known.setdefault(machine, Drives(machine))


async def attach(machine: Machine, node: Node, wanted: Wanted, limits: tuple[int, int] = (0, 0)) -> str:
    """Give a machine a disk and return its device in the guest; `limits` are bytes and operations a second.

    Nothing happens to a disk that it has in this way already.
    """
    from .vm.disks.live import Limits
    from .vm.disks.store import own_store

    await _require_running(machine)
    drives, store = drives_of(machine), own_store()
    found = drives.attachments.get(wanted.name)
    if found and found.disk.read_only != wanted.read_only:
        way = "reading only" if found.disk.read_only else "writing"
        raise UserError(f"disk {wanted.name} is attached for {way} already", hint="detach it first")
    if found:
        return await _found_in_guest(node, found, wanted)
    disk = store.disk(wanted.name).reading() if wanted.read_only else store.writable(wanted.name)
    found = await drives.attach(disk, Limits(*limits))
    try:
        if not wanted.read_only:
            store.writable(wanted.name)  # another notebook may have laid an overlay on it meanwhile
        return await _found_in_guest(node, found, wanted)
    except BaseException:
        with contextlib.suppress(LabError):
            await detach(machine, node, wanted.name)
        raise


async def _require_running(machine: Machine) -> None:
    if await machine.status() == "paused":
        name = machine.config.name
        raise UserError(f"machine {name} is paused: its guest cannot take part", hint=f"%vm resume {name}")


async def _found_in_guest(node: Node, found: Attachment, wanted: Wanted) -> str:
    options = "ro" if wanted.read_only else "rw"
    words = (str(found.number), found.link, wanted.folder, options)
    status, output = await in_guest(node, _FIND, *words)
    device = output.partition("\n")[0]
    if status and wanted.folder and device.startswith("/dev/"):
        raise UserError(
            f"disk {wanted.name} cannot be mounted at {wanted.folder}",
            hint=f"is there a file system on it? make one in a cell: mke2fs {device} (it is empty then), "
            "or when the disk is made: %vm disk create NAME --size 1g --fs ext4",
            where=output.strip(),
        )
    if status:
        raise MachineError(f"the guest does not find disk {wanted.name}", where=output, hint="see %vm logs")
    return device


async def detach(machine: Machine, node: Node, name: str) -> None:
    """Unmount a disk in the guest, then take it from the machine; raises UserError if it is at use there."""
    await _require_running(machine)
    drives = drives_of(machine)
    found = drives.find(name)
    status, output = await in_guest(node, _FORGET, str(found.number), found.link)
    if status:
        hint = "end what uses its files (a cell with --bg, a shell in its folder), then try again"
        raise UserError(f"disk {name} is at use in the guest", hint=hint, where=output.strip())
    await drives.detach(name)


async def find_again(machine: Machine, node: Node) -> None:
    """Have a guest that has just been reset find its disks; where they were mounted, it has forgotten."""
    for found in list(drives_of(machine).attachments.values()) if machine in _known else []:
        await _found_in_guest(node, found, Wanted(found.disk.name, found.disk.read_only))


async def release(machine: Machine, node: Node) -> None:
    """Have a guest that is about to end write out and unmount its disks; never raises."""
    for found in list(drives_of(machine).attachments.values()) if machine in _known else []:
        with contextlib.suppress(LabError, TimeoutError):
            async with asyncio.timeout(RELEASE_LIMIT_S):
                await in_guest(node, _FORGET, str(found.number), found.link)


async def in_guest(node: Node, script: str, *words: str) -> tuple[int, str]:
    """Run a shell script of ours in a guest, `words` being its arguments; return its status and what it wrote, as far
    as that is not more than 1 MiB.
    """
    parts = bytearray()

    def keep(stream: int, data: bytes) -> None:
        parts.extend(data[: max(0, LOG_BYTES - len(parts))])
        request.consumed(stream, len(data))

    argv = ["/bin/sh", "-c", script, "sh", *words]
    request = node.start("exec", {"argv": argv, "env": {"PATH": GUEST_PATH}}, on_data=keep)
    answer: dict[str, Any] = await request.done
    return int(answer.get("status") or answer.get("signal") or 0), parts.decode(errors="replace")


async def run_program(
    launcher: Launcher, folder: Path, argv: Sequence[str], fds: Sequence[int], told: Callable[[str], None]
) -> tuple[int, str]:
    """Run a helper below the supervisor to its end, or until it has written nothing new for STUCK_S seconds.

    Returns its status (-N for signal N) and what it wrote; its log is in `folder` meanwhile.
    """
    log = folder / f"helper-{secrets.token_hex(4)}.log"
    spawned = await launcher.spawn(argv, fds=fds, log=log)
    waiting = asyncio.ensure_future(spawned.wait())
    loop = asyncio.get_running_loop()
    output, changed_s = "", loop.time()
    try:
        while not waiting.done() and loop.time() - changed_s < STUCK_S:
            await asyncio.wait((waiting,), timeout=POLL_S)
            if (now := _tail(log)) != output:
                output, changed_s = now, loop.time()
                told(output)
        if not waiting.done():
            hint = "is the disk it reads from or writes to still there?"
            raise HostError(f"{argv[0]} wrote nothing for {STUCK_S:g} s and was ended", where=output[-500:], hint=hint)
        return waiting.result(), _tail(log)
    finally:
        if not waiting.done():
            await spawned.kill()
            await asyncio.wait((waiting,), timeout=5.0)
        log.unlink(missing_ok=True)


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LOG_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def check(wanted: Wanted) -> None:
    """Raise NotFound for a disk that there is not, UserError for one that cannot be had: before a machine is made."""
    from .vm.disks.store import own_store

    (own_store().disk if wanted.read_only else own_store().writable)(wanted.name)


def parse_wanted(text: str) -> Wanted:
    """Read ``NAME[:FOLDER][:ro]``."""
    name, *rest = text.split(":")
    wanted = Wanted(name)
    for one in rest:
        if one in ("ro", "rw"):
            wanted = replace(wanted, read_only=one == "ro")
        elif one.startswith("/") and not wanted.folder:
            wanted = replace(wanted, folder=one)
        else:
            raise UserError(f"--disk {text}: {one!r} is neither a folder nor ro", hint="write NAME[:/FOLDER][:ro]")
    return wanted
