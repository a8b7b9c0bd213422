"""Guest images: a kernel, an initial RAM disk and a root disk, built here, by an ordinary user, and kept in the cache.

    cache/guests/[ORIGIN/]          one folder for each other processor or release (`Origin.label`), with:
                   packages.json    which packages: resolved once, then fixed until the cache is cleared
                   packages/*.deb   their files
                   base-KEY/        unpacked, made small, compiled            key: packages and builder
                   KEY/             vmlinuz initrd root.squashfs manifest.json  key: base and our own files

A folder whose name is a key is complete and never changes: it is made beside its place and renamed. A change of our
own files rebuilds the last line only, in seconds and without network.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..errors import MachineError
from ..paths import cache_dir
from . import modules as kernel_modules
from . import packages as distribution
from . import tree
from .cache import KEYS, digest, locked, made, prune, reported_when_full, used
from .contents import OPTIONAL_MODULES
from .initrd import build_initrd, vmlinux
from .packages import OS_RELEASE, Origin, Package
from .recipe import ROOT, USUAL, GuestImage, Recipe
from .xen import XEN

__all__ = ["GuestImage", "Report", "add_images", "ensure_guest", "find_guest"]

Report = Callable[[str, float], None]

OURS = Origin()
RECIPES = {"": USUAL, "xen": XEN}
PACKAGE = Path(__file__).parent.parent
FILE_SYSTEM = "squashfs"
# The files of this package whose change changes an image.
BUILDERS = ("contents", "decompress", "guest", "initrd", "modules", "packages", "recipe", "tree")
# zstd and gzip cost a few percent of a boot's CPU time, and LZ4 a few where it counts: Python, which each boot reads,
# is left as it is, which makes the disk a fifth larger.
COMPRESSION = ("-comp", "lz4", "-b", "128K", "-action", "uncompressed@name(python3.*) || name(*.so*)")


def find_guest(origin: Origin = OURS) -> GuestImage | None:
    """Return the guest image of `origin` that matches this version's files, or None if it must be built first.

    No network and no other program: a few milliseconds.
    """
    guests = cache_dir(f"guests/{origin.label}")
    try:
        packages = _read_lock(guests / "packages.json", origin)
        image = _load(guests / _key(origin, packages)[1], origin)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    used(image.path)
    return image


def ensure_guest(report: Report | None = None, origin: Origin = OURS) -> GuestImage:
    """Return the guest image, building what is missing; two builders at once make it one time.

    It takes ten seconds the first time: call it in a thread. `report(phase, fraction)` is called as it goes on.
    Raises HostError (no network, no mksquashfs, disk full),
    MachineError (a package that cannot be used).
    """
    found = find_guest(origin)
    if found:
        return found
    report = report or (lambda phase, fraction: None)
    builder = _builder(origin, report)
    with _held(origin) as guests:
        return find_guest(origin) or _build(guests, origin, builder, report)


@contextlib.contextmanager
def _held(origin: Origin) -> Iterator[Path]:
    """Give the folder of an origin's images; one builder at a time."""
    guests = cache_dir(f"guests/{origin.label}")
    with locked(guests / "lock"), reported_when_full(guests, "a guest image", need_mib=400):
        yield guests


def _builder(origin: Origin, report: Report) -> Path | None:
    """Return the tree whose programs this computer can run to make a guest of `origin`; None if that is its own."""
    if origin.arch == OURS.arch:
        return None
    same = replace(origin, arch=OURS.arch)
    with _held(same) as guests:
        return _ensure_base(guests, same, None, report)[0] / "root"


def _build(guests: Path, origin: Origin, builder: Path | None, report: Report) -> GuestImage:
    prune(guests, "base-" + KEYS, keep=2)
    prune(guests, KEYS, keep=3)
    base, packages = _ensure_base(guests, origin, builder, report)
    key = _key(origin, packages)[1]
    if not (guests / key / "manifest.json").exists():
        shutil.rmtree(guests / key, ignore_errors=True)
        with made(guests / key) as folder:
            _build_image(base, folder, origin, packages, builder, report)
    report("ready", 1.0)
    return _load(guests / key, origin)


def _ensure_base(guests: Path, origin: Origin, builder: Path | None, report: Report) -> tuple[Path, Sequence[Package]]:
    """Return the base of the packages to use, made if it is not there, and those packages."""
    packages = _packages(guests, origin, report)
    if not _base(guests, origin, packages).exists():
        packages, debs = _fetch(guests, origin, packages, report)
        with made(_base(guests, origin, packages)) as folder:
            _build_base(debs, folder, origin, builder, report)
    return _base(guests, origin, packages), packages


def _base(guests: Path, origin: Origin, packages: Sequence[Package]) -> Path:
    return guests / f"base-{_key(origin, packages)[0]}"


def _packages(guests: Path, origin: Origin, report: Report) -> list[Package]:
    """Return the packages to use: those of the lock file, or those apt names now."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return _read_lock(guests / "packages.json", origin)
    return _resolve(guests, origin, report)


def _resolve(guests: Path, origin: Origin, report: Report) -> list[Package]:
    """Ask apt which packages there are now, and write the lock file."""
    report("package lists", 0.0)
    apt = _apt(guests, origin)
    distribution.update(apt)
    wanted = _wanted(origin)
    packages = distribution.resolve(wanted, apt.show)
    document = {"wanted": _words(wanted), "packages": [asdict(package) for package in packages]}
    _write_atomically(guests / "packages.json", json.dumps(document, indent=1))
    return packages


def _fetch(guests: Path, origin: Origin, packages: list[Package], report: Report) -> tuple[list[Package], list[Path]]:
    """Return packages and their files; a version that is neither in the cache nor on a mirror any more gives way."""
    apt = _apt(guests, origin)

    def fetch(some: list[Package]) -> list[Path]:
        return distribution.fetch(
            apt, some, cache_dir("guests/packages"), lambda part: report("packages", 0.05 + 0.35 * part)
        )

    try:
        debs = fetch(packages)
    except MachineError:
        packages = _resolve(guests, origin, report)
        debs = fetch(packages)
    apt.forget()
    return packages, debs


def _wanted(origin: Origin) -> distribution.Wanted:
    return _recipe(origin).wanted(OS_RELEASE.read_text(), origin)


def _words(wanted: distribution.Wanted) -> dict[str, Any]:
    """Return `wanted` as JSON has it, without what is empty."""
    found: dict[str, Any] = json.loads(json.dumps({name: value for name, value in asdict(wanted).items() if value}))
    return found


def _recipe(origin: Origin) -> Recipe:
    return RECIPES[origin.hypervisor]


def _read_lock(lock: Path, origin: Origin) -> list[Package]:
    """Read the lock file; raises ValueError when it was written for other wishes (a new version, another system)."""
    document = json.loads(lock.read_text())
    if document["wanted"] != _words(_wanted(origin)):
        raise ValueError("the lock file was made for other packages")
    return [Package(**package) for package in document["packages"]]


def _apt(guests: Path, origin: Origin) -> distribution.Apt:
    apt = distribution.Apt(guests / "apt", origin)
    apt.prepare()
    return apt


def _build_base(debs: Sequence[Path], folder: Path, origin: Origin, builder: Path | None, report: Report) -> None:
    """Make the base: ``root`` (the tree without our files) and the recipe's files."""
    report("unpack", 0.4)
    root = folder / "root"
    distribution.unpack(debs, root)
    recipe = _recipe(origin)
    _build_kernel(recipe, root, folder, report)
    report("compile", 0.55)
    (root / "usr/bin/python3").symlink_to(next((root / "usr/bin").glob("python3.*")).name)
    (root / "usr/bin/python").symlink_to("python3")
    applets = tree.run([str((builder or root) / "usr/bin/busybox"), "--list-full"], {}).split()
    release = distribution.own_release(debs) if origin.release else OS_RELEASE.read_text()
    tree.dress(root, distribution.os_release(release), recipe.init)
    tree.link_busybox(root, applets)
    python = next((root / "usr/lib").glob("python3.*")).name
    tree.compile_python(root, f"usr/lib/{python}", seen_as=f"/usr/lib/{python}", builder=builder)
    tree.add_library(root, builder)


def _build_kernel(recipe: Recipe, root: Path, folder: Path, report: Report) -> None:
    """Take the kernel and its modules out of the unpacked tree, make the RAM disk, and remove what is not used."""
    report("kernel", 0.5)
    source = next((root / "usr/lib/modules").iterdir())
    builtin_text = (source / "modules.builtin").read_text()
    builtin = kernel_modules.builtin_names(builtin_text)
    modules = kernel_modules.select(source, recipe.modules, builtin)
    (folder / "vmlinuz").write_bytes(vmlinux(kernel_modules.kernel_file(root, source.name).read_bytes()))
    first = [name for name in recipe.boot_modules if name in modules or name not in OPTIONAL_MODULES]
    order = kernel_modules.load_order(modules, first, builtin)
    busybox = (root / "usr/bin/busybox").read_bytes()
    loaded = [modules[name] for name in order]
    (folder / "initrd").write_bytes(build_initrd(busybox, source.name, loaded, FILE_SYSTEM))
    (folder / "release").write_text(source.name)
    recipe.furnish(root, folder)
    tree.trim(root)
    tree.install_modules(root, folder.joinpath("release").read_text(), modules, builtin_text)


def _build_image(
    base: Path, folder: Path, origin: Origin, packages: Sequence[Package], builder: Path | None, report: Report
) -> None:
    """Make the image: the base's tree and our files on a disk, the base's other files beside it."""
    report("agent", 0.75)
    root = folder / "tree"
    shutil.copytree(base / "root", root, symlinks=True, copy_function=_link_or_copy)
    tree.add_ours(root, PACKAGE, builder)
    report("container image", 0.8)
    same = builder / "usr/bin/busybox" if builder else None
    add_images(root / "usr/share/vmcontainer/images", root / "usr/bin/busybox", same)
    report("root disk", 0.85)
    tree.squash(root, folder / ROOT, COMPRESSION)
    shutil.rmtree(root)
    files = _recipe(origin).files
    for name in files:
        shutil.copyfile(base / name, folder / name)
    manifest = {
        "key": _key(origin, packages)[1],
        "release": (base / "release").read_text(),
        "packages": [asdict(package) for package in packages],
        "digests": {name: digest(folder / name) for name in (*files, ROOT)},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _link_or_copy(source: str, target: str) -> None:
    """Share a file of the base, which nobody changes; copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def add_images(folder: Path, busybox: Path, same: Path | None = None) -> None:
    """Build the container images that a guest is born with, as an OCI image layout in `folder`."""
    from ..container.images import Store
    from ..container.images.busybox import build_busybox

    folder.mkdir(parents=True)
    build_busybox(Store(folder), busybox, same)


def _load(folder: Path, origin: Origin) -> GuestImage:
    recipe = _recipe(origin)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in (*recipe.files, ROOT):
        (folder / name).stat()
    kernel, initrd, root = (folder / name for name in ("vmlinuz", "initrd", ROOT))
    return GuestImage(folder, manifest["key"], kernel, initrd, root, manifest["release"], origin.arch, recipe)


def _key(origin: Origin, packages: Sequence[Package]) -> tuple[str, str]:
    """Return the keys of base and image: digests of all that they are made of."""
    builders = {*BUILDERS, _recipe(origin).builder}
    base = hashlib.sha256(json.dumps([asdict(package) for package in packages]).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem in builders:
            base.update(path.read_bytes())
    for path in tree.library_files():  # by size: a new version is never the same in all of them
        base.update(f"{path.name} {path.stat().st_size}\0".encode())
    image = base.copy()
    for path in tree.our_files(PACKAGE):
        image.update(f"{path.relative_to(PACKAGE)}\0".encode() + path.read_bytes())
    return base.hexdigest()[:16], image.hexdigest()[:16]


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.rename(path)
