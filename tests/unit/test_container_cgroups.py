"""Control groups on a folder that plays the kernel: which files are written and read, in versions 1, 2 and both."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel.container.cgroups import Cgroup, Cgroups, Place, fallback_rlimits, find_places, program
from vmcontainer_kernel.container.cgroups.trees import missing_reason, writable_places
from vmcontainer_kernel.container.spec import Cpu, Memory, Resources, Rlimit
from vmcontainer_kernel.errors import ContainerError, HostError, SpecError

LIMITS = Resources(Memory(1 << 26, swap_bytes=1 << 26), Cpu(quota_us=50_000, period_us=100_000), pids_limit=9)
V1 = """\
30 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
31 25 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:31 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids
33 25 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
"""
V2 = "40 25 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
NAMES = ("memory", "pids", "cpu", "cpuacct", "freezer")


def test_a_program_is_loaded_again_when_a_signal_has_stopped_the_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([errno.EAGAIN, errno.EAGAIN, 0])
    always = itertools.repeat(errno.EAGAIN)

    def bpf(_command: int, _attribute: object) -> int:
        if number := next(answers):
            raise OSError(number, os.strerror(number))
        return 7

    monkeypatch.setattr(program.linux, "bpf", bpf)
    assert program._load(program.assemble([])) == 7
    answers = always
    with pytest.raises(BlockingIOError):
        program._load(program.assemble([]))


# -- where controllers are


def test_places_of_version_1() -> None:
    places = find_places(V1)
    assert places["cpu"] == places["cpuacct"] == Place("/sys/fs/cgroup/cpu,cpuacct", 1)
    assert "freezer" not in places and "systemd" not in places


def test_places_of_version_2() -> None:
    places = find_places(V2, controllers_of_v2="cpuset cpu io memory pids misc\n")
    assert set(places) == {"memory", "pids", "cpu", "cpuacct", "freezer", "devices", "io", "cpuset"}
    assert {place.version for place in places.values()} == {2}


def test_places_of_a_hybrid_node() -> None:
    assert find_places(V1 + V2, controllers_of_v2="") == find_places(V1)
    places = find_places(V2 + V1.splitlines()[1], controllers_of_v2="pids")
    assert places["memory"].version == 1 and places["pids"].version == 2
    assert Cgroups(places, "s").kind == "hybrid"


def proc(root: Path, mountinfo: str, own: str) -> str:
    """A /proc with those mounts, and with this process in group `own`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(mountinfo)
    (root / "proc/self/cgroup").write_text(own)
    return str(root / "proc")


def handed_over(root: Path, *folders: str, procs: str = "") -> None:
    """Folders of a version 2 tree that an ordinary user may divide."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, text in (("cgroup.procs", procs), ("cgroup.subtree_control", ""), ("cgroup.controllers", "memory")):
            (root / folder / name).write_text(text)


@pytest.mark.parametrize(("mounted", "own"), [("/", "/a.slice/b.scope"), ("/docker/7", "/docker/7/a.slice/b.scope")])
@pytest.mark.parametrize(("busy", "parent"), [("", "/a.slice/b.scope"), ("41\n", "/a.slice")])
def test_an_ordinary_user_divides_the_nearest_folder_without_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: str, own: str, busy: str, parent: str
) -> None:
    tree = tmp_path / "tree"
    handed_over(tree, "a.slice")
    handed_over(tree, "a.slice/b.scope", procs=busy)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    folder = proc(tmp_path, f"40 25 0:40 {mounted} {tree} rw - cgroup2 cgroup2 rw\n", f"0::{own}\n")
    places = writable_places(folder)
    assert places["memory"] == Place(str(tree), 2, parent)
    assert "devices" not in places, "a program for devices is root's to attach"
    assert Cgroups(places, "s").path("c") == f"{parent}/vmcontainer/s/c"
    assert missing_reason(folder) == ""


def test_what_is_not_handed_over_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "cgroup.controllers").write_text("memory pids")
    folder = proc(tmp_path, f"40 25 0:40 / {tree} rw - cgroup2 cgroup2 rw\n", "0::/user.slice\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Cgroups.detect("s", folder) is None
    assert "/user.slice" in Cgroups.missing_reason(folder) and "Delegate" in Cgroups.missing_reason(folder)
    (tmp_path / "proc/self/mountinfo").write_text("")
    assert Cgroups.missing_reason(folder) == "no control group tree is mounted"


# -- making


def fake(root: Path, version: int) -> Cgroups:
    """Groups in folders that have the files a kernel would make."""
    places = {name: Place(str(root if version == 2 else root / name), version) for name in NAMES}
    for place in places.values():
        Path(place.root).mkdir(exist_ok=True)
    group = Path("vmcontainer/s/c")
    files = {
        1: ["memory/{}/memory.limit_in_bytes", "memory/{}/memory.memsw.limit_in_bytes", "cpu/{}/cpu.cfs_quota_us",
            "cpu/{}/cpu.cfs_period_us", "pids/{}/pids.max", "freezer/{}/freezer.state", "cpuacct/{}/x",
            *(f"{name}/{{}}/cgroup.procs" for name in NAMES)],
        2: ["{}/memory.max", "{}/memory.swap.max", "{}/cpu.max", "{}/pids.max", "cgroup.subtree_control",
            "vmcontainer/cgroup.subtree_control", "vmcontainer/s/cgroup.subtree_control", "{}/cgroup.freeze",
            "{}/cgroup.procs", "{}/cgroup.events"],
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


def test_making_a_group_can_be_explained(tmp_path: Path) -> None:
    first, *rows = fake(tmp_path, 2).group("c", LIMITS).describe()
    assert first["call"] == f"mkdir({tmp_path}/vmcontainer/s/c)"
    assert rows[0] == {"step": "memory.max", "call": f'write("{tmp_path}/vmcontainer/s/c/memory.max", "{1 << 26}")',
                       "why": "linux.resources.memory.limit", "source": "cgroups(7)"}  # fmt: skip
    assert [row["step"] for row in rows] == ["memory.max", "memory.swap.max", "cpu.max", "pids.max"]


def test_a_limit_without_its_controller_is_refused() -> None:
    groups = Cgroups(find_places(V2, controllers_of_v2="pids"), "s")
    groups.check(Resources(pids_limit=3))
    with pytest.raises(HostError, match="no memory controller") as caught:
        groups.check(Resources(Memory(1 << 20)))
    assert "--on vm" in caught.value.hint
    assert caught.value.where == "linux.resources.memory.limit"


def test_a_limit_without_its_file_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    groups = Cgroups({name: Place(str(tmp_path / name), 1) for name in NAMES}, "s")
    for name in NAMES:
        (tmp_path / name).mkdir()
    with pytest.raises(HostError, match=r"no pids\.max") as caught:
        groups.create("c", Resources(pids_limit=3))
    assert caught.value.where == "linux.resources.pids.limit"
    assert [*tmp_path.rglob("vmcontainer")] == []


def test_a_swap_limit_needs_no_file_where_there_is_no_swap_to_allow(tmp_path: Path) -> None:
    groups = fake(tmp_path, 2)
    swap = tmp_path / "vmcontainer/s/c/memory.swap.max"
    swap.unlink()
    groups.create("c", LIMITS)
    with pytest.raises(HostError, match=r"memory\.swap\.max"):
        groups.create("c", Resources(Memory(1 << 26, swap_bytes=1 << 27)))


def test_a_group_in_use_is_not_taken(tmp_path: Path) -> None:
    groups = fake(tmp_path, 2)
    (tmp_path / "vmcontainer/s/c/cgroup.procs").write_text("41\n")
    with pytest.raises(ContainerError, match="processes already"):
        groups.create("c", Resources())


@pytest.mark.parametrize(
    ("path", "below"), [("/a/b", "/a/b"), ("a/b", "/own/a/b"), ("", "/own/vmcontainer/s/c"), ("//a/./b/", "/a/b")]
)
def test_the_path_of_a_configuration_is_inside_of_the_tree(path: str, below: str) -> None:
    groups = Cgroups({name: Place("/tree", 2, "/own") for name in NAMES}, "s")
    assert groups.group("c", cgroups_path=path).directories == [f"/tree{below}"]


@pytest.mark.parametrize("path", ["/", "..", "/a/../../b", "a/..", "/\0"])
def test_a_path_out_of_the_tree_or_its_very_top_is_refused(path: str) -> None:
    groups = Cgroups({name: Place("/tree", 2) for name in NAMES}, "s")
    with pytest.raises(SpecError, match=r"linux\.cgroupsPath"):
        groups.group("c", cgroups_path=path)


# -- counters


def test_numbers_of_version_2(tmp_path: Path) -> None:
    group = fake(tmp_path, 2).create("c", Resources())
    folder = tmp_path / "vmcontainer/s/c"
    for name, text in {
        "memory.current": "4096\n", "memory.max": "max\n", "memory.events": "low 0\nmax 4\noom 2\noom_kill 1\n",
        "memory.peak": "8192\n", "memory.swap.current": "1024\n", "memory.stat": "anon 1000\nfile 3000\n",
        "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnr_periods 10\nnr_throttled 4\n"
                    "throttled_usec 500000\n", "cpu.max": "max 100000\n",
        "pids.current": "3\n", "pids.max": "max\n", "pids.events": "max 5\n",
        "memory.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=2000000\n"
                           "full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    assert group.stats() == {
        "memory": {"usage_bytes": 4096, "limit_bytes": None, "oom_kills": 1, "peak_bytes": 8192, "swap_bytes": 1024,
                   "cache_bytes": 3000, "anonymous_bytes": 1000},
        "cpu": {"usage_s": 2.5, "limit_cpus": None, "throttled_s": 0.5, "user_s": 2.0, "system_s": 0.5, "periods": 10,
                "throttled_periods": 4},
        "pids": {"current": 3, "limit": None, "denied": 5},
        "io": [], "hugepages": [],
        "pressure": {"memory": {"some_percent": 1.5, "some_s": 2.0, "full_percent": 0.0, "full_s": 1e-6}},
    }  # fmt: skip
    assert group.events() == {"oom_kills": 1, "pids_denied": 5}
    assert group.shown() == {"": str(folder)}


def test_numbers_of_version_1(tmp_path: Path) -> None:
    group = fake(tmp_path, 1).create("c", Resources())
    for name, text in {
        "memory/memory.usage_in_bytes": "4096", "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n",
        "memory/memory.max_usage_in_bytes": "5000", "memory/memory.stat": "total_cache 1\ntotal_rss 2\ntotal_swap 3\n",
        "cpu/cpu.stat": "nr_periods 1\nnr_throttled 1\nthrottled_time 1500000000\n", "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000", "cpuacct/cpuacct.usage": "2000000000",
        "cpuacct/cpuacct.usage_user": "1500000000",
        "pids/pids.current": "1", "pids/pids.max": "9", "pids/pids.events": "max 2",
    }.items():  # fmt: skip
        controller, file = name.split("/")
        (tmp_path / controller / "vmcontainer/s/c" / file).write_text(text)
    assert group.stats() == {
        "memory": {"usage_bytes": 4096, "limit_bytes": None, "oom_kills": 7, "peak_bytes": 5000, "swap_bytes": 3,
                   "cache_bytes": 1, "anonymous_bytes": 2},
        "cpu": {"usage_s": 2.0, "limit_cpus": None, "throttled_s": 1.5, "user_s": 1.5, "system_s": None, "periods": 1,
                "throttled_periods": 1},
        "pids": {"current": 1, "limit": 9, "denied": 2},
        "io": [], "hugepages": [], "pressure": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("version", "controller", "files"),
    [
        (2, "io", {"io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n253:1 \n",
                      "io.max": "8:0 rbps=1024 wbps=max riops=max wiops=max\n"}),
        (1, "blkio", {
            "blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n",
            "blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
            "blkio.throttle.read_bps_device": "8:0 1024\n",
        }),
    ],
)  # fmt: skip
def test_numbers_of_block_devices(tmp_path: Path, version: int, controller: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    group = Cgroup("c", {controller: str(tmp_path)}, {controller: Place("/", version)})
    row = group.stats()["io"][0]
    counted = {"read_bytes": 10, "written_bytes": 20, "read_operations": 1, "write_operations": 2}
    assert row == {"device": "8:0", **counted, "read_limit_bytes_per_s": 1024, "write_limit_bytes_per_s": None}
    entries = group.oci_stats()["blkio"]
    assert entries["ioServiceBytesRecursive"][1] == {"major": 8, "minor": 0, "op": "Write", "value": 20}


def test_numbers_of_huge_pages(tmp_path: Path) -> None:
    for name, text in {"hugetlb.2MB.current": "0", "hugetlb.2MB.max": "max", "hugetlb.2MB.rsvd.max": "max"}.items():
        (tmp_path / name).write_text(text)
    group = Cgroup("c", {"hugetlb": str(tmp_path)}, {"hugetlb": Place("/", 2)})
    assert group.stats()["hugepages"] == [{"page_size": "2MB", "usage_bytes": 0, "limit_bytes": None}]


def test_without_groups_nothing_is_counted() -> None:
    stats: dict[str, Any] = Cgroup("c", {}, {}).stats()
    assert {value for part in ("memory", "cpu", "pids") for value in stats[part].values()} == {None}


# -- freezing and the end


@pytest.mark.parametrize(
    ("version", "name", "words", "state"),
    [
        (1, "freezer/vmcontainer/s/c/freezer.state", ("FROZEN", "THAWED"), None),
        (2, "vmcontainer/s/c/cgroup.freeze", ("1", "0"), "vmcontainer/s/c/cgroup.events"),
    ],
)
def test_freezing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, name: str, words: tuple[str, str], state: str | None
) -> None:
    group = fake(tmp_path, version).create("c", Resources())
    if state:
        (tmp_path / state).write_text("populated 1\nfrozen 1\n")
    group.freeze()
    assert (tmp_path / name).read_text() == words[0]
    assert group.is_frozen()
    (tmp_path / name).write_text("")
    group.thaw()
    assert (tmp_path / name).read_text() == words[1]


def test_what_does_not_freeze_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = fake(tmp_path, 2).create("c", Resources())
    (tmp_path / "vmcontainer/s/c/cgroup.events").write_text("frozen 0\n")
    monkeypatch.setattr("vmcontainer_kernel.container.cgroups.group._FREEZE_S", 0.01)
    with pytest.raises(ContainerError, match="do not stop"):
        group.freeze()
    assert (tmp_path / "vmcontainer/s/c/cgroup.freeze").read_text() == "0"


def test_a_group_that_does_not_empty_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = fake(tmp_path, 2).create("c", Resources())
    (tmp_path / "vmcontainer/s/c/cgroup.procs").write_text("41\n42\n")
    monkeypatch.setattr("vmcontainer_kernel.container.cgroups.group._REMOVE_S", 0.01)
    with pytest.raises(ContainerError, match=r"\[41, 42\]"):
        group.remove()


# -- without groups


def test_limits_of_processes_where_no_group_can_be_made() -> None:
    found = fallback_rlimits(LIMITS)
    assert found.rlimits == (Rlimit("RLIMIT_AS", 1 << 26, 1 << 26), Rlimit("RLIMIT_NPROC", 9, 9))
    assert "each process" in found.loss and "each user of the container" in found.loss
    assert "cpu: not limited" in found.loss
    assert fallback_rlimits(Resources()) == fallback_rlimits(Resources(pids_limit=-1))
    assert fallback_rlimits(Resources()).loss == ""
