"""The runtime's command line as an ordinary user: one id in a user namespace, and no control groups."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reach import open_to_all

from .oci_runtime import NOBODY, ROOT, Runtime, UserRuntime, make_rootfs, merge, our_runtime, wait_until

pytestmark = [
    pytest.mark.needs("containers-on-host", "user-namespaces"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    base = tmp_path_factory.mktemp("user")
    # A checkout may be private to root, as pytest's own folders are.
    shutil.copytree(ROOT / "vmcontainer_kernel", base / "package/vmcontainer_kernel")
    open_to_all(base)
    make_rootfs(base / "bundle/rootfs")
    with our_runtime(base, base / "package", UserRuntime) as runtime:
        for path in (base, *(base / "bundle").rglob("*"), base / "bundle"):
            os.lchown(path, NOBODY, NOBODY)
        yield runtime


@pytest.fixture(autouse=True)
def no_rest(runtime: Runtime) -> Iterator[None]:
    yield
    runtime.ok("delete", "--force", "c")


def bundle(runtime: Runtime, *args: str, **changes: Any) -> Path:
    """The bundle with what ``spec --rootless`` writes, and changes."""
    folder = runtime.base / "bundle"
    file = folder / "config.json"
    file.unlink(missing_ok=True)
    runtime.ok("spec", "--rootless", "--bundle", folder)
    process = {"process": {"terminal": False, "args": [*args] or ["sleep", "60"]}}
    file.write_text(json.dumps(merge(merge(json.loads(file.read_text()), process), changes)))
    return folder


def test_run(runtime: Runtime) -> None:
    done = runtime("run", "--bundle", bundle(runtime, "sh", "-c", "id -u; cat /proc/self/uid_map; exit 7"), "c")
    assert done.stdout.split() == ["0", "0", str(NOBODY), "1"]
    assert done.returncode == 7


def test_from_created_to_gone(runtime: Runtime) -> None:
    runtime.ok("create", "--bundle", bundle(runtime), "c")
    assert json.loads(runtime.ok("state", "c"))["owner"] == str(NOBODY)
    runtime.ok("start", "c")
    assert runtime.ok("exec", "c", "id", "-u") == "0\n"
    for verb in ("pause", "ps", "events"):
        assert "no control group" in runtime.fails(verb, "c")
    runtime.ok("kill", "c", "KILL")
    wait_until(lambda: runtime.status("c") == "stopped")
    runtime.ok("delete", "c")


@pytest.mark.parametrize(
    ("resources", "field"), [({"memory": {"limit": 1 << 26}}, "memory.limit"), ({"pids": {"limit": 9}}, "pids.limit")]
)
def test_a_limit_that_nobody_would_keep_is_refused(runtime: Runtime, resources: dict[str, Any], field: str) -> None:
    folder = bundle(runtime, linux={"resources": resources})
    assert f"linux.resources.{field} cannot be kept" in runtime.fails("create", "--bundle", folder, "c")


def test_rules_for_devices_pass_and_a_group_is_missed_aloud(runtime: Runtime) -> None:
    linux = {"resources": {"devices": [{"allow": False, "access": "rwm"}]}, "cgroupsPath": "/vmcontainer/mine"}
    done = runtime("run", "--bundle", bundle(runtime, "cat", "/dev/null", linux=linux), "c")
    assert done.returncode == 0
    assert "linux.cgroupsPath: no control group" in done.stderr


def test_ids_of_others_are_refused(runtime: Runtime) -> None:
    mapping = [{"containerID": 0, "hostID": 0, "size": 1}]
    told = runtime.fails("create", "--bundle", bundle(runtime, linux={"uidMappings": mapping}), "c")
    assert "newuidmap" in told or "uid_map" in told


def test_without_a_user_namespace_nothing_can_be_made(runtime: Runtime) -> None:
    linux = {"namespaces": [{"type": "mount"}], "uidMappings": None, "gidMappings": None}
    folder = bundle(runtime, linux=linux, hostname=None)
    assert "does not let us make namespaces" in runtime.fails("create", "--bundle", folder, "c")
