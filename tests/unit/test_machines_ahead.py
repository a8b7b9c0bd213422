"""When a machine is made ahead: whether at all, when one is taken, and when it is ended; no QEMU here."""

import asyncio
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from vmcontainer_kernel import spares
from vmcontainer_kernel.errors import MachineError
from vmcontainer_kernel.memory import available_cpus
from vmcontainer_kernel.spares import Spares, spares_for

GIB = 1 << 30
SIZE = 256 << 20


@pytest.mark.parametrize(
    ("available", "cpus", "setting", "wanted"),
    [
        (20 * GIB, 2, "", 1),
        (20 * GIB, 1, "", 0),
        (2 * GIB, 1, "", 0),  # mybinder.org
        (2 * GIB, 8, "", 0),
        (2 * GIB + 2 * SIZE, 2, "", 1),
        (20 * GIB, 1.5, "", 0),
        (20 * GIB, 8, "0", 0),
        (GIB, 1, "1", 1),
        (20 * GIB, 8, "what", 1),
    ],
)
def test_small_computers_get_none(available, cpus, setting, wanted):
    assert spares_for(available, cpus, SIZE, setting) == wanted


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "cgroup/cpu/a/b").mkdir(parents=True)
    return tmp_path


def cpus_in(roots, line):
    (roots / "proc/self/cgroup").write_text(line)
    return available_cpus(roots / "proc", roots / "cgroup")


def test_the_tightest_quota_counts(roots, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert cpus_in(roots, "0::/a/b\n") == 4
    for folder, quota in (("a", "max 100000"), ("a/b", "150000 100000")):
        (roots / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
        (roots / "cgroup" / folder / "cpu.max").write_text(quota + "\n")
    assert cpus_in(roots, "0::/a/b\n") == 1.5
    for folder, quota in (("a", "50000"), ("a/b", "-1")):
        (roots / "cgroup/cpu" / folder / "cpu.cfs_quota_us").write_text(quota + "\n")
        (roots / "cgroup/cpu" / folder / "cpu.cfs_period_us").write_text("100000\n")
    assert cpus_in(roots, "4:cpu,cpuacct:/a/b\n") == 0.5
    assert cpus_in(roots, "4:memory:/a/b\n") == 4


@dataclass(frozen=True)
class Config:
    name: str
    mac: str = "m"
    memory_bytes: int = SIZE

    def named(self, name, mac):
        return replace(self, name=name, mac=mac)


class Workshop:
    """Makes guests of air."""

    def __init__(self):
        self.made, self.ended = [], []
        self.fails = False

    async def make(self, config):
        if self.fails:
            raise MachineError("no")
        gone = asyncio.Event()
        guest = SimpleNamespace(machine=SimpleNamespace(config=config, gone=gone), node=SimpleNamespace(lost=gone))
        self.made.append(guest)
        return guest

    async def end(self, guest):
        self.ended.append(guest)
        guest.machine.gone.set()


@pytest.fixture
def workshop(monkeypatch):
    monkeypatch.setenv(spares.SETTING, "1")
    return Workshop()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_one_is_taken_once_and_only_for_its_shape(workshop):
    async def use():
        ahead = Spares(workshop.make, workshop.end, quiet_s=0.0)
        assert ahead.take(Config("a")) is None
        ahead.want(Config("a"))
        await until(lambda: ahead.spare)
        assert ahead.spare.machine.config.name.startswith(".")
        assert ahead.take(Config("b", memory_bytes=2 * SIZE)) is None
        assert ahead.take(Config("b", mac="other")) is workshop.made[0]
        assert ahead.take(Config("c")) is None
        ahead.want(Config("c", memory_bytes=2 * SIZE))
        await until(lambda: ahead.spare)
        assert ahead.take(Config("d")) is None

    asyncio.run(use())
    assert workshop.ended == []


def test_another_shape_and_idleness_end_it(workshop):
    async def use():
        ahead = Spares(workshop.make, workshop.end, quiet_s=0.0, kept_s=3600.0)
        ahead.want(Config("a"))
        await until(lambda: ahead.spare)
        ahead.want(Config("b"))
        await asyncio.sleep(0.01)
        assert len(workshop.made) == 1
        ahead.want(Config("c", memory_bytes=2 * SIZE))
        await until(lambda: len(workshop.made) == 2)
        assert workshop.ended == workshop.made[:1]
        ahead.kept_s = 0.0
        ahead.want(Config("c", memory_bytes=2 * SIZE))
        await until(lambda: workshop.ended == workshop.made)
        assert ahead.spare is None

    asyncio.run(use())


def test_none_is_made_where_there_is_no_room_or_it_fails(workshop, monkeypatch):
    async def use():
        ahead = Spares(workshop.make, workshop.end, quiet_s=0.0, kept_s=0.0)
        monkeypatch.setenv(spares.SETTING, "")
        monkeypatch.setattr(spares, "available_memory", lambda: (GIB, "here"))
        ahead.want(Config("a"))
        await asyncio.wait_for(ahead._task, 10)
        monkeypatch.setenv(spares.SETTING, "1")
        workshop.fails = True
        ahead.want(Config("a"))
        await asyncio.wait_for(ahead._task, 10)
        assert ahead.spare is None

    asyncio.run(use())
    assert workshop.made == []


def test_one_that_died_is_not_given(workshop):
    async def use():
        ahead = Spares(workshop.make, workshop.end, quiet_s=0.0)
        ahead.want(Config("a"))
        await until(lambda: ahead.spare)
        workshop.made[0].machine.gone.set()
        assert ahead.take(Config("b")) is None

    asyncio.run(use())
