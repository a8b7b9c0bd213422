"""Xen in a guest: a hypervisor that runs on the machine itself, Debian as its first domain, and a second beside it.

    QEMU ─multiboot─▶ Xen ─▶ Domain-0: RAM disk, root disk and agent, as in every guest of ours
                       │      └─ init ─▶ xenstored (what there is), xenconsoled (consoles), xl create
                       └──▶ pv1: the same kernel on its own memory, paravirtual, with a RAM disk of its own

Paravirtual kernels ask Xen for what changes page tables and interrupts, so no virtualization by hardware is needed:
Xen does the same under emulation. The domains' kernel is the distribution's general one: that for clouds has no part
for Domain-0. It lies on the root disk as a plain ELF file, as Xen's tools would unpack it in memory that is scarce.
"""

from __future__ import annotations

import gzip
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..errors import MachineError
from .config import MIB, Boot, Boots, Multiboot
from .contents import BOOT_MODULES, MODULES
from .initrd import Entry, cpio
from .packages import Origin, Wanted, names_for
from .recipe import GuestImage, Recipe

__all__ = ["XEN", "domain_configuration", "xen_boot", "xen_packages"]

_KERNELS: Final = {"debian": "linux-image-amd64", "ubuntu": "linux-image-generic"}
# The hypervisor, its tools, and the libraries of both; not those of its boot loader for guests' disks, which is unused.
_LIBRARIES: Final = "xen|yajl|uuid|lzma|zstd|ncurses|tinfo"
_PACKAGES: Final = rf"xen-(hypervisor|utils)-\d.*|xen-utils-common|xenstore-utils|lib({_LIBRARIES}).*"
_DRIVERS: Final = ("xen_privcmd", "xen_evtchn", "xen_gntdev", "xen_gntalloc", "xenfs")

_FIRST_MIB: Final = 192
_OTHER_MIB: Final = 112
# For Xen itself, and for one more domain of a learner's.
_SPARE_MIB: Final = 144

# Xen's documentation, misc/xen-command-line: the serial port is Xen's, which passes Domain-0's console on; an emulated
# CPU does not need the defences against its bugs; and scrubbed memory would be memory that is no longer shared.
XEN_PARAMETERS: Final = (
    f"com1=115200,8n1 console=com1 dom0_mem={_FIRST_MIB}M,max:{_FIRST_MIB}M spec-ctrl=no xpti=off bootscrub=0"
)
# The buffer for devices that reach low memory only is 64 MiB if nobody says less; ours reach all of it.
FIRST_PARAMETERS: Final = (
    "console=hvc0 quiet panic=-1 mitigations=off cryptomgr.notests audit=0 lsm=capability nowatchdog "
    "random.trust_cpu=on net.ifnames=0 8250.nr_uarts=0 i8042.noaux i8042.nokbd swiotlb=1024"
)

# The agent comes last: when it answers, both domains are at rest.
INIT: Final = """#!/usr/bin/python3 -ISB
# PID 1 is the agent, as in every guest; before it starts, the first domain does what a first domain has to do.
import os
import sys

os.spawnl(os.P_WAIT, "/usr/sbin/xen-start", "xen-start")
sys.path.insert(0, "/usr/lib/vmcontainer")
from vmcontainer_kernel.agent.guest import main

main()
"""

START: Final = """#!/bin/sh
# Start the daemons of Xen's first domain, then a second domain, and wait until that asks for a command.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /run/lock /run/xen /run/xenstored /var/log/xen/console
mount -t xenfs xenfs /proc/xen &&
xenstored --pid-file /run/xenstored.pid &&
xen-init-dom0 &&
xenconsoled --pid-file=/run/xenconsoled.pid --log=guest &&
xl create -q /etc/xen/pv1.cfg || { echo "xen-start: no second domain: see xl list"; exit 1; }
waited=0
until grep -qs '/ #' /var/log/xen/console/guest-pv1.log; do
    waited=$((waited + 1))
    [ $waited -lt 400 ] || exit 1
    sleep 0.5
done
echo "<3>vmcontainer: domains" >/dev/kmsg
"""

# What runs in a domain. An unknown kernel parameter with a value becomes part of PID 1's environment.
DOMAIN_INIT: Final = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
hostname $domain
dmesg -n 1  # what the kernel says is not to get between the lines that a command writes on this console
while true; do setsid cttyhack sh; done
"""

# xl console wants a terminal, which a cell has not. The marks are not in the echo of what is typed.
EXECUTE: Final = r"""#!/bin/sh
# Run a command in a domain, through its console, and end with its status.
[ $# -ge 2 ] || { echo "usage: xl-exec DOMAIN COMMAND ..." >&2; exit 2; }
number=$(xl domid "$1") || exit
console=$(xenstore-read "/local/domain/$number/console/tty") || exit
shift
stty raw -echo <"$console"
exec 3<>"$console"
echo "echo '<''$$<'; $*; echo '>''$$>'\$?" >&3
awk -v begin="<$$<" -v end=">$$>" '
    { sub(/\r$/, "") }
    at = index($0, end) { printf "%s", substr($0, 1, at - 1); exit substr($0, at + length(end)) }
    seen { print }
    index($0, begin) { seen = 1 }
' <&3
"""


def domain_configuration(name: str) -> str:
    """Write xl.cfg(5) of a paravirtual domain."""
    return f"""name = "{name}"
type = "pv"
kernel = "/usr/lib/xen-domain/vmlinux"
ramdisk = "/usr/lib/xen-domain/initrd"
extra = "console=hvc0 domain={name}"
memory = {_OTHER_MIB}
vcpus = 1
"""


def xen_packages(os_release_text: str, origin: Origin) -> Wanted:
    """Tell which packages make a guest with Xen."""
    usual = names_for(os_release_text, origin)
    return replace(usual, kernel_meta=_KERNELS[usual.distribution], more=(("xen-system-amd64", _PACKAGES),))


def xen_boot(image: GuestImage) -> Boot:
    """Tell what a machine boots that has such an image."""
    modules = ((image.kernel, FIRST_PARAMETERS), (image.initrd, ""))
    return Multiboot(image.path / "xen", modules, XEN_PARAMETERS, image.root, image.key, XEN.memory_bytes)


def furnish(root: Path, base: Path) -> None:
    """Take the hypervisor out of the unpacked packages, and add to them what the domains need."""
    found = sorted((root / "boot").glob("xen-*.gz"))
    if not found:
        hint = "use Debian 12 or 13, or Ubuntu 24.04"
        raise MachineError("this distribution's package of Xen has no hypervisor in it", hint=hint)
    # QEMU's multiboot loader takes an ELF file, not a compressed one.
    (base / "xen").write_bytes(gzip.decompress(found[-1].read_bytes()))
    _choose_tools(root)
    _add_domain(root, (base / "vmlinuz").read_bytes())
    for path, text in (("usr/sbin/xen-start", START), ("usr/sbin/xl-exec", EXECUTE)):
        (root / path).write_text(text)
        (root / path).chmod(0o755)
    (root / "var/lib/xen").mkdir(parents=True, exist_ok=True)
    (root / "var/lock").symlink_to("../run/lock")


def _choose_tools(root: Path) -> None:
    """Link the tools of this version of Xen into the path, where the distribution has a script that looks for it."""
    (tools,) = (root / "usr/lib").glob("xen-[0-9]*")
    for name in ("boot", "lib", "bin/oxenstored", "bin/pygrub"):
        path = tools / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(root / "usr/lib/xen-common")
    (root / "usr/sbin/xen").unlink(missing_ok=True)
    for folder in (root / "usr/sbin", root / "usr/bin"):
        for link in [path for path in folder.iterdir() if path.is_symlink() and not path.exists()]:
            link.unlink()
    for program in (tools / "bin").iterdir():
        link = root / "usr/sbin" / program.name
        if not link.exists():
            link.symlink_to(f"../lib/{tools.name}/bin/{program.name}")


def _add_domain(root: Path, kernel: bytes) -> None:
    folder = root / "usr/lib/xen-domain"
    folder.mkdir()
    (folder / "vmlinux").write_bytes(kernel)
    (folder / "initrd").write_bytes(domain_initrd((root / "usr/bin/busybox").read_bytes()))
    for name in ("pv1", "pv2"):
        (root / f"etc/xen/{name}.cfg").write_text(domain_configuration(name))


def domain_initrd(busybox: bytes) -> bytes:
    """Make the RAM disk that is all of a domain's file system."""
    folders = [Entry(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev", "proc", "root", "sys", "tmp")]
    init = Entry("init", stat.S_IFREG | 0o755, DOMAIN_INIT.encode())
    return cpio([*folders, init, Entry("bin/busybox", stat.S_IFREG | 0o755, busybox)])


XEN: Final = Recipe(
    wanted=xen_packages,
    boot=xen_boot,
    # No balloon: it would give QEMU the numbers that pages have in the domain, where the machine has other pages.
    boot_modules=(*BOOT_MODULES, "pvpanic_pci", *_DRIVERS),
    modules=(*MODULES, *_DRIVERS),
    init=INIT,
    furnish=furnish,
    files=("vmlinuz", "initrd", "xen"),
    builder="xen",
    memory_bytes=(_FIRST_MIB + _OTHER_MIB + _SPARE_MIB) * MIB,
    boots=Boots("20 to 40 s", limit_s=300.0),
)
