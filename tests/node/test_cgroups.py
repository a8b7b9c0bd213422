"""Version 1 control groups on this host: every limit as the kernel has taken it, freezing, notices and the end."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.patience import now_s
from vmcontainer_kernel.container.cgroups import Cgroup, Cgroups
from vmcontainer_kernel.container.spec import BlockIO, Cpu, DeviceRule, Memory, Resources
from vmcontainer_kernel.errors import ContainerError, HostError

from .oci_runtime import Runtime, our_runtime, wait_until

pytestmark = pytest.mark.needs("cgroups")
ROOT = Path(__file__).parents[2]
LIMIT_S = 10.0

# A process that enters a group by itself, as a container does; then it runs what it is given.
MEMBER = """
import os, sys
from vmcontainer_kernel.container.cgroups import Cgroups
groups = Cgroups.detect(sys.argv[1])
group = groups.open(sys.argv[2])
if group.has_version_2:
    open(f"{group.directories[0]}/cgroup.procs", "w").write("0")
group.join()
print("in", flush=True)
exec(sys.argv[3])
"""


@pytest.fixture
def groups() -> Iterator[Cgroups]:
    found = Cgroups.detect(f"test-{os.getpid()}")
    assert found
    if found.kind != "v1":
        pytest.skip("cgroups: version 2 is tested in a guest")
    yield found
    found.close()
    assert [*Path("/sys/fs/cgroup").glob(f"*/vmcontainer/test-{os.getpid()}")] == []


def member(groups: Cgroups, group: Cgroup, source: str) -> subprocess.Popen[bytes]:
    """Start a process in the group; return when it is in it."""
    command = [sys.executable, "-S", "-c", MEMBER, groups.session, group.name, source]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)})
    assert process.stdout and process.stdout.readline() == b"in\n"
    return process


def until(done: Callable[[], bool]) -> None:
    end = now_s() + LIMIT_S
    while not done():
        assert now_s() < end, "it did not happen in time"
        time.sleep(0.01)


def text(group: Cgroup, controller: str, name: str) -> str:
    return Path(group.paths[controller], name).read_text().strip()


def test_the_kernel_has_taken_each_limit(groups: Cgroups) -> None:
    group = groups.create(
        "c",
        Resources(
            Memory(64 << 20, 32 << 20, 96 << 20, swappiness=7, disable_oom_killer=True, use_hierarchy=True),
            Cpu(shares=512, quota_us=20_000, period_us=40_000, burst_us=1000, cpus="0", mems="0"),
            pids_limit=33,
        ),
    )
    for controller, name, wanted in (
        ("memory", "memory.limit_in_bytes", str(64 << 20)),
        ("memory", "memory.soft_limit_in_bytes", str(32 << 20)),
        ("memory", "memory.memsw.limit_in_bytes", str(96 << 20)),
        ("memory", "memory.swappiness", "7"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "20000"),
        ("cpu", "cpu.cfs_period_us", "40000"),
        ("cpu", "cpu.cfs_burst_us", "1000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("pids", "pids.max", "33"),
    ):
        assert text(group, controller, name) == wanted, name
    assert text(group, "memory", "memory.oom_control").startswith("oom_kill_disable 1")
    group.remove()
    assert not any(Path(path).exists() for path in group.directories)


def test_the_folders_above_weigh_as_a_busy_process_for_each_processor(groups: Cgroups) -> None:
    mine = Path(groups.create("c", Resources()).paths["cpu"])
    weights = [(folder / "cpu.shares").read_text().strip() for folder in (mine, mine.parent, mine.parent.parent)]
    assert weights == ["1024", *[str(1024 * (os.cpu_count() or 1))] * 2]


def test_only_the_trees_that_are_needed_get_a_group(groups: Cgroups) -> None:
    assert set(groups.create("c", Resources()).paths) == {"memory", "pids", "cpu", "cpuacct", "freezer"}
    more = Resources(cpu=Cpu(cpus="0"), devices=(DeviceRule(False),))
    assert {"cpuset", "devices"} < set(groups.create("d", more).paths)
    assert {"cpuset", "devices"} < set(groups.open("d").paths)
    assert not {"cpuset", "devices"} & set(groups.open("c").paths)


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        (Resources(Memory(kernel_bytes=1 << 20)), "memory.kernel"),  # kept for old programs only, since Linux 5.16
        (Resources(cpu=Cpu(cpus="0-9999")), "cpu.cpus"),
        (Resources(cpu=Cpu(quota_us=5)), "cpu.quota"),
        (Resources(cpu=Cpu(shares=2, mems="77")), "cpu.mems"),
        (Resources(Memory(1 << 62, swappiness=7), pids_limit=2**60), "pids.limit"),
    ],
)
def test_what_the_kernel_refuses_is_named_and_nothing_stays(groups: Cgroups, resources: Resources, field: str) -> None:
    with pytest.raises(HostError) as caught:
        groups.create("c", resources)
    assert caught.value.where == f"linux.resources.{field}"
    assert groups.names() == []


def test_a_controller_this_host_lacks_is_named(groups: Cgroups) -> None:
    if "net_cls" in groups.places:
        pytest.skip("cgroups: this host has the controller")
    with pytest.raises(HostError, match="net_cls") as caught:
        groups.create("c", Resources(class_id=1))
    assert caught.value.where == "linux.resources.network.classID"


def test_devices_are_denied_and_allowed(groups: Cgroups) -> None:
    group = groups.create("c", Resources(devices=(DeviceRule(False), DeviceRule(True, "c", 10, 229, "rw"))))
    lines = text(group, "devices", "devices.list").splitlines()
    assert "c 10:229 rw" in lines and "c 1:3 rwm" in lines and "a *:* rwm" not in lines
    source = """
import os
os.mknod(path := f"/tmp/vmcontainer-kmsg-{os.getpid()}", 0o600 | 0o020000, os.makedev(1, 11))
try:
    open("/dev/null").close()
    open(path).close()
    print("opened")
except PermissionError:
    print("denied")
finally:
    os.unlink(path)
"""
    process = member(groups, group, source)
    assert process.stdout and process.stdout.read() == b"denied\n"
    process.wait(LIMIT_S)


def test_a_group_somewhere_else(groups: Cgroups) -> None:
    path = f"/vmcontainer/{groups.session}/pod/inner"
    group = groups.create("c", Resources(pids_limit=5, cpu=Cpu(cpus="0")), path)
    assert group.paths["pids"] == f"{groups.places['pids'].root}{path}"
    assert text(group, "pids", "pids.max") == "5"
    assert groups.open("c", path).paths == group.paths
    group.remove()


def test_a_group_with_processes_is_not_taken(groups: Cgroups) -> None:
    group = groups.create("c", Resources())
    process = member(groups, group, "import time; time.sleep(60)")
    with pytest.raises(ContainerError, match="processes already"):
        groups.create("c", Resources())
    assert process.poll() is None
    group.kill()
    process.wait(LIMIT_S)


def test_freezing_waits_until_all_stand_still(groups: Cgroups) -> None:
    group = groups.create("c", Resources())
    process = member(groups, group, "while True: print('x' * 60)")
    group.freeze()
    assert group.is_frozen() and text(group, "freezer", "freezer.state") == "FROZEN"
    used = group.stats()["cpu"]["usage_s"]
    time.sleep(0.1)
    assert group.stats()["cpu"]["usage_s"] == used > 0
    group.thaw()
    assert not group.is_frozen()
    group.freeze()
    group.kill()
    assert process.wait(LIMIT_S) == -9
    group.remove()


def test_groups_that_a_container_made_below_its_own_end_with_it(groups: Cgroups) -> None:
    group = groups.create("c", Resources())
    source = """
import os, time
for tree in ("memory", "pids", "cpu"):
    os.makedirs(f"{group.paths[tree]}/a/b", exist_ok=True)
    open(f"{group.paths[tree]}/a/b/tasks", "w").write("0")
print("moved", flush=True)
time.sleep(60)
"""
    process = member(groups, group, source)
    assert process.stdout and process.stdout.readline() == b"moved\n"
    assert group.pids(recursive=False) == []
    assert group.pids() == [process.pid]
    group.kill()
    assert process.wait(LIMIT_S) == -9
    group.remove()
    assert groups.names() == []


def test_a_fork_bomb_is_counted_and_killed(groups: Cgroups) -> None:
    group = groups.create("c", Resources(pids_limit=20))
    source = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    process = member(groups, group, source)
    until(lambda: group.events()["pids_denied"] > 0)
    group.kill()
    process.wait(LIMIT_S)
    group.remove()


GROW = "x = []\nwhile True: x.append(bytearray(1 << 20))"


def test_the_kernel_tells_of_an_oom_kill(groups: Cgroups) -> None:
    group = groups.create("c", Resources(Memory(24 << 20, swap_bytes=24 << 20)))
    watch = group.watch()
    try:
        assert watch.polled == ("pids_denied",), "version 1 tells of no denied fork"
        assert not select.select([watch.fd], [], [], 0)[0]
        process = member(groups, group, GROW)
        assert select.select([watch.fd], [], [], LIMIT_S)[0]
        assert process.wait(LIMIT_S) == -9
        until(lambda: watch.read()["oom_kills"] == 1)
        assert not select.select([watch.fd], [], [], 0)[0]
        group.remove()
        assert watch.read() == {"oom_kills": 1, "pids_denied": 0}, "what is gone keeps its last count"
    finally:
        watch.close()


def test_limits_change_while_it_runs(groups: Cgroups) -> None:
    group = groups.create("c", Resources(Memory(64 << 20, swap_bytes=64 << 20), Cpu(quota_us=50_000)))
    process = member(
        groups, group, "import time; x = bytearray(b'x' * (20 << 20)); print('big', flush=True); time.sleep(60)"
    )
    assert process.stdout and process.stdout.readline() == b"big\n"
    for mib in (128, 32, 256):  # up and down: memory and memsw bound each other
        group = groups.update(group, Resources(Memory(mib << 20, swap_bytes=mib << 20), Cpu(quota_us=mib * 1000)))
        assert group.stats()["memory"]["limit_bytes"] == mib << 20
        assert group.stats()["cpu"]["limit_cpus"] == mib / 100
    with pytest.raises(ContainerError, match="in use") as caught:
        groups.update(group, Resources(Memory(8 << 20, check_before_update=True)))
    assert caught.value.where == "linux.resources.memory.limit"
    group = groups.update(group, Resources(cpu=Cpu(cpus="0"), pids_limit=7))
    assert Path(group.paths["cpuset"], "cgroup.procs").read_text().split() == [str(process.pid)]
    assert os.sched_getaffinity(process.pid) == {0}
    group.kill()
    process.wait(LIMIT_S)
    group.remove()
    assert groups.names() == []


def test_counters_count(groups: Cgroups) -> None:
    group = groups.create("c", Resources(Memory(256 << 20), block_io=BlockIO()))
    source = """
import time
x = bytearray(b"x" * (30 << 20))
for _ in range(10**6): pass
print("done", flush=True)
time.sleep(60)
"""
    process = member(groups, group, source)
    assert process.stdout and process.stdout.readline() == b"done\n"
    stats = group.stats()
    assert stats["memory"]["anonymous_bytes"] > 30 << 20
    assert stats["memory"]["peak_bytes"] >= stats["memory"]["usage_bytes"] > 30 << 20
    assert 0 < stats["cpu"]["usage_s"] < 10
    assert stats["pids"] == {"current": 1, "limit": None, "denied": 0}
    form = group.oci_stats()
    assert form["memory"]["usage"]["limit"] == 256 << 20
    assert form["memory"]["raw"]["total_rss"] > 30 << 20
    assert form["cpu"]["usage"]["total"] >= round(stats["cpu"]["usage_s"] * 1e9)
    assert form["pids"] == {"current": 1, "limit": 0}
    group.kill()
    process.wait(LIMIT_S)


# -- through the command line


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with our_runtime(tmp_path) as runtime:
        yield runtime


RESOURCES = {
    "memory": {"limit": 64 << 20, "swap": 64 << 20},
    "cpu": {"shares": 512, "cpus": "0"},
    "pids": {"limit": 12},
    "devices": [{"allow": False, "access": "rwm"}],
}


def test_a_bundles_container_is_in_the_trees_of_its_limits(runtime: Runtime) -> None:
    bundle = runtime.bundle(linux={"resources": RESOURCES})
    runtime.ok("create", "--bundle", bundle, "c")
    runtime.ok("start", "c")
    pid = json.loads(runtime.ok("state", "c"))["pid"]
    own = Path(f"/proc/{pid}/cgroup").read_text()
    in_trees = {line.split(":")[1] for line in own.splitlines() if line.endswith(f"{runtime.cgroup}/bundle")}
    assert {"cpuset", "devices", "memory", "pids", "cpu", "cpuacct", "freezer"} <= in_trees
    assert os.sched_getaffinity(pid) == {0}
    stats = json.loads(runtime.ok("events", "--stats", "c"))["data"]
    assert stats["memory"]["usage"]["limit"] == 64 << 20
    assert stats["pids"] == {"current": 1, "limit": 12}
    runtime.ok("update", "--memory", str(128 << 20), "--memory-swap", str(128 << 20), "--blkio-weight", "0", "c")
    stats = json.loads(runtime.ok("events", "--stats", "c"))["data"]
    assert stats["memory"]["usage"]["limit"] == 128 << 20
    runtime.ok("delete", "--force", "c")
    wait_until(lambda: runtime.groups() == [])


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"cpu": {"cpus": "0-9999"}}, "cpu.cpus"),
        ({"network": {"classID": 1}}, "network.classID"),
        ({"unified": {"memory.high": "1"}}, "unified"),
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]}, "hugepageLimits"),
    ],
)
def test_what_cannot_be_kept_is_named_and_leaves_no_container(runtime: Runtime, resources: dict, field: str) -> None:
    bundle = runtime.bundle(linux={"resources": resources})
    assert f"linux.resources.{field}" in runtime.fails("create", "--bundle", bundle, "c")
    assert "does not exist" in runtime.fails("state", "c")
    assert runtime.groups() == []
