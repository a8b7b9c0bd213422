"""The runtime as a command, and bundles for it: what the tests of the OCI command line share."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.patience import now_s
from vmcontainer_kernel.container.images.busybox import find_busybox
from vmcontainer_kernel.container.oci.install import script
from vmcontainer_kernel.container.oci.template import template

ROOT = Path(__file__).parents[2]
LIMIT_S = 30.0
NOBODY = 65534
APPLETS = "sh ls cat echo sleep id true false env hostname pwd grep kill tty stty readlink mkdir touch ps sort"

KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from vmcontainer_kernel.container.oci import launching
from vmcontainer_kernel.container.oci.command import main
left, pid = int(sys.argv[2]), os.getpid()
def count(frame, event, subject):
    global left
    if event == "c_call" and getattr(subject, "__module__", "") in ("posix", "fcntl", "_io") and os.getpid() == pid:
        left -= 1
        if left == 0:
            os.kill(pid, signal.SIGKILL)
sys.setprofile(count)
status = main(sys.argv[3:])
sys.setprofile(None)
sys.exit(status)
"""
"""A program (package's folder, N, words of a command) that ends itself by SIGKILL before its Nth system call."""


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Put nested objects of `changes` into those of `base`; all else replaces; None removes."""
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def make_rootfs(path: Path) -> Path:
    """Make a root with busybox and links to it."""
    (path / "bin").mkdir(parents=True)
    shutil.copy(find_busybox(), path / "bin/busybox")
    for name in APPLETS.split():
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc").mkdir()
    (path / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    return path


class Runtime:
    """A runtime's program, with a root folder of its own; `cgroup`: where the tests' groups are."""

    def __init__(self, base: Path, program: str | Path) -> None:
        self.base = base
        self.program = str(program)
        self.root = base / "state"
        self.cgroup = f"/vmcontainer/test-oci-{os.getpid()}"
        self.made: list[str] = []

    def command(self, *words: str | Path) -> list[str]:
        return [self.program, "--root", str(self.root), *(str(word) for word in words)]

    def __call__(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; output goes to files, as a created container keeps the descriptors open.

        Input comes from an empty file, not from /dev/null: crun gives what it finds there to the container's user.
        """
        side = self.base / "output"
        side.with_suffix(".in").touch()
        with (
            side.with_suffix(".in").open() as empty,
            side.with_suffix(".out").open("w+") as out,
            side.with_suffix(".err").open("w+") as err,
        ):
            options = {"stdin": empty, "timeout": LIMIT_S} | options
            done = subprocess.run(self.command(*words), check=False, stdout=out, stderr=err, **options)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, out.read(), err.read())

    def ok(self, *words: str | Path, **options: Any) -> str:
        done = self(*words, **options)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def fails(self, *words: str | Path, **options: Any) -> str:
        done = self(*words, **options)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        return done.stderr

    def status(self, name: str) -> str:
        return str(json.loads(self.ok("state", name))["status"])

    def bundle(self, *args: str, name: str = "bundle", **changes: Any) -> Path:
        """Write a bundle; `changes` are merged into the configuration that ``spec`` makes."""
        bundle = self.base / name
        if not (bundle / "rootfs").exists():
            make_rootfs(bundle / "rootfs")
        base = merge(
            template(),
            {
                "process": {"terminal": False, "args": list(args or ("sleep", "60"))},
                "root": {"readonly": False},
                "linux": {"cgroupsPath": f"{self.cgroup}/{name}", "resources": None},
            },
        )
        (bundle / "config.json").write_text(json.dumps(merge(base, changes)))
        return bundle

    def groups(self) -> list[Path]:
        """Return the groups of the tests' containers, in every tree; other tests' come and go meanwhile."""
        return [path for folder in self.folders() for path in folder.iterdir() if path.is_dir()]

    def folders(self) -> list[Path]:
        base = Path("/sys/fs/cgroup")
        return [path for root in (base, *base.iterdir()) if (path := root / self.cgroup[1:]).is_dir()]

    def close(self) -> None:
        """Delete every container; then nothing may be left."""
        for name in sorted(path.name for path in self.root.glob("*")):
            self.ok("delete", "--force", name)
        assert self.groups() == []
        for path in self.folders():
            path.rmdir()


class UserRuntime(Runtime):
    """The runtime as an ordinary user calls it."""

    def command(self, *words: str | Path) -> list[str]:
        return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *super().command(*words)]


@contextlib.contextmanager
def our_runtime(base: Path, package: Path = ROOT, kind: type[Runtime] = Runtime) -> Iterator[Runtime]:
    """This project's runtime, as `install` writes it."""
    program = base / "vmcontainer-runtime"
    program.write_text(script(str(Path(sys.executable).resolve()), str(package)))
    program.chmod(0o755)
    runtime = kind(base, program)
    try:
        yield runtime
    finally:
        runtime.close()


def wait_until(condition: Callable[[], Any], limit_s: float = LIMIT_S) -> None:
    """Poll until something holds."""
    deadline = now_s() + limit_s
    while not condition():
        assert now_s() < deadline, "it did not come about in time"
        time.sleep(0.01)
