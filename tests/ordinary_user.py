"""Cells run by an ordinary user, in a Python of his own: what came out of each, told apart from what went wrong."""

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
from vmcontainer_kernel.vm.guest import ensure_guest

ROOT = Path(__file__).parent.parent
NOBODY = 65534
FIRST_LIMIT_S = 240.0

SCRIPT = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
answers = []
for code in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        result = shell.run_cell(code)
    error = result.error_in_exec
    told = {"out": out.getvalue(), "err": err.getvalue()}
    answers.append({**told, "error": type(error).__name__ if error else "", "text": str(error or "")})
print(json.dumps(answers))
"""


class User:
    """An ordinary user with a home, a run folder, and a cache with an image in it; with `machines` the guest image."""

    def __init__(self, folder: Path, *, machines: bool = True) -> None:
        self.folder, self.run = folder, folder / "run"
        if machines:
            image = ensure_guest()
            shutil.copytree(image.path, folder / "cache" / "guests" / image.path.name)
            shutil.copy(image.path.parent / "packages.json", folder / "cache" / "guests")
        build_busybox(Store(folder / "cache" / "images"))
        for path in (folder, *folder.rglob("*")):
            os.lchown(path, NOBODY, NOBODY)
        open_to_all(folder)

    def start(
        self, *codes: str, within: tuple[str, ...] = (), before: str = "", new_privs: bool = False
    ) -> subprocess.Popen[str]:
        """Begin to run cells; `within`: a command to run Python with; `before`: what root does first, in a mount
        namespace of its own; `new_privs`: set-user-ID programs give rights.
        """
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "IPYTHONDIR": str(self.folder / "ipython"),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "VMCONTAINER_CACHE": str(self.folder / "cache"),
            "VMCONTAINER_RUN": str(self.run),
            "VMCONTAINER_PATIENCE_S": "1e9",
        }
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        command += [] if new_privs else ["--no-new-privs"]
        if before:
            script = f'{before} && exec "$@"'
            command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *command]
        process = subprocess.Popen(
            [*command, *within, sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environment,
        )
        assert process.stdin
        process.stdin.write(json.dumps(["%load_ext vmcontainer_kernel", *codes]))
        process.stdin.close()
        process.stdin = None
        return process

    def cells(
        self, *codes: str, within: tuple[str, ...] = (), before: str = "", new_privs: bool = False
    ) -> list[dict[str, Any]]:
        """Run cells and return what came of each."""
        with self.start(*codes, within=within, before=before, new_privs=new_privs) as process:
            out, err = process.communicate(timeout=FIRST_LIMIT_S)
        assert (process.returncode, err) == (0, "")
        return list(json.loads(out))[1:]
