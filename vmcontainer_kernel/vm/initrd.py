"""The initial RAM disk and the bare kernel: what runs before the guest's root file system does.

    QEMU ─▶ vmlinux ─▶ /init in the RAM disk: busybox loads modules, mounts /dev/vda read-only,
                       lays a tmpfs over it, switch_root ─▶ /sbin/init on the root disk: the agent, as PID 1

The RAM disk is a few modules and one static busybox, uncompressed: under emulation a megabyte costs little to copy
and much to decompress.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .decompress import decompress, is_compressed
from .modules import Module

__all__ = ["INIT", "Entry", "build_initrd", "cpio", "init_script", "vmlinux"]

# `env -i`: the kernel hands PID 1 its own idea of HOME and TERM. Python's -I would ignore PYTHONPATH, so -s -S.
INIT = """#!/bin/busybox sh
# PID 1 is the agent: one Python program that serves the virtio-serial port and reaps orphans.
cd /
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \\
    PYTHONPATH=/usr/lib/vmcontainer PYTHONDONTWRITEBYTECODE=1 \\
    /usr/bin/python3 -s -S -m vmcontainer_kernel.agent --guest
"""


@dataclass(frozen=True)
class Entry:
    """One file of an archive: its path without a leading slash, st_mode, and content (a link's target)."""

    path: str
    mode: int
    content: bytes = b""


def cpio(entries: Iterable[Entry]) -> bytes:
    """Write a cpio archive of format ``newc`` (Linux Documentation/driver-api/early-userspace/buffer-format.rst).

    Owners are root, times zero and inode numbers count up, so equal entries give equal bytes.
    """
    parts = []
    for inode, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.path.encode() + b"\0"
        fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        parts += [_padded(header), _padded(entry.content)]
    return b"".join(parts)


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)


def init_script(order: Sequence[str], file_system: str) -> str:
    """Write the RAM disk's /init, which loads `order` and hands over to /sbin/init of the root disk."""
    loads = "\n".join(f"$b insmod /m/{name}.ko || echo cannot load {name} >/dev/console" for name in order)
    return f"""#!/bin/busybox sh
b=/bin/busybox
stop() {{ echo "vmcontainer: $1" >/dev/console; $b sleep 1; $b poweroff -f; }}
$b mount -t devtmpfs dev /dev
{loads}
$b mount -t {file_system} -o ro /dev/vda /lower || stop "the root disk cannot be mounted"
$b mount -t tmpfs -o size=75%,mode=755 upper /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /root || stop "no overlay"
$b mount -o move /dev /root/dev
exec $b switch_root /root /sbin/init
stop "the root disk has no /sbin/init"
"""


def build_initrd(busybox: bytes, modules: Sequence[Module], file_system: str) -> bytes:
    """Make the RAM disk from a static busybox and the modules in load order."""
    script = init_script([module.name for module in modules], file_system)
    folders = [Entry(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev", "lower", "m", "root", "rw")]
    files = [
        Entry("init", stat.S_IFREG | 0o755, script.encode()),
        Entry("bin/busybox", stat.S_IFREG | 0o755, busybox),
        *(Entry(f"m/{module.name}.ko", stat.S_IFREG | 0o644, module.content) for module in modules),
    ]
    return cpio([*folders, *files])


def vmlinux(bzimage: bytes) -> bytes:
    """Take the kernel out of a bzImage or an EFI wrapper, or return the image unchanged if it is in neither.

    QEMU starts an ELF kernel with a PVH note directly; emulating the kernel's own decompressor takes a second. The
    payload's place is in the setup header (Linux Documentation/arch/x86/boot.rst, ``payload_offset``);
    an arm64 kernel may be packed for EFI (drivers/firmware/efi/libstub/zboot-header.S), which QEMU reads from 8.1 on.
    """
    if bzimage[4:8] == b"zimg":
        offset, length = struct.unpack_from("<II", bzimage, 8)
        return decompress(bzimage[offset : offset + length])
    if bzimage[0x202:0x206] != b"HdrS":
        return bzimage
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # The payload's last four bytes are its uncompressed size, appended by the build.
    payload = bzimage[start : start + length - 4]
    return decompress(payload) if is_compressed(payload) else bzimage
