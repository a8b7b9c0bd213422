"""What a guest contains: which kernel modules, which parts of the packages not, which folders and configuration files.

Each list says what it is for; `tree` and `guest` carry it out.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BOOT_MODULES",
    "CONFIGURATION",
    "FOLDERS",
    "LIBRARY",
    "LIBRARY_PARTS",
    "LIBRARY_PROOF",
    "MODULES",
    "OPTIONAL_MODULES",
    "OUR_FILES",
    "PROOF",
    "UNUSED",
]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Loaded by the RAM disk in this order: the root disk first, then the devices a guest always has.
BOOT_MODULES: Final = _words("virtio_pci virtio_blk squashfs overlay virtio_console virtio_rng virtio_net")
# Loaded as well where the distribution has them: Ubuntu keeps pvpanic in a package of 100 MB of other modules.
OPTIONAL_MODULES: Final = _words("virtio_balloon pvpanic_pci")

# On the root disk, loaded by modprobe when the kernel first asks for them: patterns of names.
MODULES: Final = (
    BOOT_MODULES
    + OPTIONAL_MODULES
    + _words(
        """
    veth bridge br_netfilter tun dummy macvlan ipvlan vxlan
    nf_tables nft_* nf_nat* nf_conntrack* nf_reject* nf_defrag* nfnetlink* x_tables xt_*
    ip_tables ip6_tables iptable_* ip6table_* sch_* cls_* act_*
    unix_diag inet_diag tcp_diag udp_diag netlink_diag af_packet_diag
    loop erofs fuse ext4 vfat isofs nls_* virtio_scsi sd_mod
    kvm_amd kvm_intel
    virtio_mem vsock vmw_vsock_virtio_transport qemu_fw_cfg zram
    """
    )
)

# The part of this package that runs in a guest: standard library only (docs/architecture.md, "Layers").
OUR_FILES: Final = ("__init__.py", "errors.py", "paths.py", "agent/**/*.py", "container/**/*.py")

# The library that makes networks (container/network/), by those of its parts which that takes. Its own front, which
# would import all of it and so SQLite, is left out: under emulation it would be most of what the first network costs.
LIBRARY: Final = "pyroute2"
LIBRARY_PARTS: Final = _words("common.py process.py statsd.py config iproute netlink netns nftables protocols requests")
LIBRARY_PROOF: Final = (
    "import asyncio, sys; sys.modules['ssl'] = sys; import pyroute2.iproute.linux, pyroute2.nftables.main"
)

# What neither the agent nor a lesson needs, and extension modules whose libraries are not in the guest.
_LIBRARY = _words(
    """
    test idlelib tkinter turtledemo turtle.py lib2to3 ensurepip distutils pydoc_data venv __phello__ sqlite3 curses dbm
    config-* sitecustomize.py
    """
)
_EXTENSIONS = _words(
    """
    _ssl _hashlib _bz2 _lzma _curses* readline _sqlite3 _dbm _gdbm _crypt _uuid nis _tkinter ossaudiodev
    _test* *xx* _ctypes_test
    """
)
UNUSED: Final = (
    *_words("boot etc/ld.so.conf.d etc/python3* usr/share usr/lib/binfmt.d usr/lib/modules"),
    *(f"usr/lib/*/{name}" for name in _words("gconv libnsl* libnss_hesiod* libthread_db* libmemusage* libpcprofile*")),
    *(f"usr/lib/python3.*/{name}" for name in _LIBRARY),
    *(f"usr/lib/python3.*/lib-dynload/{name}.*" for name in _EXTENSIONS),
)

FOLDERS: Final = _words(
    """
    dev etc home/user mnt proc root run srv sys tmp usr/local/bin usr/share usr/sbin var/lib var/log var/tmp
    """
)

CONFIGURATION: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
    "etc/hostname": "guest\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/machine-id": "",
    # QEMU's user network answers names at this address (qemu-system-x86_64(1), -netdev user).
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/profile": "PS1='\\h:\\w\\$ '\n",
}

# Imports that the agent and the container engine cannot do without.
PROOF: Final = (
    "import array, ctypes, fcntl, hashlib, json, os, resource, selectors, socket, struct, tarfile, termios, zlib"
)
