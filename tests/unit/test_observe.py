"""The kernel view, from a folder that looks like /proc: whose process is whose, with no live kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel.agent import observe, processes
from vmcontainer_kernel.agent.processes import Processes, descendants, process

HOST, INNER = 4026531836, 4026532001


class Proc:
    """A folder with the files of proc(5) that the view reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("meminfo", "MemTotal:       16384 kB\nMemAvailable:    8192 kB\n")
        self.write("uptime", "100.50 90.00\n")
        self.write("loadavg", "0.25 0.10 0.05 1/99 7\n")
        self.write("sys/kernel/osrelease", "6.1.0-test\n")
        self.write("sys/kernel/hostname", "box\n")
        self.write("sys/kernel/random/boot_id", "abc\n")

    def write(self, name: str, text: str | bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def add(
        self,
        pid: int,
        ppid: int,
        comm: str = "sh",
        *,
        space: int = HOST,
        nspid: str = "",
        children: str = "",
        vsize: int = 1,
    ) -> None:
        numbers = ["0"] * 50
        numbers[0], numbers[1], numbers[11], numbers[12], numbers[20], numbers[21] = (
            "S",
            str(ppid),
            "150",
            "50",
            str(vsize),
            "3",
        )
        self.write(f"{pid}/stat", f"{pid} ({comm}) {' '.join(numbers)}\n")
        self.write(f"{pid}/status", f"Name:\t{comm}\nUid:\t1000\t1000\t1000\t1000\nNSpid:\t{nspid or pid}\n")
        self.write(f"{pid}/cmdline", f"{comm}\0-c\0echo \xff\0".encode("latin-1"))
        self.write(f"{pid}/task/{pid}/children", children)
        (self.root / str(pid) / "ns").mkdir()
        (self.root / str(pid) / "ns" / "pid").symlink_to(f"pid:[{space}]")

    def remove(self, pid: int) -> None:
        (self.root / str(pid) / "stat").unlink()

    def view(self, *pids: int, containers: Any = (), **more: Any) -> dict[str, Any]:
        found = observe.Observer(agent_pid=10, cgroup="v2", proc=str(self.root))
        return found.look("host", containers, pids=pids or descendants(1, str(self.root)), **more)

    def process(self, pid: int) -> dict[str, Any] | None:
        return process(pid, str(self.root))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_one_process(proc: Proc) -> None:
    proc.add(41, 10, nspid="41\t1")
    row = proc.process(41)
    assert row is not None
    ticks, page = processes._TICKS, processes._PAGE
    assert row["pids"] == [41, 1]
    assert (row["ppid"], row["state"], row["uid"]) == (10, "S", 1000)
    assert row["cpu_s"] == round(200 / ticks, 2)
    assert row["rss_bytes"] == 3 * page
    assert row["command"] == "sh -c echo \N{REPLACEMENT CHARACTER}"
    assert row["namespaces"] == {kind: HOST if kind == "pid" else None for kind in processes.NAMESPACES}


@pytest.mark.parametrize("comm", ["a) S 1 (b", "x y", "(((", ") ) )"])
def test_a_name_may_hold_anything(proc: Proc, comm: str) -> None:
    proc.add(7, 1, comm)
    row = proc.process(7)
    assert row is not None
    assert (row["ppid"], row["comm"]) == (1, comm)


def test_a_process_that_is_gone_or_half_gone_is_no_row(proc: Proc) -> None:
    proc.add(7, 1)
    proc.write("7/stat", "")
    assert proc.process(7) is None
    assert proc.process(8) is None


def test_descendants(proc: Proc) -> None:
    proc.add(10, 1, children="11 12 ")
    proc.add(11, 10, children="13")
    proc.add(12, 10)
    proc.add(13, 11)
    proc.add(99, 1)
    root = str(proc.root)
    assert descendants(10, root) == [10, 11, 12, 13]
    assert descendants(10, root, leaves=[11]) == [10, 11, 12]
    assert descendants(10, root, most=2) == [10, 11, 12]
    assert descendants(555, root) == [555]


def test_roles(proc: Proc) -> None:
    proc.add(1, 0, "init")
    proc.add(10, 1, "agent")
    proc.add(20, 10, "sleep", space=INNER, nspid="20 1")
    proc.add(21, 20, "child", space=INNER, nspid="21 2")
    proc.add(22, 10, "exec", space=INNER, nspid="22 3")
    proc.add(30, 10, "qemu")
    proc.add(40, 10, "flat")  # a container that shares the node's pid namespace
    proc.add(41, 40, "below")
    containers = [{"name": "web", "pid": 20}, {"name": "flat", "pid": 40}, {"name": "over", "pid": 0}]
    pids = (1, 10, 20, 21, 22, 30, 40, 41)
    rows = {row["pid"]: row for row in proc.view(*pids, containers=containers, machines=(30,))["processes"]}
    assert {pid: (row["role"], row["container"]) for pid, row in rows.items()} == {
        1: ("init", None),
        10: ("agent", None),
        20: ("container", "web"),
        21: ("container", "web"),
        22: ("container", "web"),
        30: ("machine", None),
        40: ("container", "flat"),
        41: ("container", "flat"),
    }


def test_the_document(proc: Proc) -> None:
    proc.add(10, 1)
    view = proc.view(10)
    assert (view["kind"], view["version"], view["node"]) == ("kernel", 1, "host")
    assert view["memory"] == {"total_bytes": 16 << 20, "available_bytes": 8 << 20}
    kernel = view["kernel"]
    assert (kernel["release"], kernel["hostname"], kernel["boot_id"]) == ("6.1.0-test", "box", "abc")
    assert (kernel["uptime_s"], kernel["load_1min"], kernel["cgroup"]) == (100.5, 0.25, "v2")


def test_every_number_declares_its_unit(proc: Proc) -> None:
    proc.add(10, 1)
    view = proc.view(10)
    numbers = {
        *(f"kernel.{key}" for key, value in view["kernel"].items() if isinstance(value, int | float)),
        *(f"memory.{key}" for key in view["memory"]),
        *(f"processes[].{key}" for key in view["processes"][0] if key.endswith(("_s", "_bytes"))),
    }
    assert numbers - set(view["units"]) == set()
    assert {kind for _, kind in view["units"].values()} == {"counter", "level"}


def test_what_seldom_changes_is_kept_until_another_program_runs(proc: Proc) -> None:
    kept = Processes(str(proc.root))
    proc.add(7, 1)
    assert kept.rows([7])[0]["command"] == "sh -c echo \N{REPLACEMENT CHARACTER}"
    proc.write("7/cmdline", "other\0")
    assert kept.rows([7])[0]["command"].startswith("sh")
    assert kept.rows([7], fresh=True)[0]["command"] == "other"
    proc.write("7/cmdline", "third\0")
    proc.write("7/stat", (proc.root / "7/stat").read_text().replace("(sh)", "(third)"))
    assert (kept.rows([7])[0]["command"], kept.rows([7])[0]["comm"]) == ("third", "third")


def test_ids_that_change_without_another_program_are_seen_after_a_while(proc: Proc) -> None:
    kept = Processes(str(proc.root))
    proc.add(7, 1)
    kept.rows([7])
    proc.write("7/status", "Name:\tsh\nUid:\t0\t0\t0\t0\nNSpid:\t7\n")
    assert 0 in [kept.rows([7])[0]["uid"] for _ in range(20)]


def test_a_row_belongs_to_who_asked(proc: Proc) -> None:
    kept = Processes(str(proc.root))
    proc.add(7, 1)
    kept.rows([7])[0]["role"] = "mine"
    assert "role" not in kept.rows([7])[0]


def test_of_a_crowd_some_are_read_at_each_look_and_all_in_turn(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "RENEWED", 3)
    monkeypatch.setattr(processes, "MAX_PROCESSES", 8)
    pids = range(100, 110)
    for pid in pids:
        proc.add(pid, 1)
    kept, root = Processes(str(proc.root)), str(proc.root)
    reads: list[int] = []
    real = processes._stat
    monkeypatch.setattr(processes, "_stat", lambda pid, proc: (reads.append(pid), real(pid, proc))[1])
    assert [len(kept.rows(pids)) for _ in range(3)] == [3, 6, 8]
    assert (len(reads), set(reads)) == (9, set(range(100, 108)))
    proc.remove(104)
    assert 104 not in [row["pid"] for row in [kept.rows(pids) for _ in range(3)][-1]]
    assert process(104, root) is None


def test_the_whole_kernels_pressure(proc: Proc) -> None:
    proc.add(10, 1)
    assert proc.view(10)["pressure"] is None
    assert "CONFIG_PSI" in proc.view(10)["missing"]["pressure"]
    proc.write("pressure/cpu", "some avg10=1.50 avg60=0.00 avg300=0.00 total=2500000\n")
    assert proc.view(10)["pressure"] == {"cpu": {"some_percent": 1.5, "some_s": 2.5}}
    assert "pressure" not in proc.view(10)["missing"]


@pytest.mark.parametrize(
    ("cgroup", "paths"),
    [
        ("v2", set()),
        ("hybrid", {"containers[].pressure", "containers[].io"}),
        ("none", {f"containers[].{one}" for one in ("memory", "cpu", "pids", "io", "pressure")}),
    ],
)
def test_what_is_missing_has_a_reason(cgroup: str, paths: set[str]) -> None:
    missing = observe.missing_of(cgroup, [], [{"name": "web"}], {})
    assert set(missing) == paths
    assert all(missing.values())


def test_an_empty_proc_gives_a_view_still(tmp_path: Path) -> None:
    view = observe.Observer(agent_pid=1, cgroup="none", proc=str(tmp_path)).look("host", (), pids=[1])
    assert view["processes"] == []
    assert view["memory"] == {"total_bytes": None, "available_bytes": None}
    assert view["kernel"]["uptime_s"] is None
