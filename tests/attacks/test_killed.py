"""Killed at every step in turn: the process that becomes the container, and the agent beside it. What is left of a
container then is nothing, at once or when the next agent starts.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.test_agent import Bench
from tests.patience import now_s
from vmcontainer_kernel import host_agent
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import ContainerError, NodeLost

pytestmark = pytest.mark.needs("containers-on-host")

LIMIT_S = 20.0
HOLD = """
import sys
sys.path[:0] = sys.argv[1:2]
import ctypes, os, select, signal
from vmcontainer_kernel.agent.__main__ import main
from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.runtime import Runtime
from vmcontainer_kernel.container.step import Step

execute, create, name = Step.execute, Runtime.create, ctypes.create_string_buffer(b"{name}")

def held(step, scene):
    '''Before step number N, wait until nobody reads the report any more: until the agent is dead.'''
    left = scene.__dict__.setdefault("left", None)
    if left is None:
        left = int(open("{folder}/step").read())
    if left == 0:
        linux.prctl(15, ctypes.addressof(name))  # PR_SET_NAME
        poller = select.poll()
        poller.register(scene.report_fd, 0)
        poller.poll({limit_ms})
    scene.left = left - 1
    execute(step, scene)

def counted(runtime, *arguments):
    '''End before call number N of this process to the kernel.'''
    left, pid = int(open("{folder}/call").read()), os.getpid()
    def count(frame, event, subject):
        nonlocal left
        if event == "c_call" and getattr(subject, "__module__", "") in ("posix", "_socket") and os.getpid() == pid:
            left -= 1
            if left == 0:
                os.kill(pid, signal.SIGKILL)
    if left:
        sys.setprofile(count)
    return create(runtime, *arguments)

Step.execute, Runtime.create = held, counted
main(sys.argv[2:])
"""


class Yard:
    """Agents that stop where they are told to, one after the other, in run folders beside each other."""

    def __init__(self, base: Path) -> None:
        self.base, self.mark, self.number = base, f"held-{os.getpid()}", 0
        self.images = base / "images"
        self.program = f"{os.getpid()}.25"  # seconds that nothing else sleeps
        build_busybox(Store(self.images))
        (base / "run").mkdir()
        self.stop()

    @property
    def code(self) -> str:
        return HOLD.format(name=self.mark, folder=self.base, limit_ms=int(LIMIT_S * 1000))

    def stop(self, *, step: int = 10**6, call: int = 0) -> None:
        """Say before which step a child is held, or before which call the agent ends."""
        (self.base / "step").write_text(str(step))
        (self.base / "call").write_text(str(call))

    def bench(self) -> Bench:
        self.number += 1
        return Bench(self.base / "run" / f"killed{os.getpid()}-{self.number}", self.images)

    def begin(self, bench: Bench) -> asyncio.Task[Any]:
        """Ask for a container, with all that makes steps."""
        limits = {"memory_bytes": 64 << 20, "pids_limit": 20} if os.geteuid() == 0 else {}
        more = {"read_only": True, "workdir": "/tmp", "ulimits": ["nofile=64"], "tmpfs": ["/x"], **limits}
        options = {"argv": ["sleep", self.program], "volumes": ["data:/data"], **more}
        return bench.loop.create_task(bench.collect("container.run", name="", options=options))

    def held(self) -> int | None:
        """Return the process that is held."""
        return next((int(path.parent.name) for path in Path("/proc").glob("[0-9]*/comm") if self.is_held(path)), None)

    def is_held(self, path: Path) -> bool:
        try:
            return path.read_text().strip() == self.mark[:15]
        except OSError:
            return False

    def running(self) -> list[str]:
        """Return what is left of processes: those that are held, and programs."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"sleep", self.program.encode()] or str(self.base).encode() in b" ".join(words):
                found.append(path.parent.name)
        return found

    def groups(self) -> list[str]:
        # Not Path.glob: it ends with an error when a group of somebody else goes meanwhile.
        ours = f"*/vmcontainer/killed{os.getpid()}-*/*"
        return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if fnmatch.fnmatch(folder, ours)]

    def folders(self) -> list[Path]:
        return [*(self.base / "run").glob("*/containers/*")]


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    yard = Yard(tmp_path)
    monkeypatch.setattr(host_agent, "_AGENT", yard.code)
    yield yard
    assert yard.running() == []
    assert yard.groups() == []
    assert [*(tmp_path / "run").iterdir()] == []


def until(condition: Callable[[], Any], bench: Bench | None = None) -> Any:
    """Poll until something holds; meanwhile the agent's answers are read."""
    deadline_s = now_s() + LIMIT_S
    while not (found := condition()):
        assert now_s() < deadline_s
        if bench:
            bench.wait(asyncio.sleep(0.005))
        else:
            time.sleep(0.005)
    return found


def test_the_child_is_killed_at_every_step(yard: Yard) -> None:
    """Whoever asked is told, and where it was; the next container is as good as any."""
    bench, step, told = yard.bench(), 0, []
    try:
        while True:
            yard.stop(step=step)
            task = yard.begin(bench)
            until(lambda: yard.held() or any("sleep" in one for one in programs(yard)), bench)
            pid = yard.held()
            if pid is None:
                break
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(ContainerError) as caught:
                bench.wait(task)
            told.append(str(caught.value))
            assert bench.call("container.list")["containers"] == []
            assert yard.folders() == []
            assert yard.groups() == []
            step += 1
        task.cancel()
        for one in bench.call("container.list")["containers"]:
            bench.call("container.remove", name=one["name"], force=True)
    finally:
        bench.close()
    assert step > 15
    assert all("killed" in one for one in told), told


def programs(yard: Yard) -> list[str]:
    return ["sleep"] if any(is_program(name, yard.program) for name in yard.running()) else []


def is_program(pid: str, argument: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == f"sleep\0{argument}\0".encode()
    except OSError:
        return False


def kill_agent(yard: Yard, bench: Bench, task: asyncio.Task[Any]) -> None:
    """See the agent's death, and that of all it started."""
    with pytest.raises(NodeLost):
        bench.wait(task)
    bench.agent.process.wait(LIMIT_S)
    until(lambda: not yard.running())
    bench.agent.node.close()
    bench.loop.close()


def test_the_agent_is_killed_at_every_step_of_the_child(yard: Yard) -> None:
    """The child ends wherever it is: it waits for the agent, or its report has no reader, or the kernel ends it."""
    step = 0
    while True:
        yard.stop(step=step)
        bench = yard.bench()
        assert yard.folders() == []  # the last one's
        assert yard.groups() == []
        task = yard.begin(bench)
        until(lambda: yard.held() or programs(yard), bench)
        ended = yard.held() is None
        bench.agent.process.kill()
        kill_agent(yard, bench, task)
        if ended:
            break
        step += 1
    yard.bench().close()
    assert step > 15


def test_the_agent_is_killed_between_any_two_calls(yard: Yard) -> None:
    """From looking at the request to answering that the program runs."""
    call = 1
    while True:
        yard.stop(call=call)
        bench = yard.bench()
        assert yard.folders() == []
        assert yard.groups() == []
        task = yard.begin(bench)
        until(lambda task=task: task.done() or programs(yard), bench)
        ended = not task.done()
        if ended:
            bench.agent.process.kill()
        kill_agent(yard, bench, task)
        if ended:
            break
        call += 7
    yard.bench().close()
    assert call > 50
