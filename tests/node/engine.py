"""The engine's driver (`engine_driver.py`) as an object: each call is a request to a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.reach import open_to_all
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import from_json

ROOT = Path(__file__).parents[2]
NOBODY = 65534


class Engine:
    """The driver process; a method call is a request."""

    def __init__(
        self,
        base: Path,
        uid: int,
        before: str = "",
        package: Path | None = None,
        *,
        words: tuple[str, ...] = (),
        rights: tuple[str, ...] = (),
    ) -> None:
        self.base = base
        package = package or base / "package"
        python = Path(sys.executable).resolve()
        # -S as in a guest; -B: an ordinary user may not write beside the source.
        command = [str(python), "-S", "-B", str(package / "engine_driver.py"), str(base), *words]
        command = [*rights, *command]
        if uid != os.geteuid():
            command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *command]
        if before:
            script = f'{before} && exec "$@"'
            command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *command]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd="/"
        )

    def __call__(self, op: str, **arguments: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "failed" in answer:
            raise from_json(answer["failed"])
        return answer["ok"]

    def sh(self, script: str, **options: Any) -> dict[str, Any]:
        """Run a one-shot container."""
        return self("run", name="c", options={"argv": ["/bin/sh", "-c", script], **options})

    def out(self, script: str, **options: Any) -> str:
        """Run a one-shot container that must succeed, and return its output."""
        result = self.sh(script, **options)
        assert result["error"] is None, result["error"]
        assert result["status"] == 0, result
        return result["out"].strip()

    def groups(self) -> list[Path]:
        # os.walk passes over what goes away meanwhile, as others' groups do.
        ours = f"/vmcontainer/test-{self.process.pid}"
        return [Path(top, name) for top, names, _ in os.walk("/sys/fs/cgroup") if top.endswith(ours) for name in names]

    def close(self) -> None:
        """End the driver; then nothing of it may be left."""
        mounts = self("mounts")
        self("close")
        assert str(self.base) not in mounts
        assert not self.groups()
        assert not [*(self.base / "run").glob("containers/*")]
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(10) == 0


def prepare_base(base: Path, uid: int) -> None:
    """Make what a driver needs where its user can read it: a checkout may be private to root."""
    shutil.copytree(ROOT / "vmcontainer_kernel", base / "package" / "vmcontainer_kernel")
    shutil.copy(ROOT / "tests/node/engine_driver.py", base / "package")
    build_busybox(Store(base / "store"))
    (base / "run").mkdir()
    open_to_all(base)
    for path in (base, *base.rglob("*")):
        os.lchown(path, uid, uid)


def start_engine(base: Path, uid: int) -> Engine:
    """Start a driver as a user, below a folder of theirs."""
    prepare_base(base, uid)
    return Engine(base, uid)
