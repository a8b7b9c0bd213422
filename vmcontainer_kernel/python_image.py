"""The container image ``python``: the distribution's own Python and the libraries it needs, with busybox beside it.

It is made of the packages that guests are made of too, fetched and checked the same way (`vm.packages`), without
network registries and without privileges. The same packages give the same image: times are 0, modes and owners plain.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from .container.config import DEFAULT_PATH
from .container.images import LAYER_TYPE, Image, Store
from .container.images.busybox import FILES, applets_of
from .container.images.pack import pack
from .errors import NotFound
from .paths import cache_dir
from .vm import packages as distribution
from .vm import tree as guest_tree
from .vm.cache import locked, reported_when_full
from .vm.packages import Package

__all__ = ["build_python", "python_packages"]

NAME = "python:latest"
LABEL = "org.vmcontainer.made-of"
OS_RELEASE = Path("/etc/os-release")
Report = Callable[[str, float], None]

_TIME = "1970-01-01T00:00:00Z"
# NIS: a module nobody needs, whose library leads to Kerberos.
_NOT_FOLLOWED = ("libnsl2", "libtirpc3", "libtirpc3t64")
_UNUSED = (
    *(
        "usr/share/[!d]*",
        "usr/share/d[!o]*",
        "usr/share/doc/*/[!c]*",
        "usr/share/doc/*/c[!o]*",
        "etc",
        "usr/lib/*/gconv",
    ),
    *("usr/lib/valgrind", "usr/lib/binfmt.d", "usr/lib/python3.*/sitecustomize.py"),
    *(f"usr/lib/python3.*/{name}" for name in ("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip")),
    *(f"usr/lib/python3.*/{name}" for name in ("pydoc_data", "__phello__", "config-*", "lib-dynload/nis.*")),
)
_PROOF = "import bz2, ctypes, curses, hashlib, json, lzma, readline, socket, sqlite3, ssl, uuid, zlib"
_FOLDERS = ("dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/local/bin", "var/tmp")
_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
}


def python_packages(show: Callable[[str], str]) -> list[Package]:
    """Return the packages of the image; `show` answers with a package's record of ``apt-cache show``."""
    minimal = distribution.follow("python3-minimal", r"(lib)?python3\.\d+-minimal", show)
    python = [*minimal, *(name.replace("-minimal", "-stdlib") for name in minimal if name.startswith("lib"))]
    needed = [name for package in python for name in distribution.dependencies(show(package))]
    libraries = [name for name in needed if re.match("z?lib", name) and name not in _NOT_FOLLOWED]
    # Python's threads end through pthread_exit, for which glibc opens libgcc_s at run time.
    names = dict.fromkeys([*python, *libraries, "libgcc-s1", "busybox-static"])
    return sorted((distribution.parse_record(show(name)) for name in names), key=lambda package: package.name)


def build_python(store: Store, report: Report) -> Image:
    """Return the image ``python:latest`` of `store`, building it if it is not there or was made otherwise.

    The packages are chosen once and kept in the cache, beside those of guests; fetching them takes the network.
    A former image stays without its name: a container may run on it (`shelf.prune`).
    Raises HostError and MachineError as guests do (`vm.guest.ensure_guest`).
    """
    guests = cache_dir("guests")
    with locked(guests / "lock"), reported_when_full(guests, "the python image", need_mib=300):
        packages = _packages(guests, report)
        key = _key(packages)
        try:
            image = store.resolve(NAME)
            if ((image.config.get("config") or {}).get("Labels") or {}).get(LABEL) == key:
                return image
        except NotFound:
            pass
        return _build(store, guests, packages, key, report)


def _key(packages: Sequence[Package]) -> str:
    made_of = json.dumps([asdict(package) for package in packages]).encode() + Path(__file__).read_bytes()
    return hashlib.sha256(made_of).hexdigest()[:16]


def _packages(guests: Path, report: Report) -> list[Package]:
    """Return the packages chosen before, if their files are here, or those apt names now."""
    lock = guests / "python.json"
    try:
        document = json.loads(lock.read_text())
        if document["system"] == OS_RELEASE.read_text():
            return [Package(**package) for package in document["packages"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    report("package lists", 0.0)
    apt = _apt(guests)
    distribution.names_for(OS_RELEASE.read_text())  # raises where packages are unknown
    distribution.update(apt)
    packages = python_packages(apt.show)
    unfinished = lock.with_suffix(".tmp")
    document = {"system": OS_RELEASE.read_text(), "packages": [asdict(package) for package in packages]}
    unfinished.write_text(json.dumps(document, indent=1))
    unfinished.rename(lock)
    return packages


def _apt(guests: Path) -> distribution.Apt:
    apt = distribution.Apt(guests / "apt")
    apt.prepare()
    return apt


def _build(store: Store, guests: Path, packages: Sequence[Package], key: str, report: Report) -> Image:
    apt = _apt(guests)
    debs = distribution.fetch(apt, packages, guests / "packages", lambda part: report("packages", 0.1 + 0.4 * part))
    apt.forget()
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=guests) as folder:
        root = Path(folder, "root")
        report("unpack", 0.5)
        distribution.unpack(debs, root)
        report("compile", 0.6)
        _dress(root)
        report("layer", 0.9)
        with store.new_blob(LAYER_TYPE) as target:
            pack(root, target, owners=lambda uid, gid: (0, 0), time_s=0)
    made_of = " ".join(f"{package.name}={package.version}" for package in packages)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": _TIME,
        "config": {"Env": [f"PATH={DEFAULT_PATH}"], "Cmd": ["python3"], "Labels": {LABEL: key}},
        "rootfs": {"type": "layers", "diff_ids": [target.blob.digest]},
        "history": [{"created": _TIME, "created_by": f"apt-get download {made_of}"}],
    }
    image = store.add(NAME, config, [target.blob])
    store.rootfs_layers(image)
    return image


def _dress(root: Path) -> None:
    """Make a root file system of the unpacked packages."""
    for pattern in _UNUSED:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for name in _FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    release = distribution.os_release(OS_RELEASE.read_text())
    release_text = "".join(f'{key}="{release[key]}"\n' for key in sorted(release))
    for name, text in {**FILES, **_ACCOUNTS, "etc/os-release": release_text}.items():
        (root / name).write_text(text)
    python = next((root / "usr/lib").glob("python3.*")).name
    guest_tree.compile_python(root, f"usr/lib/{python}", seen_as=f"/usr/lib/{python}", proof=_PROOF)
    for link in ("python3", "python"):
        (root / "usr/bin" / link).symlink_to(python)
    for applet in applets_of(root / "usr/bin/busybox"):
        if not (root / "usr/bin" / applet).exists():
            (root / "usr/bin" / applet).symlink_to("busybox")
    _set_modes(root)


def _set_modes(root: Path) -> None:
    """Give files plain modes, whatever the umask of the builder is."""
    for folder, _, names in os.walk(root):
        Path(folder).chmod(0o755)
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    (root / "root").chmod(0o700)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
