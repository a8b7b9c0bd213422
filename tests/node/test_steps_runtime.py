"""Fields that need the whole command: groups around a user namespace, and what `exec` says of its own process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reach import open_to_all

from .oci_runtime import Runtime, our_runtime

pytestmark = [pytest.mark.needs("containers-on-host"), pytest.mark.needs("cgroups")]

RANGES = [{"containerID": 0, "hostID": 100000, "size": 65536}]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    open_to_all(tmp_path)
    with our_runtime(tmp_path) as runtime:
        yield runtime


def mapped(runtime: Runtime) -> Path:
    """A running container c with a user namespace of its own and a limit."""
    kinds = ("pid", "mount", "ipc", "uts", "network", "cgroup", "user")
    linux = {
        "namespaces": [{"type": kind} for kind in kinds],
        "uidMappings": RANGES,
        "gidMappings": RANGES,
        "resources": {"pids": {"limit": 50}},
    }
    bundle = runtime.bundle("sleep", "60", linux=linux)
    for path in (bundle / "rootfs", *(bundle / "rootfs").rglob("*")):
        os.lchown(path, 100000, 100000)
    runtime.ok("run", "--detach", "--bundle", bundle, "c")
    return bundle


def process(bundle: Path, *args: str, **changes: Any) -> Path:
    """Write what ``exec --process`` reads."""
    path = bundle / "process.json"
    base = {"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
    path.write_text(json.dumps(base | changes))
    return path


def test_a_user_namespace_in_a_group(runtime: Runtime) -> None:
    bundle = mapped(runtime)
    pid = json.loads(runtime.ok("state", "c"))["pid"]
    groups = Path(f"/proc/{pid}/cgroup").read_text()
    assert f"pids:{runtime.cgroup}/{bundle.name}\n" in groups or f"0::{runtime.cgroup}/{bundle.name}\n" in groups
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "100000", "65536"]
    script = "id -u; cat /proc/self/uid_map /proc/self/cgroup; mkdir /made; ls -ld /made"
    out = runtime.ok("exec", "c", "sh", "-c", script)
    assert out.split()[:4] == ["0", "0", "100000", "65536"] and ":/\n" in out
    assert (bundle / "rootfs/made").stat().st_uid == 100000


def test_what_exec_says_of_its_process(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "60")
    runtime.ok("run", "--detach", "--bundle", bundle, "c")
    script = "grep Cpus_allowed_list /proc/self/status; cat /proc/self/oom_score_adj"
    own = sorted(os.sched_getaffinity(0))
    last, first = {"initial": str(own[-1])}, {"initial": "0-1023", "final": str(own[0])}
    for affinity, expected in ((last, own[-1]), (first, own[0])):
        path = process(bundle, "sh", "-c", script, execCPUAffinity=affinity, oomScoreAdj=555)
        assert runtime.ok("exec", "--process", path, "c").split()[1:] == [str(expected), "555"]
    path = process(bundle, "true", execCPUAffinity={"initial": "1000"})
    assert "process.execCPUAffinity.initial" in runtime.fails("exec", "--process", path, "c")


def test_exec_joins_a_time_namespace(runtime: Runtime) -> None:
    kinds = ("pid", "mount", "ipc", "uts", "network", "cgroup", "time")
    linux = {"namespaces": [{"type": kind} for kind in kinds], "timeOffsets": {"boottime": {"secs": 1000000}}}
    runtime.ok("run", "--detach", "--bundle", runtime.bundle("sleep", "60", linux=linux), "c")
    assert float(runtime.ok("exec", "c", "cat", "/proc/uptime").split()[0]) > 1000000
