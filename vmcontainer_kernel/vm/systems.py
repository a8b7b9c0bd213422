"""The systems that can be booted, as tables: Linux guests with our agent, and payloads, which are one program each.

    System  ──origin_of──▶ Origin ──guest──▶ an image built of packages, as the default one is
    Payload ──fetched────▶ one file out of one package ──payload_config──▶ MachineConfig

Nothing of it is fetched before it is first asked for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..errors import MachineError, NotFound, UserError
from ..paths import cache_dir
from . import packages as distribution
from .accelerator import Accelerator
from .cache import KEYS, locked, made, used
from .config import MIB, PLATFORMS, Boot, DirectKernel, Drive, Firmware, MachineConfig, accelerator_for
from .disks.disk import Disk
from .guest import find_guest
from .packages import ARCHITECTURES, OS_RELEASE, Origin, os_release

__all__ = [
    "GUESTS",
    "PAYLOADS",
    "SECTOR",
    "Payload",
    "System",
    "boot_config",
    "boot_sector",
    "ensure_payload",
    "find_payload",
    "guest_size",
    "guests_here",
    "origin_of",
    "own_system",
    "payload_config",
    "payload_of",
    "payload_size",
    "uefi_of",
]

Report = Callable[[str, float], None]
SECTOR: Final = "boot sector"  # the label of such a machine
SECTOR_BYTES: Final = 512
SECTORS_KEPT: Final = 100
DISK_BYTES: Final = 1440 << 10
SECTOR_END: Final = b"\x55\xaa"  # what a BIOS looks for at the end of a boot sector


@dataclass(frozen=True)
class System:
    """A Linux guest with our agent: a release of a distribution, by its code name; or this computer's own under Xen."""

    name: str
    title: str
    distribution: str
    release: str
    hypervisor: str = ""
    arches: tuple[str, ...] = tuple(ARCHITECTURES)


GUESTS: Final = (
    System("debian12", "Debian 12, Linux 6.1", "debian", "bookworm"),
    System("debian13", "Debian 13, Linux 6.12", "debian", "trixie"),
    System("ubuntu24.04", "Ubuntu 24.04, Linux 6.8", "ubuntu", "noble"),
    System("ubuntu26.04", "Ubuntu 26.04", "ubuntu", "resolute"),
    System(
        "xen",
        "Xen, with Domain-0 and a paravirtual domain",
        "",
        "",
        "xen",
        ("x86_64",),
    ),
)


@dataclass(frozen=True)
class Payload:
    """A program that needs no Linux: the `package` it is in, its `files` there by release, and how it starts.

    `start` is ``kernel`` (by Linux' boot protocol) or ``uefi`` (it is the firmware itself). `proof` is what it writes
    on its screen or its serial port when it runs.
    """

    name: str
    title: str
    package: str
    files: tuple[str, ...]
    start: str
    proof: str
    arch: str = "x86_64"
    parameters: str = ""
    memory_bytes: int = 128 * MIB
    # UEFI first tries each card for something to boot, a minute long.
    network: bool = False


PAYLOADS: Final = (
    Payload(
        "memtest",
        "Memtest86+, a test of memory",
        "memtest86+",
        ("./boot/memtest86+x64.bin",),
        "kernel",
        "Memtest86+",
        parameters="console=ttyS0,115200",
    ),
    Payload(
        "ipxe",
        "iPXE, a boot loader for networks",
        "ipxe",
        ("./boot/ipxe.lkrn", "./usr/lib/ipxe/ipxe.lkrn"),
        "kernel",
        "iPXE",
        network=True,
    ),
    Payload(
        "uefi", "UEFI firmware with its shell", "ovmf", ("./usr/share/ovmf/OVMF.fd",), "uefi", "UEFI Interactive Shell"
    ),
    Payload(
        "uefi-arm64",
        "UEFI firmware with its shell, arm64",
        "qemu-efi-aarch64",
        ("./usr/share/qemu-efi-aarch64/QEMU_EFI.fd",),
        "uefi",
        "UEFI Interactive Shell",
        arch="arm64",
    ),
)


def own_system(text: str = "") -> tuple[str, str]:
    """Return this computer's distribution and release's code name, from os-release(5)."""
    fields = os_release(text or OS_RELEASE.read_text())
    return fields.get("ID", ""), fields.get("VERSION_CODENAME", "")


def origin_of(system: str, arch: str, own: tuple[str, str] | None = None) -> Origin:
    """Return where the packages of a guest come from; `system` and `arch` may be empty: as this computer.

    Raises NotFound for a name that is not in the table, UserError for what this computer's mirrors do not have.
    """
    check_arch(arch)
    arch = arch or "x86_64"
    if not system:
        return Origin(arch)
    own = own or own_system()
    found = next((one for one in GUESTS if one.name == system), None)
    ours = ", ".join(one.name for one in GUESTS if one.distribution in ("", own[0])) or "none"
    if any(one.name == system for one in PAYLOADS):
        raise UserError(f"{system} has no agent of ours, so it runs no cells", hint=f"%vm boot NAME --system {system}")
    if found is None:
        raise NotFound(f"there is no system {system} with our agent", hint=f"there are: {ours}")
    if arch not in found.arches:
        raise UserError(f"{system} does not boot on {arch}", hint="leave out --arch", where="--arch")
    if found.distribution not in ("", own[0]):
        hint = f"packages of this computer's own distribution can be fetched: {ours}"
        raise UserError(f"{found.title} cannot be fetched here", hint=hint, where="--system")
    return Origin(arch, "" if found.release == own[1] else found.release, found.hypervisor)


def check_arch(arch: str) -> None:
    """Refuse a processor that no QEMU of ours has; empty is this computer's."""
    if arch and arch not in PLATFORMS:
        hint = f"there are: {', '.join(PLATFORMS)}"
        raise UserError(f"--arch {arch}: there is no machine with such a processor", hint=hint, where="--arch")


def guests_here(own: tuple[str, str] | None = None) -> list[tuple[System, Origin]]:
    """List the guests whose packages can be fetched here, once for each processor."""
    own = own or own_system()
    here = [one for one in GUESTS if one.distribution in ("", own[0])]
    return [(one, origin_of(one.name, arch, own)) for one in here for arch in one.arches]


def guest_size(origin: Origin) -> int | None:
    """Return the size in bytes of a guest's image; None if it must be fetched and built first."""
    image = find_guest(origin)
    return sum(path.stat().st_size for path in image.path.iterdir()) if image else None


# -- payloads


def payload_of(name: str) -> Payload:
    """Return a payload by its name; raises NotFound with those there are."""
    found = next((one for one in PAYLOADS if one.name == name), None)
    if found is None:
        names = ", ".join(one.name for one in PAYLOADS)
        raise NotFound(f"there is no system {name} to boot", hint=f"there are: {names}; guests: %%vm --system")
    return found


def _place(payload: Payload) -> Path:
    return cache_dir("payloads") / payload.package


def find_payload(payload: Payload) -> Path | None:
    """Return a payload's file if it was fetched."""
    return next(iter(sorted(_place(payload).glob("*"))), None)


def payload_size(payload: Payload) -> int | None:
    """Return the size of a payload's file in bytes; None if it must be fetched first."""
    found = find_payload(payload)
    return found.stat().st_size if found else None


def ensure_payload(payload: Payload, report: Report) -> Path:
    """Return a payload's file, fetched from the distribution's archive if it is not here: call it in a thread.

    Raises MachineError (no such package, or not such a file in it), HostError (no network).
    """
    place = _place(payload)
    with locked(place.with_suffix(".lock")):
        found = find_payload(payload)
        if found:
            return found
        report(f"fetching {payload.title}", 0.1)
        package = _fetched(payload)
        name, content = next(
            ((name, content) for name in payload.files if (content := distribution.file_of(package, name))), ("", b"")
        )
        if not content:
            hint = "this release of the distribution may keep it elsewhere"
            raise MachineError(f"package {payload.package} has no {payload.files[0]}", hint=hint, where=package.name)
        with made(place) as folder:
            (folder / Path(name).name).write_bytes(content)
    return place / Path(name).name


def _fetched(payload: Payload) -> Path:
    apt = distribution.Apt(cache_dir("payloads") / "apt")
    apt.prepare()
    try:
        record = apt.show(payload.package)
    except MachineError:
        distribution.update(apt)
        record = apt.show(payload.package)
    (path,) = distribution.fetch(apt, [distribution.parse_record(record)], cache_dir("guests/packages"), lambda _: None)
    apt.forget()
    return path


# -- machines without our agent


def uefi_of(arch: str) -> Payload:
    """Return the payload that is an architecture's UEFI firmware."""
    return next(one for one in PAYLOADS if one.start == "uefi" and one.arch == arch)


def payload_config(name: str, payload: Payload, file: Path, accelerator: Accelerator) -> MachineConfig:
    """Return the machine that a payload runs on."""
    boot: Boot = Firmware(file) if payload.start == "uefi" else DirectKernel(file, parameters=payload.parameters)
    config = boot_config(name, boot, payload.arch, accelerator)
    return replace(config, memory_bytes=payload.memory_bytes, network=payload.network, label=payload.name)


def boot_config(
    name: str, boot: Boot, arch: str, accelerator: Accelerator, drives: tuple[Drive, ...] = ()
) -> MachineConfig:
    """Return a machine with a screen and without our agent, whose system may reboot."""
    engine = accelerator_for(arch, accelerator)
    return MachineConfig(
        name, boot, engine, arch=arch, drives=drives, agent=False, screen=True, reboots=True, label="disk"
    )


def boot_sector(name: str, code: bytes, folder: Path, accelerator: Accelerator) -> MachineConfig:
    """Write a boot sector to a file in `folder` and return the machine that starts it: SeaBIOS loads it to 0x7c00.

    The file stays, under the digest of its contents: the machine may be saved and woken again.

    Port 0xf4 ends the machine (``isa-debug-exit``), and so does a reset: a sector that goes wrong would start over
    for ever. Raises UserError for what is no boot sector.
    """
    if len(code) != SECTOR_BYTES or not code.endswith(SECTOR_END):
        hint = "512 bytes that end with 55 aa"
        raise UserError(f"{len(code)} bytes that end with {code[-2:].hex(' ')} are no boot sector", hint=hint)
    drive = Drive(Disk("sector", _sector_file(code, folder), "raw", DISK_BYTES, read_only=True))
    config = boot_config(name, Firmware(), "x86_64", accelerator, (drive,))
    return replace(config, memory_bytes=96 * MIB, network=False, reboots=False, debug_exit=True, label=SECTOR)


def _sector_file(code: bytes, folder: Path) -> Path:
    file = folder / hashlib.sha256(code).hexdigest()[:16]
    if file.exists():
        used(file)
        return file
    for old in sorted(folder.glob(KEYS), key=lambda one: one.stat().st_mtime, reverse=True)[SECTORS_KEPT:]:
        old.unlink(missing_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(code)
    # SeaBIOS finds no geometry for a disk of one sector, and does not read it. The rest is a hole in the file.
    os.truncate(unfinished, DISK_BYTES)
    return unfinished.rename(file)
