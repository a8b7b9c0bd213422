"""The initial RAM disk and the bare kernel: what runs before the guest's root file system does.

    QEMU ─▶ vmlinux ─▶ /init in the RAM disk: busybox loads modules, mounts /dev/vda read-only,
                       lays a tmpfs over it, mounts the rest, switch_root
                         └─▶ /sbin/init on the root disk: the agent, as PID 1

The RAM disk is a few modules and one static busybox, uncompressed: under emulation a megabyte costs little to copy
and much to decompress.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .decompress import decompress, is_compressed
from .modules import Module, modules_dep, unsigned

__all__ = ["FSTAB", "INIT", "Entry", "build_initrd", "cpio", "init_script", "vmlinux"]

# -I -S: nothing but the standard library and our own files; -B: no compiled files are written.
INIT = """#!/usr/bin/python3 -ISB
# PID 1 is the agent: one Python program that serves the virtio-serial port and reaps orphans.
import sys

sys.path.insert(0, "/usr/lib/vmcontainer")
from vmcontainer_kernel.agent.guest import main

main()
"""

# What a Linux system has mounted, fstab(5), as one run of mount(8) for each would cost 10 ms.
FSTAB = """
sysfs /root/sys sysfs nosuid
devpts /root/dev/pts devpts nosuid,gid=5,mode=620,ptmxmode=666
tmpfs /root/dev/shm tmpfs nosuid,mode=1777
tmpfs /root/run tmpfs nosuid,mode=755
tmpfs /root/tmp tmpfs nosuid,mode=1777
cgroup2 /root/sys/fs/cgroup cgroup2 nosuid
"""

_APPLETS = ("echo", "mkdir", "modprobe", "mount", "poweroff", "sleep", "switch_root")


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
    """Write the RAM disk's /init, which loads modules in `order` and hands over to /sbin/init of the root disk.

    It notes on the console when it begins and ends (`agent.guest.note`). Programs are named without a folder: Debian's
    static busybox then forks, and does not run itself anew for each.
    """
    return f"""#!/bin/busybox sh
stop() {{ echo "vmcontainer: $1"; sleep 1; poweroff -f; }}
mount -t devtmpfs dev /dev
exec </dev/null >/dev/console 2>&1
echo "<3>vmcontainer: init" >/dev/kmsg
mount -t proc -o nosuid proc /proc
modprobe -a {" ".join(order)}
mount -t {file_system} -o ro /dev/vda /lower || stop "the root disk cannot be mounted"
mount -t tmpfs -o size=75%,mode=755 upper /rw
mkdir /rw/upper /rw/work /dev/pts /dev/shm
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /root || stop "no overlay"
mount -o move /dev /root/dev
mount -a
mount -o move /proc /root/proc
echo "<3>vmcontainer: root" >/root/dev/kmsg
exec switch_root /root /sbin/init
stop "the root disk has no /sbin/init"
"""


def build_initrd(busybox: bytes, release: str, modules: Sequence[Module], file_system: str) -> bytes:
    """Make the RAM disk of kernel `release` from a static busybox and the modules in load order."""
    folder = f"lib/modules/{release}"
    paths = ["bin", "dev", "etc", "lib", "lib/modules", folder, "lower", "proc", "root", "rw"]
    flat = {module.name: replace(module, path=f"{module.name}.ko") for module in modules}
    files = [
        Entry("init", stat.S_IFREG | 0o755, init_script([*flat], file_system).encode()),
        Entry("etc/fstab", stat.S_IFREG | 0o644, FSTAB.encode()),
        Entry("bin/busybox", stat.S_IFREG | 0o755, busybox),
        *(Entry(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox") for name in _APPLETS),
        Entry(f"{folder}/modules.dep", stat.S_IFREG | 0o644, modules_dep(flat).encode()),
        *(Entry(f"{folder}/{module.path}", stat.S_IFREG | 0o644, unsigned(module.content)) for module in flat.values()),
    ]
    return cpio([*(Entry(path, stat.S_IFDIR | 0o755) for path in paths), *files])


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
