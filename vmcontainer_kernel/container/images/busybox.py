"""The image every node has: one static busybox, its applets as links, and the few files a Linux system expects.

Nothing is downloaded: the program is the distribution's own (package busybox-static). Times and owners are fixed and
names sorted, so the same busybox gives the same digests on every machine.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.config import DEFAULT_PATH
from vmcontainer_kernel.container.images.store import LAYER_TYPE, Image, Store
from vmcontainer_kernel.errors import HostError, ImageError

__all__ = ["FILES", "applets_of", "build_busybox", "find_busybox"]

NAME = "busybox:latest"
_PLACES = ("/bin/busybox", "/usr/bin/busybox", "/usr/lib/initramfs-tools/bin/busybox", "/bin/busybox.static")
_MACHINES = {62: "amd64", 183: "arm64"}  # elf.h: EM_X86_64, EM_AARCH64
_PT_INTERP = 3
_TIME = "1970-01-01T00:00:00Z"

FILES = {
    "etc/group": "root:x:0:\ndaemon:x:1:\ntty:x:5:\nusers:x:100:guest\nguest:x:1000:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": 'ID=busybox\nNAME="busybox"\nPRETTY_NAME="busybox"\n',
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "daemon:x:1:1:daemon:/:/bin/false\n"
        "guest:x:1000:1000:guest:/home/guest:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/:/bin/false\n"
    ),
}
FOLDERS = {
    **dict.fromkeys(("", "bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var"), (0o755, 0)),
    **{"home/guest": (0o755, 1000), "root": (0o700, 0), "tmp": (0o1777, 0), "var/tmp": (0o1777, 0)},
}


def find_busybox(path: Path | str | None = None) -> Path:
    """Return a static busybox for this machine, or the given one; raise `HostError` if there is none."""
    candidates = [Path(path)] if path else [Path(place) for place in _PLACES]
    problems = []
    for candidate in candidates:
        try:
            _architecture(candidate.read_bytes()[:4096])
        except (OSError, ValueError) as error:
            problems.append(f"{candidate}: {error}")
            continue
        return candidate
    raise HostError("there is no static busybox", hint="apt-get install busybox-static", where="\n".join(problems))


def _architecture(head: bytes) -> str:
    """Return an ELF file's architecture in Go's words, as the image format has them; raise ValueError if it is not
    static (elf(5)).
    """
    if head[:6] != b"\x7fELF\x02\x01" or len(head) < 64:
        raise ValueError("not a 64-bit program")
    machine, table, size, count = (
        *struct.unpack_from("<H", head, 18),
        *struct.unpack_from("<Q", head, 32),
        *struct.unpack_from("<HH", head, 54),
    )
    for offset in range(table, table + size * count, size or 1):
        if offset + 4 > len(head):
            raise ValueError("a program with a strange header")
        if struct.unpack_from("<I", head, offset)[0] == _PT_INTERP:
            raise ValueError("not static: it needs a dynamic loader")
    if machine not in _MACHINES:
        raise ValueError(f"for another machine (ELF machine {machine})")
    return _MACHINES[machine]


def build_busybox(store: Store, busybox_path: Path | str | None = None, same: Path | None = None) -> Image:
    """Build the image ``busybox:latest`` in `store` and return it; the same program gives the same image.

    `same` is the same version for this machine, if the program is for another: it is asked for the applets.
    """
    import hashlib

    path = find_busybox(busybox_path)
    program = path.read_bytes()
    layer = _layer(program, applets_of(same or path))
    config: dict[str, Any] = {
        "architecture": _architecture(program[:4096]),
        "os": "linux",
        "created": _TIME,
        "config": {"Env": [f"PATH={DEFAULT_PATH}"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": _TIME, "created_by": "busybox --list, as links"}],
    }
    image = store.add(NAME, config, [store.put(layer, LAYER_TYPE)])
    store.rootfs_layers(image)
    return image


def applets_of(path: Path) -> list[str]:
    """Return the names a busybox has programs for."""
    import subprocess

    try:
        result = subprocess.run([path, "--list"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(
            f"{path} does not list its applets: {error}", hint="apt-get install --reinstall busybox-static"
        ) from error
    names = sorted({line.strip() for line in result.stdout.splitlines()} - {"", "busybox"})
    if "sh" not in names or any("/" in name for name in names):
        raise ImageError(f"{path} has no shell", hint="apt-get install busybox-static")
    return names


def _layer(program: bytes, applets: list[str]) -> bytes:
    """Return the layer: a tar archive, sorted, all times 0, owned by root."""
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", *, link: str = "", owner: int = 0) -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), link
            entry.uid = entry.gid = owner
            archive.addfile(entry, io.BytesIO(data))

        for name, (mode, owner) in sorted(FOLDERS.items()):
            add(f"./{name}", tarfile.DIRTYPE, mode, owner=owner)
        for name, text in sorted(FILES.items()):
            add(f"./{name}", tarfile.REGTYPE, 0o644, text.encode())
        add("./bin/busybox", tarfile.REGTYPE, 0o755, program)
        for name in applets:
            add(f"./bin/{name}", tarfile.SYMTYPE, 0o777, link="busybox")
        add("./usr/bin/env", tarfile.SYMTYPE, 0o777, link="../../bin/busybox")
    return buffer.getvalue()
