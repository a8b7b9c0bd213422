"""A bundle of its own for each test, and what a container made from it sees: configurations as Docker would write
them, changed field by field.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.reach import open_to_all

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("birth_driver.py")
LIMIT_S = 60.0

BASE: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {
        "args": ["/bin/sh", "-c", "true"],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "user": {"uid": 0, "gid": 0},
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
    ],
    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network", "cgroup")]},
}


class Outcome:
    """What a container did; `error` is None or has message, where, hint."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.status: int | None = document["status"]
        self.out: str = document["out"].strip()
        self.error: dict[str, str] | None = document["error"]
        self.warnings: list[str] = document["warnings"]
        self.steps: list[str] = document["steps"]

    def __repr__(self) -> str:
        return f"{self.__dict__}"


class Bundle:
    """A folder with a root made of busybox, and a configuration."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path / "rootfs"
        self.config = copy.deepcopy(BASE)
        (self.root / "bin").mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox
        shutil.copy(busybox, self.root / "bin/busybox")
        for name in subprocess.check_output([busybox, "--list"], text=True).split():
            if name != "busybox":
                (self.root / "bin" / name).symlink_to("busybox")
        open_to_all(path)

    @property
    def process(self) -> dict[str, Any]:
        return self.config["process"]  # type: ignore[no-any-return]

    @property
    def linux(self) -> dict[str, Any]:
        return self.config["linux"]  # type: ignore[no-any-return]

    def namespace(self, kind: str, path: str = "") -> None:
        """Ask for a namespace, in place of one of the same type."""
        self.without(kind)
        self.linux["namespaces"].append({"type": kind, "path": path} if path else {"type": kind})

    def without(self, kind: str) -> None:
        self.linux["namespaces"] = [one for one in self.linux["namespaces"] if one["type"] != kind]

    def mount(self, destination: str, kind: str = "bind", source: Any = "", options: Any = (), **more: Any) -> None:
        one = {"destination": destination, "type": kind, "source": str(source or kind), "options": [*options], **more}
        self.config["mounts"].append(one)

    def run(self, script: str, *, before: str = "") -> Outcome:
        """Run a script in a new container; `before` is shell, done in a mount namespace around it."""
        self.process["args"] = ["/bin/sh", "-c", script]
        request = json.dumps({"config": self.config, "bundle": str(self.path)})
        command = [str(Path(sys.executable).resolve()), "-S", "-B", str(DRIVER)]
        command = ["unshare", "-m", "--propagation", "slave", "sh", "-ec", f'{before}\nexec "$@"', "sh", *command]
        done = subprocess.run(
            command,
            input=request,
            text=True,
            capture_output=True,
            check=False,
            timeout=LIMIT_S,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        return Outcome(json.loads(done.stdout))

    def out(self, script: str, *, before: str = "") -> str:
        """Run a script that must succeed, and return its output."""
        outcome = self.run(script, before=before)
        assert outcome.error is None, outcome.error
        assert outcome.status == 0, outcome
        return outcome.out

    def fails(self, script: str = "true", *, before: str = "") -> str:
        """Run a script that must not even start, and return why."""
        outcome = self.run(script, before=before)
        assert outcome.error, outcome
        assert outcome.out == ""
        return f"{outcome.error['message']} | {outcome.error['where']} | {outcome.error['hint']}"
