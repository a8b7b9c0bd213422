"""The guest's root file system as a folder: packages made small, busybox's links, configuration, our own files.

Nothing here needs privileges: files belong to whoever builds, and mksquashfs writes them as root's. The unpacked Python
runs on the build machine through its own dynamic loader, to compile its library and to show that it works.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import HostError, MachineError
from . import modules as kernel_modules
from .contents import CONFIGURATION, FOLDERS, LIBRARY, LIBRARY_PARTS, LIBRARY_PROOF, OUR_FILES, PROOF, UNUSED
from .modules import Module

__all__ = [
    "add_library",
    "add_ours",
    "compile_python",
    "dress",
    "install_modules",
    "library_files",
    "link_busybox",
    "our_files",
    "run",
    "squash",
    "trim",
]

OUR_FOLDER = "usr/lib/vmcontainer"


def trim(tree: Path) -> None:
    """Remove what a guest does not use; the kernel's own files must have been read before."""
    for pattern in UNUSED:
        for path in tree.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def dress(tree: Path, os_release: Mapping[str, str], init: str) -> None:
    """Add folders, accounts, configuration and PID 1; `os_release` is that of the packages' distribution."""
    for name in FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, text in CONFIGURATION.items():
        (tree / name).write_text(text)
    (tree / "usr/lib/os-release").write_text("".join(f'{key}="{os_release[key]}"\n' for key in sorted(os_release)))
    _link(tree / "etc/os-release", "../usr/lib/os-release")
    _link(tree / "var/run", "../run")
    (tree / "tmp").chmod(0o1777)
    program = tree / "usr/sbin/init"
    program.write_text(init)
    program.chmod(0o755)


def link_busybox(tree: Path, applets: Iterable[str]) -> None:
    """Make a link to busybox for each applet path (``bin/ls``) of which the tree has no program."""
    for applet in applets:
        path = tree / "usr" / applet.removeprefix("usr/")
        if not path.exists():
            _link(path, os.path.relpath("usr/bin/busybox", path.parent.relative_to(tree)))


def _link(path: Path, target: str) -> None:
    if not path.is_symlink():
        path.symlink_to(target)


def install_modules(tree: Path, release: str, modules: Mapping[str, Module], builtin: str) -> None:
    """Write kernel modules and modprobe's tables below ``/lib/modules/RELEASE``."""
    root = tree / "usr/lib/modules" / release
    for module in modules.values():
        path = root / module.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(module.content)
    (root / "modules.builtin").write_text(builtin)
    (root / "modules.dep").write_text(kernel_modules.modules_dep(modules))
    (root / "modules.alias").write_text(kernel_modules.modules_alias(modules))


def python_argv(tree: Path, *arguments: str) -> list[str]:
    """Return the command that runs the tree's Python on this machine, with the tree's own loader and libraries."""
    (loader,) = (tree / "usr/lib").glob("*-linux-gnu/ld-linux-*.so.*")
    program = next(iter(sorted((tree / "usr/bin").glob("python3.*"))), tree / "usr/bin/python3")
    return [str(loader), "--library-path", str(loader.parent), str(program), "-S", *arguments]


def compile_python(
    tree: Path, folder: str, *, seen_as: str, exclude: str = "^$", proof: str = PROOF, builder: Path | None = None
) -> None:
    """Compile the Python files below `folder` with the guest's own Python, as if they lay in `seen_as`; then `proof`.

    A tree for another processor is compiled by the Python of `builder`, a tree of the same release for this one: the
    compiled files are the same. It is proved by its first boot.
    "Unchecked" hashes: the guest never compares a source file with its compiled one (PEP 552), and the same source
    gives the same bytes whatever its times are.
    """
    compiler = ["-m", "compileall", "-q", "-x", exclude, "--invalidation-mode", "unchecked-hash"]
    compiler += ["-s", str(tree / folder), "-p", seen_as, str(tree / folder)]
    home = (builder or tree) / "usr"
    environment = {"PYTHONHOME": str(home), "PATH": os.environ.get("PATH", ""), "PYTHONDONTWRITEBYTECODE": "1"}
    run(python_argv(builder or tree, *compiler), environment)
    if builder is None:
        run(python_argv(tree, "-c", proof), environment | {"PYTHONPATH": str(tree / folder)})


def add_ours(tree: Path, package: Path, builder: Path | None = None) -> None:
    """Copy this package's guest part into the tree and compile it."""
    for path in our_files(package):
        target = tree / OUR_FOLDER / package.name / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    compile_python(tree, OUR_FOLDER, seen_as="/" + OUR_FOLDER, builder=builder)


def add_library(tree: Path, builder: Path | None = None) -> None:
    """Copy the installed library for networks into the tree, beside where our own files will be, and compile it."""
    target = tree / OUR_FOLDER
    for path in library_files():
        copy = target / LIBRARY / path.relative_to(_library_folder())
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (target / LIBRARY / "__init__.py").touch()
    compile_python(tree, OUR_FOLDER, seen_as="/" + OUR_FOLDER, proof=LIBRARY_PROOF, builder=builder)


def library_files() -> list[Path]:
    """List the files of that library which a guest gets."""
    folder = _library_folder()
    parts = [folder / name for name in LIBRARY_PARTS if (folder / name).exists()]
    return sorted(file for part in parts for file in ([part] if part.is_file() else part.rglob("*.py")))


def _library_folder() -> Path:
    found = importlib.util.find_spec(LIBRARY)
    if found is None or found.origin is None:
        raise HostError(f"{LIBRARY} is not installed, which guests need too", hint=f"pip install {LIBRARY}")
    return Path(found.origin).parent


def our_files(package: Path) -> list[Path]:
    """List the files of this package that belong into a guest."""
    return sorted(path for pattern in OUR_FILES for path in package.glob(pattern))


def squash(tree: Path, disk: Path, compression: Sequence[str]) -> None:
    """Write the tree as a squashfs disk, everything owned by root, times zero: equal trees give equal disks."""
    options = ["-noappend", "-all-root", "-no-xattrs", "-quiet", "-no-progress", "-all-time", "0", "-mkfs-time", "0"]
    # The processors that are there are shared with a notebook: one compressor thread is 2 s slower, once.
    run(["mksquashfs", str(tree), str(disk), *options, *compression], dict(os.environ))


def run(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a build tool and return its output; raises MachineError with its last lines, HostError if it is missing."""
    try:
        done = subprocess.run(
            argv, check=False, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        package = {"mksquashfs": "squashfs-tools"}.get(argv[0], argv[0])
        raise HostError(f"{argv[0]} is not installed", hint=f"apt-get install {package}") from error
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).splitlines()[-5:])
        hint = "is the disk full? else delete the guests folder of the cache and run again"
        raise MachineError(f"{Path(argv[0]).name} failed with status {done.returncode}", where=tail, hint=hint)
    return done.stdout
