"""Machines of a real QEMU saved, branched, brought back, put aside, and moved while they run."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import now_s
from tests.vm.sessions import Lab
from vmcontainer_kernel.errors import HostError, LabError, MachineError, NotFound, UserError
from vmcontainer_kernel.paths import cache_dir
from vmcontainer_kernel.ports import deliver
from vmcontainer_kernel.vm.machine import Machine
from vmcontainer_kernel.vm.state import freezing, manifest, migration, shelf, transfer
from vmcontainer_kernel.vm.state.shelf import Shelf

ROOT = Path(__file__).parent.parent.parent
WHO = "hostname; cat /etc/machine-id /sys/class/net/eth0/address; head -c 8 /dev/urandom | od -An -tx1"

pytestmark = pytest.mark.needs("qemu")


@pytest.fixture(autouse=True)
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shelf of the test's own; images and templates are everybody's."""
    monkeypatch.setattr(shelf, "cache_dir", lambda name: tmp_path / name)
    return tmp_path / "states"


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


def test_a_snapshot_is_a_beginning_of_several_machines(lab: Lab) -> None:
    lab.count("vm")
    title, stood_s = lab.wait(lab.states.snapshot("vm", "clean"))
    assert (title, stood_s > 0) == ("vm:clean", True)
    lab.sh("vm", "echo later > /tmp/later")
    lab.wait(lab.states.clone("one", "vm:clean"))
    lab.wait(lab.states.clone("two", "vm:clean"))
    mine = {name: lab.sh(name, WHO).split("\n") for name in ("vm", "one", "two")}
    assert [lines[0] for lines in mine.values()] == ["vm", "one", "two"]
    for row in range(4):
        assert len({lines[row] for lines in mine.values()}) == 3, "each is somebody else"
    assert lab.sh("one", "ls /tmp | grep -E 'later|count$'") == "count"
    numbers = {name: lab.counted(name) for name in ("vm", "one")}
    shared = [number for number in numbers["vm"] if number in numbers["one"]]
    assert shared[0][0] == 1
    assert numbers["one"][-1][0] > len(shared), "what counted before goes on"
    skew_s = abs(float(lab.sh("two", "python3 -c 'import time; print(time.time())'")) - time.time())
    assert skew_s < 10

    lab.sh("one", "echo branch > /tmp/branch")
    assert lab.wait(lab.states.snapshot("one"))[0] == "one:snap-1"
    assert [(one.title, one.parent) for one in Shelf().snapshots()] == [("vm:clean", ""), ("one:snap-1", "vm:clean")]
    lab.wait(lab.states.remove("vm:clean"))
    assert lab.sh("two", "cat /tmp/count | head -n1 | cut -d' ' -f1") == "1", "its files are gone, its memory is not"


def test_a_machine_is_brought_back(lab: Lab) -> None:
    lab.sh("vm", "echo good > /root/file; sleep 1000 & echo $! > /root/pid")
    who = lab.sh("vm", WHO).split("\n")[:3]
    lab.wait(lab.states.snapshot("vm", "good"))
    lab.sh("vm", "echo bad > /root/file; kill $(cat /root/pid)")
    running = lab.start("vm", "sleep 1000")
    pid = lab.session.machines.guest("vm").machine.pid
    lab.wait(lab.states.restore("vm", "good"))
    assert lab.sh("vm", "cat /root/file; kill -0 $(cat /root/pid) && echo alive").split() == ["good", "alive"]
    assert lab.sh("vm", WHO).split("\n")[:3] == who, "it is itself"
    assert "brought back to snapshot good" in str(running.done.exception())
    assert not Path(f"/proc/{pid}").exists()
    lab.wait(lab.session.machines.remove("vm"))
    lab.wait(lab.states.restore("vm", "good"))
    assert lab.sh("vm", "cat /root/file") == "good", "it is made if it is not there"


def driver(*words: str, before: tuple[str, ...] = (), cache: Path | None = None) -> dict[str, object]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if cache:
        environment["VMCONTAINER_CACHE"] = str(cache)
    command = [*before, sys.executable, "-m", "tests.vm.states_driver", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return document


@pytest.fixture
def shared_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache whose shelf is the test's own, for processes that cannot be patched."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for part in cache_dir().iterdir():
        if part.name != "states":
            (cache / part.name).symlink_to(part)
    monkeypatch.setattr(shelf, "cache_dir", lambda name: cache / name)
    return cache


def test_a_suspended_machine_wakes_in_another_notebook(lab: Lab, shared_cache: Path) -> None:
    lab.count("vm")
    node = lab.session.machines.guest("vm").node
    options = {"image": "busybox"}
    lab.wait(lab.session.hold(node, "web", options))
    running = lab.start("vm", "sleep 1000")
    with pytest.raises(UserError, match="at work"):
        lab.wait(lab.states.suspend("vm"))
    assert lab.sh("vm", "echo on") == "on", "it was refused, and nothing has happened"
    lab.wait(node.signal(running, signal.SIGKILL))
    before, pid = lab.counted("vm"), lab.session.machines.guest("vm").machine.pid
    lab.wait(lab.states.suspend("vm"))
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(NotFound):
        lab.session.machines.guest("vm")
    found = driver("wake", "vm", "hostname; tail -n2 /tmp/count | head -n1", cache=shared_cache)
    hostname, row = str(found["out"]).split("\n")
    number, at, wrong = row.split()
    assert (hostname, wrong) == ("vm", "0")
    assert (int(number), float(at)) > before[-1]
    assert (found["containers"], found["running"]) == (["web"], ["running"])
    assert Shelf().suspended() == [], "it was woken; there is one of it"


def test_a_machine_moves_while_it_runs(lab: Lab) -> None:
    lab.count("vm")
    said: list[bytes] = []
    guest = lab.session.machines.guest("vm")
    lab.sh("vm", "echo moved > /tmp/index.html; busybox httpd -h /tmp -p 80")
    lab.wait(deliver(guest.machine, guest.published, ["80"]))
    page = f"http://127.0.0.1:{guest.published[0].host_port}/index.html"
    cell = lab.start("vm", "for i in $(seq 100); do echo $i; usleep 20000; done", said.append)
    first = lab.session.machines.guest("vm").machine
    how = lab.wait(lab.states.migrate("vm"))
    machine = lab.session.machines.guest("vm").machine
    assert (how.from_pid, how.to_pid) == (first.pid, machine.pid)
    assert not Path(f"/proc/{first.pid}").exists()
    assert 0 < how.downtime_s <= how.total_s
    assert how.memory_bytes > how.sent_bytes > how.live_bytes

    async def end() -> dict[str, object]:
        return await cell.done

    assert lab.wait(end())["status"] == 0
    assert b"".join(said).split() == [b"%d" % number for number in range(1, 101)], "the cell has noticed nothing"
    rows = lab.counted("vm")
    assert [number for number, _ in rows] == list(range(1, len(rows) + 1)), "it is the same process"
    assert lab.wait(machine.status()) == "running"
    how = lab.wait(lab.states.migrate("vm"))
    assert lab.counted("vm")[-1][0] > rows[-1][0], "it moves as often as one likes"
    with urllib.request.urlopen(page, timeout=20) as answer:
        assert answer.read() == b"moved\n", "its published port leads to it still"


def test_a_guest_that_runs_too_long_is_sent_standing_still(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the live round is over before the guest was stopped, what it wrote since is not known: all is sent again."""
    monkeypatch.setattr(migration, "_LEFT", -1.0)
    lab.count("vm")
    how = lab.wait(lab.states.migrate("vm"))
    assert how.live_bytes == 0
    assert how.downtime_s > 0
    before = lab.counted("vm")[-1][0]
    assert lab.counted("vm")[-1][0] > before


def test_a_move_that_fails_leaves_the_machine_where_it_was(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.count("vm")
    pid = lab.session.machines.guest("vm").machine.pid
    progress = transfer.progress

    async def kill_the_other(machine: object, limit_s: float) -> dict[str, object]:
        for path in Path("/proc").glob("[0-9]*"):
            if path.name != str(pid) and is_machine(path, "vm"):
                os.kill(int(path.name), signal.SIGKILL)
        return await progress(machine, limit_s)  # type: ignore[arg-type]

    monkeypatch.setattr(transfer, "progress", kill_the_other)
    for action in (lab.states.migrate, lab.states.snapshot):
        with pytest.raises(MachineError):
            lab.wait(action("vm"))
        assert lab.session.machines.guest("vm").machine.pid == pid
        before = lab.counted("vm")[-1][0]
        assert lab.counted("vm")[-1][0] > before
    assert Shelf().snapshots() == []


def is_machine(path: Path, name: str) -> bool:
    """Whether a folder of /proc is a QEMU of ours of that name."""
    try:
        words = (path / "cmdline").read_bytes().split(b"\0")
        parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        return b"-name" in words and words[words.index(b"-name") + 1] == name.encode() and descends(parent)
    except (OSError, ValueError):
        return False


def descends(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


@pytest.mark.needs("user-namespaces")
def test_a_full_disk_leaves_no_half_snapshot() -> None:
    # Nobody else sees the tiny disk, which is where all machines of this user would be saved.
    root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    found = driver("full", str(cache_dir("states")), before=("unshare", *root, "-m", "--propagation", "slave"))
    assert str(found["error"]).startswith("HostError: the disk is full")
    assert found["left"] == []
    assert found["out"] == "before", "the machine has noticed nothing"


def test_what_is_damaged_or_foreign_is_refused_and_the_machine_stays(lab: Lab, states: Path) -> None:
    lab.sh("vm", "echo now > /root/file")
    lab.wait(lab.states.snapshot("vm", "a"))
    place = states / "snapshots/vm/a"
    saved = manifest.read(place)
    with saved.ram.open("r+b") as file:
        file.seek(os.lseek(file.fileno(), 0, os.SEEK_DATA) + 100)
        file.write(b"changed")
    with pytest.raises(MachineError, match="damaged"):
        lab.wait(lab.states.restore("vm", "a"))
    document = saved.document | {"qemu": "QEMU version 10.0.2 (another)"}
    (place / "manifest.json").write_text(json.dumps({"digest": manifest._digest(document), "document": document}))
    with pytest.raises(MachineError, match="another build of QEMU") as caught:
        lab.wait(lab.states.clone("new", "vm:a"))
    assert "10.0.2 (another)" in caught.value.where
    assert lab.sh("vm", "cat /root/file") == "now"


def test_a_machine_without_our_agent_is_saved_and_moved_as_well(lab: Lab) -> None:
    lab.sh("vm", "true")
    config = dataclasses.replace(lab.session.machines.guest("vm").machine.config, name="bare", agent=False)
    lab.wait(lab.session.machines.boot(config))
    lab.wait(lab.states.snapshot("bare", "early"))
    pid = lab.session.machines.guest("bare").machine.pid
    assert lab.wait(lab.states.migrate("bare")).from_pid == pid
    said = lab.session.machines.guest("bare").machine.console_tail()
    lab.wait(lab.states.suspend("bare"))
    lab.wait(lab.states.resume("bare"))
    machine, deadline_s = lab.session.machines.guest("bare").machine, now_s() + 60
    # It boots on, as its kernel had begun; on a busy computer it may have come so far before.
    while "vmcontainer: init" not in said + machine.console_tail():
        assert now_s() < deadline_s
        time.sleep(0.05)


async def unplugged(machine: Machine, device: str) -> None:
    gone = machine.expect("DEVICE_DELETED")
    await machine.execute("device_del", id=device)
    await machine.within(gone, 30, "let go of the disk")


def test_a_machine_with_more_than_it_was_started_with_is_refused(lab: Lab) -> None:
    lab.sh("vm", "true")
    machine = lab.session.machines.guest("vm").machine
    size = {"size": 1 << 20, "read_zeroes": True}
    for node, read_only, why in (("data", False, "can write to"), ("cd", True, "other devices")):
        lab.wait(machine.execute("blockdev-add", driver="null-co", node_name=node, read_only=read_only, **size))
        lab.wait(machine.execute("device_add", driver="scsi-hd", bus="scsi.0", drive=node, id=f"{node}-disk"))
        for action in (lab.states.snapshot, lab.states.suspend, lab.states.migrate):
            with pytest.raises(UserError, match=why) as caught:
                lab.wait(action("vm"))
            assert node in caught.value.where
        lab.wait(unplugged(machine, f"{node}-disk"))
    assert lab.sh("vm", "echo on") == "on"


def test_no_room_is_told_before_anything_happens(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.sh("vm", "true")
    monkeypatch.setenv(shelf.LIMIT, "1")
    with pytest.raises(HostError, match="saved machines may take 1 MiB"):
        lab.wait(lab.states.snapshot("vm"))
    assert lab.sh("vm", "echo on") == "on"


def test_one_killed_machine_tells_why_and_harms_no_other(lab: Lab) -> None:
    lab.sh("a", "true")
    lab.sh("b", "echo kept > /root/file")
    running = lab.start("a", "echo 'last words' > /dev/console; sleep 1000")
    machine, deadline_s = lab.session.machines.guest("a").machine, now_s() + 20
    while "last words" not in machine.console_tail():
        assert now_s() < deadline_s
        time.sleep(0.02)
    os.kill(machine.pid, signal.SIGKILL)

    async def end() -> LabError:
        with pytest.raises(LabError) as caught:
            await running.done
        return await lab.session.machines.explain_loss("a", caught.value)  # type: ignore[arg-type]

    error = lab.wait(end())
    assert "ended by signal 9" in error.message
    assert "last words" in error.where
    assert lab.sh("b", "cat /root/file") == "kept"


def test_a_machine_runs_on_without_the_files_it_was_woken_from(lab: Lab, states: Path) -> None:
    """Whoever deletes files that are mapped takes their names away only (unlink(2))."""
    lab.sh("vm", "echo kept > /root/file")
    lab.wait(lab.states.snapshot("vm", "a"))
    lab.wait(lab.states.restore("vm", "a"))
    shutil.rmtree(states)
    assert lab.sh("vm", "cat /root/file; find / -xdev -type f 2>/dev/null | wc -l").split()[0] == "kept"
    lab.wait(lab.states.snapshot("vm", "b"))


def test_a_machine_that_wakes_slowly_gets_the_time_of_its_waking(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.sh("vm", "true")
    lab.wait(lab.states.snapshot("vm", "good"))
    wake = freezing.wake

    async def slowly(*arguments: Any, **named: Any) -> Machine:
        machine = await wake(*arguments, **named)
        await asyncio.sleep(8)
        return machine

    monkeypatch.setattr(freezing, "wake", slowly)
    lab.wait(lab.states.restore("vm", "good"))
    before_s = time.time()
    shown_s = float(lab.sh("vm", "python3 -c 'import time; print(time.time())'"))
    assert before_s - 6 < shown_s < time.time() + 6


def test_the_wall_clock_may_jump(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.sh("vm", "true")
    real = time.time
    for jump_s in (86_400.0, -86_400.0):
        monkeypatch.setattr(time, "time", lambda jump_s=jump_s: real() + jump_s)
        lab.wait(lab.states.snapshot("vm"))
        before_s = time.time()
        shown_s = float(lab.sh("vm", "python3 -c 'import time; print(time.time())'"))
        assert before_s - 10 < shown_s < time.time() + 10
        view = lab.wait(lab.session.machines.guest("vm").machine.view())
        assert 0 < view["uptime_s"] < 1000
    how = lab.wait(lab.states.migrate("vm"))
    assert 0 < how.downtime_s < 60
