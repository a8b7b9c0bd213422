"""Machines made ahead, with real QEMU: nobody sees one, who takes it gets an identity of his own, none is left over."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.patience import now_s
from vmcontainer_kernel.session import Session
from vmcontainer_kernel.spares import SETTING
from vmcontainer_kernel.verbs.machines import VERBS

pytestmark = pytest.mark.needs("qemu")

LIMIT_S = 90.0
WHO = """
import os, socket
mac = open("/sys/class/net/eth0/address").read().strip()
print(socket.gethostname(), open("/etc/machine-id").read().strip(), mac, os.urandom(16).hex())
print(open("/etc/hostname").read())
"""
VICTIM = """
import os, signal, time
from vmcontainer_kernel.session import current
session = current()
session.machines.spares.quiet_s = 0.0
session.wait(session.machines.ensure("a"))
end = time.monotonic() + 90
while not session.machines.spares.spare and time.monotonic() < end:
    time.sleep(0.05)
print(session.machines.spares.spare.machine.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def session(monkeypatch, tmp_path):
    monkeypatch.setenv(SETTING, "1")
    monkeypatch.setenv("VMCONTAINER_RUN", str(tmp_path / "run"))
    one = Session()
    one.machines.spares.quiet_s = 0.0
    yield one
    one.close()


def until(condition):
    end = now_s() + LIMIT_S
    while not (value := condition()):
        assert now_s() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


def is_there(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def asked(session, node, *argv):
    async def ask():
        parts = []
        request = node.start("exec", {"argv": list(argv)}, on_data=lambda stream, data: parts.append(data))
        await request.done
        return b"".join(parts).decode().split()

    return session.wait(ask())


def assert_told(timeline, start, names):
    assert timeline["way"] == start
    assert [phase["name"] for phase in timeline["phases"]] == names
    assert all(phase["ms"] >= 0 for phase in timeline["phases"])
    assert sum(phase["ms"] for phase in timeline["phases"]) == pytest.approx(timeline["total_ms"], abs=0.1)


def who(session, node):
    return asked(session, node, "/usr/bin/python3", "-c", WHO)


def seen(session):
    """All that shows machines: their list, and the host's processes."""
    listed = repr(VERBS["ls"].action(session, None, ""))
    view = session.wait(session.wait(session.host()).view())
    return listed, {process["pid"] for process in view["processes"]}


def test_a_spare_is_nobodys_until_it_is_somebodys(session):
    first = session.wait(session.machines.ensure("a"))
    spare = until(lambda: session.machines.spares.spare)
    pid = spare.machine.pid
    listed, pids = seen(session)
    assert first.machine.pid in pids
    assert pid not in pids
    assert list(session.machines.guests) == ["a"]
    assert "spare" not in listed
    before = who(session, spare.node)

    session.machines.spares.kept_s = 0.0  # the one after it is gone at once
    second = session.wait(session.machines.ensure("b"))
    assert second.machine.pid == pid, "it was made anew"
    assert second.node.name == second.machine.config.name == "b"
    after, other = who(session, second.node), who(session, first.node)
    assert after[0] == after[4] == "b"
    assert other[0] == "a"
    assert after[2] == before[2] == second.machine.config.mac
    for fields in zip(before, after, other, strict=True):
        assert fields[1] != fields[2]
    assert before[1] != after[1]
    assert before[3] != after[3]
    assert abs(float(asked(session, second.node, "/bin/date", "+%s")[0]) - time.time()) < 60
    listed, pids = seen(session)
    assert pid in pids
    assert str(pid) in listed
    held = session.wait(session.wait(session.host()).call("machine.stats"))["machines"]
    assert {machine["name"]: machine["pid"] for machine in held}["b"] == pid

    assert_told(first.machine.timeline(), "clone", ["begun", "spawn", "qmp", "restored", "agent"])
    assert_told(second.machine.timeline(), "spare", ["begun", "agent"])
    made, booted = second.machine.timeline()["earlier"]
    assert_told(made, "clone", ["begun", "spawn", "qmp", "restored", "agent"])
    boot = ["begun", "spawn", "qmp", "kernel", "init", "root", "main", "ready", "agent", "rehearsed", "saved"]
    assert_told(booted, "cold", boot)
    assert first.machine.timeline()["earlier"] == [booted]
    assert "Python starts" in repr(VERBS["timeline"].action(session, SimpleNamespace(name="b"), ""))

    third = until(lambda: session.machines.spares._task.done() and session.machines.spares.spare is None)
    assert third
    session.wait(session.machines.remove("b"))
    assert not is_there(pid)


def test_a_machine_is_booted_if_that_is_asked_for(session):
    asked = SimpleNamespace(names=["cold"], memory=None, cpus=None, max_cpus=None, cold=True)
    VERBS["start"].action(session, asked, "")
    machine = session.machines.guest("cold").machine
    boot = ["begun", "spawn", "qmp", "kernel", "init", "root", "main", "ready", "agent"]
    assert_told(machine.timeline(), "cold", boot)
    assert machine.timeline()["earlier"] == []
    host_name, machine_id, mac, *_ = who(session, session.machines.guest("cold").node)
    assert (host_name, mac) == ("cold", machine.config.mac)
    assert len(machine_id) == 32


def test_one_of_another_size_is_not_taken_and_gives_way(session):
    from vmcontainer_kernel.machines import Wish

    session.wait(session.machines.ensure("a"))
    spare = until(lambda: session.machines.spares.spare)
    session.wait(session.machines.ensure("b", Wish(memory_bytes=192 << 20)))
    until(lambda: not is_there(spare.machine.pid))
    until(lambda: session.machines.spares.spare)
    assert session.machines.spares.spare.machine.config.memory_bytes == 192 << 20


def test_a_killed_notebook_leaves_no_spare(monkeypatch, tmp_path):
    environment = {**os.environ, SETTING: "1", "VMCONTAINER_RUN": str(tmp_path / "run")}
    done = subprocess.run([sys.executable, "-c", VICTIM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    until(lambda: not is_there(pid))
    until(lambda: not any((tmp_path / "run").glob("s*")))


def test_none_is_made_when_it_is_switched_off(session, monkeypatch):
    monkeypatch.setenv(SETTING, "0")
    session.machines.spares.kept_s = 0.0
    session.wait(session.machines.ensure("a"))
    until(lambda: session.machines.spares._task and session.machines.spares._task.done())
    view = session.wait(session.wait(session.host()).call("machine.stats"))
    assert [machine["name"] for machine in view["machines"]] == ["a"]
