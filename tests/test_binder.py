"""The product as Binder's users meet it: an ordinary user whom a filter denies namespaces and mounts.

The same cells as everywhere: containers then live in a guest, and nothing else changes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import binder_profile
from vmcontainer_kernel.paths import cache_dir
from vmcontainer_kernel.vm.accelerator import choose
from vmcontainer_kernel.vm.config import MachineConfig
from vmcontainer_kernel.vm.guest import find_guest
from vmcontainer_kernel.vm.template import find_template

UID = 65534
CELLS = [
    "%load_ext vmcontainer_kernel",
    "%%container --out first\nuname -r; echo $$; hostname",
    "%%container --memory 64m --out second\ncat /sys/fs/cgroup/memory.max",
    "%%vm --out third\nuname -r; id -u",
    "%%container --on host --no-raise-error\ntrue",
    "from vmcontainer_kernel import lab\nprint(lab.default_node)\nprint(first, second, third, sep='|')",
]
DRIVER = """
import json, sys, nbformat
from nbclient import NotebookClient
cells = [nbformat.v4.new_code_cell(text) for text in json.load(sys.stdin)]
notebook = nbformat.v4.new_notebook(cells=cells)
NotebookClient(notebook, kernel_name="python3", allow_errors=True, timeout=120).execute()
print(json.dumps([cell.outputs for cell in notebook.cells]))
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is written for x86-64's call numbers"),
]


@pytest.fixture
def home() -> Iterator[Path]:
    """A home for that user, with a copy of this user's images, as a Binder image has them baked in."""
    home = Path("/tmp", f"vmcontainer-binder-{os.getpid()}")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    guest = find_guest()
    assert guest is not None, "run ./lab setup"
    template = find_template(MachineConfig(name="vm", boot=guest.boot, accelerator=choose()))
    parts = ["images", "guests/packages.json", f"guests/{guest.path.name}"]
    for part in [*parts, f"templates/{template.path.name}"] if template else parts:
        (home / "cache" / part).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--sparse=always", str(cache_dir() / part), str(home / "cache" / part)], check=True)
    subprocess.run(["chown", "-R", f"{UID}:{UID}", str(home)], check=True)
    yield home
    shutil.rmtree(home)


def run_cells(home: Path, cells: list[str]) -> list[list[dict]]:
    """Run cells in a real kernel under the profile; return each cell's outputs."""
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "VMCONTAINER_CACHE": str(home / "cache"),
        "VMCONTAINER_RUN": str(home / "run"),
    }
    command = [sys.executable, binder_profile.__file__, str(UID), sys.executable, "-c", DRIVER]
    done = subprocess.run(
        command,
        check=False,
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        env=environment,
        cwd=home,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_containers_live_in_a_guest(home: Path) -> None:
    outputs = run_cells(home, CELLS)
    host = platform.release()
    [told] = [one for one in outputs[5] if one["output_type"] == "stream"]
    node, facts = told["text"].split("\n", 1)
    first, second, third = (part.split() for part in facts.split("|"))
    assert node == "vm"
    assert first[0] == third[0] != host
    assert first[1] == "1"
    assert second == [str(64 << 20)]
    assert third[1] == "0"
    [refused] = [one for one in outputs[4] if one["output_type"] == "error"]
    assert refused["ename"] in ("HostError", "ContainerError")
    assert "--on" in "".join(refused["traceback"])
    assert not list((home / "run").glob("*")), "the session left files"
