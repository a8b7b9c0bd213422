"""Where lessons are run: here, as who runs the tests, or as on Binder.

    here      this user, this computer, this cache; containers live on the host where it allows them
    binder    uid 1000 as `binder_profile` has it, one processor, 2 GB in all, a home with a cache of his own:
              containers live in a guest

In both the lessons are a copy, so that what one leaves in its folder is seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import binder_profile
from vmcontainer_kernel.container.cgroups.group import Cgroup
from vmcontainer_kernel.container.cgroups.groups import Cgroups
from vmcontainer_kernel.container.spec import Memory, Resources
from vmcontainer_kernel.paths import cache_dir

__all__ = ["NAMES", "Profile", "entered"]

ROOT = Path(__file__).parent.parent
COURSE = ROOT / "course"
NAMES = ("here", "binder")
UID = 1000
MEMORY_BYTES = 2 << 30
LIMIT_S = 900.0
LOCK = "lock"
SWEPT_AFTER_S = 60.0  # another run may just be about to take it
LINK_FROM_BYTES = 1 << 20
# Of the cache a Binder image has what lessons use; not what guests are built from, nor what this computer has tried.
PARTS = ("guests", "images", "payloads", "runtimes", "sectors", "templates")
NOT_COPIED = ("apt", "base-*", "build", "packages", "trixie*", "unpacked")
# As Binder does when the image is made (postBuild); in a profile with a copy there is nothing left to boot.
PREPARE = "import build; build.prepare()"


@dataclass(frozen=True)
class Profile:
    """A place to run lessons in: `folder` is its own, with a copy of the course in it."""

    name: str
    folder: Path
    uid: int
    within: tuple[str, ...] = ()
    """A command that runs commands in it."""
    group: Cgroup | None = None
    """What limits it as a whole."""
    cache: Path | None = None
    """A cache of its own; None: the user's."""

    @property
    def course(self) -> Path:
        return self.folder / "course"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment without the run folder; the sources are those beside these tests."""
        own = {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'widgets'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "VMCONTAINER_SPARES": "0",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        own |= {"VMCONTAINER_CACHE": str(self.cache)} if self.cache else {}
        if self.name == "here":
            return {**os.environ, **own}
        return {**own, "HOME": str(self.folder), "LANG": "C.UTF-8", "PATH": os.environ["PATH"]}

    def run_folder(self, name: str) -> Path:
        """Make an empty run folder, so that what a lesson leaves there is its own."""
        folder = self.folder / f"run-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(0o700)
        os.chown(folder, self.uid, -1)
        return folder

    @property
    def joining(self) -> list[str]:
        """Return a command that runs another in the profile's control group."""
        if self.group is None:
            return []
        joins = "; ".join(f"echo 0 >{path}/cgroup.procs" for path in self.group.directories)
        return ["sh", "-ec", f'{joins}; exec "$@"', "sh"]

    def start(self, command: list[str], **more: str) -> subprocess.Popen[str]:
        """Start a command as it is started here (not yet `within`), with more in its environment."""
        return subprocess.Popen(
            [*self.joining, *command],
            env={**self.environment, **more},
            cwd=self.course,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


@contextlib.contextmanager
def entered(name: str) -> Iterator[Profile]:
    """Give a profile; its folder is made once, and gone at the end."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"vmcontainer-{name}-"))
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            shutil.copytree(
                COURSE, folder / "course", ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            )
            here = Profile("here", folder, os.geteuid())
            _prepare(here)
            if name == "here":
                yield here
                return
            with _binder(folder) as profile:
                _prepare(profile)
                yield profile
        finally:
            shutil.rmtree(folder)


def _sweep() -> None:
    """Remove the folders of runs that were killed: they take gigabytes, and nobody holds their lock any more."""
    for name in NAMES:
        for lock in Path(tempfile.gettempdir()).glob(f"vmcontainer-{name}-*/{LOCK}"):
            with contextlib.suppress(OSError), lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - lock.stat().st_mtime > SWEPT_AFTER_S:
                    shutil.rmtree(lock.parent, ignore_errors=True)


def _prepare(profile: Profile) -> None:
    """Have the machines' templates made: a lesson's times are to be those of clones."""
    command = [*profile.within, sys.executable, "-c", PREPARE]
    with profile.start(command, VMCONTAINER_RUN=str(profile.run_folder("prepare"))) as process:
        told, _ = process.communicate(timeout=LIMIT_S)
    if process.returncode:
        raise RuntimeError(f"the machines of the lessons cannot be made ready ({profile.name}):\n{told[-3000:]}")


@contextlib.contextmanager
def _binder(folder: Path) -> Iterator[Profile]:
    if os.geteuid() != 0:
        raise RuntimeError("only root can become another user; leave out --profile binder")
    _copy_cache(cache_dir(), folder / "cache")
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() or path.lstat().st_nlink == 1:
            os.lchown(path, UID, UID)
    folder.chmod(0o755)
    within = (sys.executable, binder_profile.__file__, str(UID))
    with _limited(Resources(memory=Memory(limit_bytes=MEMORY_BYTES))) as group:
        yield Profile("binder", folder, UID, within, group, folder / "cache")


def _copy_cache(source: Path, target: Path) -> None:
    """Copy what lessons use. Large files that are only read are links: they stay root's, whom nobody there can harm."""
    target.mkdir()
    ignore = shutil.ignore_patterns(*NOT_COPIED)
    for part in PARTS:
        if (source / part).exists():
            copy = _copied if part == "templates" else _linked
            shutil.copytree(source / part, target / part, ignore=ignore, copy_function=copy, symlinks=True)


def _linked(source: str, target: str) -> str:
    if Path(source).stat().st_size >= LINK_FROM_BYTES:
        with contextlib.suppress(OSError):  # another disk
            Path(target).hardlink_to(source)
            return target
    return _copied(source, target)


def _copied(source: str, target: str) -> str:
    """Copy with holes: a template is mostly zeros; QEMU opens its memory for writing, even though it writes nothing."""
    subprocess.run(["cp", "-a", "--sparse=always", source, target], check=True)
    return target


@contextlib.contextmanager
def _limited(resources: Resources) -> Iterator[Cgroup]:
    groups = Cgroups.detect(f"profile-{os.getpid()}")
    if groups is None:
        raise RuntimeError(f"memory cannot be limited here: {Cgroups.missing_reason()}")
    try:
        yield groups.create("binder", resources)
    finally:
        groups.close()
