"""Control groups on a folder that plays the kernel: which files are written and read, in versions 1, 2 and both."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmcontainer_kernel.container.cgroups import Cgroups, Place, find_places
from vmcontainer_kernel.container.spec import Cpu, Memory, Resources
from vmcontainer_kernel.errors import ContainerError, HostError

LIMITS = Resources(Memory(1 << 26), Cpu(quota_us=50_000, period_us=100_000), pids_limit=9)
V1 = """\
30 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
31 25 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:31 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids
33 25 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
"""
V2 = "40 25 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def test_places_of_version_1() -> None:
    places = find_places(V1)
    assert places["cpu"] == places["cpuacct"] == Place("/sys/fs/cgroup/cpu,cpuacct", 1)
    assert "freezer" not in places and "systemd" not in places


def test_places_of_version_2() -> None:
    places = find_places(V2, controllers_of_v2="cpuset cpu io memory pids\n")
    assert set(places) == {"memory", "pids", "cpu", "cpuacct", "freezer"}
    assert {place.version for place in places.values()} == {2}


def test_places_of_a_hybrid_node() -> None:
    assert find_places(V1 + V2, controllers_of_v2="") == find_places(V1)
    places = find_places(V2 + V1.splitlines()[1], controllers_of_v2="pids")
    assert places["memory"].version == 1 and places["pids"].version == 2
    assert Cgroups(places, "s").kind == "hybrid"


def fake(root: Path, version: int) -> Cgroups:
    names = ("memory", "pids", "cpu", "cpuacct", "freezer")
    places = {name: Place(str(root if version == 2 else root / name), version) for name in names}
    for place in places.values():
        Path(place.root).mkdir(exist_ok=True)
    group = Path("vmcontainer/s/c")
    files = {
        1: ["memory/{}/memory.limit_in_bytes", "memory/{}/memory.memsw.limit_in_bytes", "cpu/{}/cpu.cfs_quota_us",
            "cpu/{}/cpu.cfs_period_us", "pids/{}/pids.max", "freezer/{}/freezer.state"],
        2: ["{}/memory.max", "{}/memory.swap.max", "{}/cpu.max", "{}/pids.max", "cgroup.subtree_control",
            "vmcontainer/cgroup.subtree_control", "vmcontainer/s/cgroup.subtree_control", "{}/cgroup.freeze"],
    }[version]  # fmt: skip
    for name in files:
        path = root / name.format(group)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return Cgroups(places, "s")


def test_limits_of_version_1(tmp_path: Path) -> None:
    fake(tmp_path, 1).create("c", LIMITS)
    read = {path.name: path.read_text() for path in tmp_path.rglob("*/vmcontainer/s/c/*")}
    assert read["memory.limit_in_bytes"] == read["memory.memsw.limit_in_bytes"] == str(1 << 26)
    assert (read["cpu.cfs_quota_us"], read["cpu.cfs_period_us"], read["pids.max"]) == ("50000", "100000", "9")


def test_limits_of_version_2(tmp_path: Path) -> None:
    fake(tmp_path, 2).create("c", LIMITS)
    group = tmp_path / "vmcontainer/s/c"
    assert (group / "memory.max").read_text() == str(1 << 26)
    assert (group / "memory.swap.max").read_text() == "0"
    assert (group / "cpu.max").read_text() == "50000 100000"
    assert (group / "pids.max").read_text() == "9"
    for folder in (tmp_path, tmp_path / "vmcontainer", tmp_path / "vmcontainer/s"):
        assert set((folder / "cgroup.subtree_control").read_text().split()) == {"+memory", "+pids", "+cpu"}
    assert not (group / "cgroup.subtree_control").exists()


def test_numbers_of_version_2(tmp_path: Path) -> None:
    group = fake(tmp_path, 2).create("c", Resources())
    folder = tmp_path / "vmcontainer/s/c"
    for name, text in {
        "memory.current": "4096\n", "memory.max": "max\n", "memory.events": "low 0\nmax 4\noom 2\noom_kill 1\n",
        "cpu.stat": "usage_usec 2500000\nthrottled_usec 500000\n", "cpu.max": "max 100000\n",
        "pids.current": "3\n", "pids.max": "max\n", "pids.events": "max 5\n",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    assert group.stats() == {
        "memory": {"usage_bytes": 4096, "limit_bytes": None, "oom_kills": 1},
        "cpu": {"usage_s": 2.5, "limit_cpus": None, "throttled_s": 0.5},
        "pids": {"current": 3, "limit": None, "denied": 5},
    }
    assert group.events() == {"oom_kills": 1, "pids_denied": 5}
    assert group.shown() == {"": str(folder)}


def test_numbers_of_version_1(tmp_path: Path) -> None:
    group = fake(tmp_path, 1).create("c", Resources())
    for name, text in {
        "memory/memory.usage_in_bytes": "4096", "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n",
        "cpu/cpu.stat": "nr_periods 1\nthrottled_time 1500000000\n", "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000", "cpuacct/cpuacct.usage": "2000000000",
        "pids/pids.current": "1", "pids/pids.max": "9", "pids/pids.events": "max 2",
    }.items():  # fmt: skip
        controller, file = name.split("/")
        (tmp_path / controller / "vmcontainer/s/c" / file).write_text(text)
    assert group.stats() == {
        "memory": {"usage_bytes": 4096, "limit_bytes": None, "oom_kills": 7},
        "cpu": {"usage_s": 2.0, "limit_cpus": None, "throttled_s": 1.5},
        "pids": {"current": 1, "limit": 9, "denied": 2},
    }


def test_freezing(tmp_path: Path) -> None:
    for version, name, words in (
        (1, "freezer/vmcontainer/s/c/freezer.state", ("FROZEN", "THAWED")),
        (2, "vmcontainer/s/c/cgroup.freeze", ("1", "0")),
    ):
        root = tmp_path / str(version)
        root.mkdir()
        group = fake(root, version).create("c", Resources())
        (root / name).write_text("")
        group.freeze()
        assert (root / name).read_text().startswith(words[0])
        (root / name).write_text("")
        group.thaw()
        assert (root / name).read_text() == words[1]


def test_a_limit_without_its_controller_is_refused() -> None:
    groups = Cgroups(find_places(V2, controllers_of_v2="pids"), "s")
    groups.check(Resources(pids_limit=3))
    with pytest.raises(HostError, match="no memory controller") as caught:
        groups.check(Resources(Memory(1 << 20)))
    assert "--on vm" in caught.value.hint


def test_a_group_that_does_not_empty_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = fake(tmp_path, 2).create("c", Resources())
    (tmp_path / "vmcontainer/s/c/cgroup.procs").write_text("41\n42\n")
    monkeypatch.setattr("vmcontainer_kernel.container.cgroups._REMOVE_S", 0.01)
    with pytest.raises(ContainerError, match=r"\[41, 42\]"):
        group.remove()
