"""The kernel view, from a folder that looks like /proc: whose process is whose, with no live kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel.agent import observe

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

    def view(self, **more: Any) -> dict[str, Any]:
        arguments = {"containers": (), "pids": None, "agent_pid": 10, "cgroup": "v2", "proc": self.root} | more
        return observe.kernel_view("host", **arguments)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_one_process(proc: Proc) -> None:
    proc.add(41, 10, nspid="41\t1")
    row = observe.process(41, proc.root)
    assert row is not None
    ticks, page = observe._TICKS, observe._PAGE
    assert row["pids"] == [41, 1]
    assert (row["ppid"], row["state"], row["uid"]) == (10, "S", 1000)
    assert row["cpu_s"] == round(200 / ticks, 2)
    assert row["rss_bytes"] == 3 * page
    assert row["command"] == "sh -c echo \N{REPLACEMENT CHARACTER}"
    assert row["namespaces"] == {kind: HOST if kind == "pid" else None for kind in observe.NAMESPACES}


@pytest.mark.parametrize("comm", ["a) S 1 (b", "x y", "(((", ") ) )"])
def test_a_name_may_hold_anything(proc: Proc, comm: str) -> None:
    proc.add(7, 1, comm)
    row = observe.process(7, proc.root)
    assert row is not None
    assert (row["ppid"], row["comm"]) == (1, comm)


def test_a_process_that_is_gone_or_half_gone_is_no_row(proc: Proc) -> None:
    proc.add(7, 1)
    proc.write("7/stat", "")
    assert observe.process(7, proc.root) is None
    assert observe.process(8, proc.root) is None


def test_kernel_threads_are_left_out(proc: Proc) -> None:
    proc.add(1, 0, "init")
    proc.add(2, 0, "kthreadd", vsize=0)
    assert observe.all_pids(proc.root) == [1]


def test_descendants(proc: Proc) -> None:
    proc.add(10, 1, children="11 12 ")
    proc.add(11, 10, children="13")
    proc.add(12, 10)
    proc.add(13, 11)
    proc.add(99, 1)
    assert observe.descendants(10, proc.root) == [10, 11, 12, 13]
    assert observe.descendants(555, proc.root) == [555]


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
    rows = {row["pid"]: row for row in proc.view(containers=containers, machines=(30,))["processes"]}
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
    view = proc.view()
    assert (view["kind"], view["version"], view["node"]) == ("kernel", 1, "host")
    assert view["memory"] == {"total_bytes": 16 << 20, "available_bytes": 8 << 20}
    kernel = view["kernel"]
    assert (kernel["release"], kernel["hostname"], kernel["boot_id"]) == ("6.1.0-test", "box", "abc")
    assert (kernel["uptime_s"], kernel["load_1min"], kernel["cgroup"]) == (100.5, 0.25, "v2")


def test_every_number_declares_its_unit(proc: Proc) -> None:
    proc.add(10, 1)
    view = proc.view()
    numbers = {
        *(f"kernel.{key}" for key, value in view["kernel"].items() if isinstance(value, int | float)),
        *(f"memory.{key}" for key in view["memory"]),
        *(f"processes[].{key}" for key in view["processes"][0] if key.endswith(("_s", "_bytes"))),
    }
    assert numbers - set(view["units"]) == set()
    assert {kind for _, kind in view["units"].values()} == {"counter", "level"}


def test_a_view_is_bounded(proc: Proc) -> None:
    for pid in range(100, 100 + observe.MAX_PROCESSES + 5):
        proc.add(pid, 1)
    assert len(proc.view()["processes"]) == observe.MAX_PROCESSES


def test_an_empty_proc_gives_a_view_still(tmp_path: Path) -> None:
    view = observe.kernel_view("host", (), pids=None, agent_pid=1, cgroup="none", proc=tmp_path)
    assert view["processes"] == []
    assert view["memory"] == {"total_bytes": None, "available_bytes": None}
    assert view["kernel"]["uptime_s"] is None
