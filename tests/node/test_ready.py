"""The process that is ready: others are born into its memory, and it never comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.node.test_agent import SESSION, Bench
from tests.node.test_spares import bench, started_pid, wait_for  # noqa: F401 - a fixture
from tests.patience import now_s
from vmcontainer_kernel.errors import ContainerError


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


def ready(bench: Bench) -> int:  # noqa: F811
    """Return the process that was forked ahead: a child of the supervisor in its own namespaces that waits for an
    order, and not an earlier one, in whose memory a container made ahead waits.
    """
    deadline_s = now_s() + 10
    while True:
        found = wait_for(bench, lambda pid: not is_away(bench, pid))
        states = {letter: [pid for pid in found if state(pid) == letter] for letter in "SD"}
        if len(states["S"]) == 1 and len(states["D"]) == 2:
            return states["S"][0]
        assert now_s() < deadline_s, states
        bench.wait(asyncio.sleep(0.02))


def is_away(bench: Bench, pid: int) -> bool:  # noqa: F811
    theirs, ours = (Path(f"/proc/{one}/ns/pid").readlink() for one in (pid, bench.agent.process.pid))
    return theirs != ours


def test_a_container_of_another_shape_is_born_into_it(bench: Bench) -> None:  # noqa: F811
    pid = ready(bench)
    result = bench.container("echo $$; hostname; read x; echo $x; exit 3", shm_size_bytes=1 << 20, hostname="born")
    assert result.out == b"1\nborn\n\n"
    assert result.status == 3
    assert state(pid) in ("t", "gone")  # it was stopped where it was, and not let back
    assert started_pid(result.events) != pid
    started = next(event for event in result.events if event["event"] == "started")
    assert [step for step, _ in started["steps"]][:2] == ["private", "overlay"]


def test_a_further_process_is_born_into_it(bench: Bench) -> None:  # noqa: F811
    bench.call("container.run", name="web", options={"argv": ["sleep", "60"], "memory_bytes": 1 << 26}, detach=True)
    bench.wait(bench.collect("container.exec", None, name="web", options={"argv": ["true"]}))
    pid = ready(bench)
    script = (
        "cat /proc/self/cgroup /proc/1/cgroup; readlink /proc/self/ns/* /proc/1/ns/*;"
        "grep -E '^(Cap|NoNew|Secc)' /proc/self/status; ls /proc/self/fd"
    )
    result = bench.wait(bench.collect("container.exec", None, name="web", options={"argv": ["sh", "-c", script]}))
    assert state(pid) in ("t", "gone")
    lines = result.out.decode().split("\n")
    groups = [line for line in lines if line.count(":") == 2 and "/" in line]
    assert groups[: len(groups) // 2] == groups[len(groups) // 2 :]
    spaces = [line for line in lines if "[" in line]
    assert spaces[: len(spaces) // 2] == spaces[len(spaces) // 2 :]
    assert "Seccomp:\t2" in lines
    assert "NoNewPrivs:\t1" in lines
    assert "CapInh:\t0000000000000000" in lines
    assert lines[-5:-1] == ["0", "1", "2", "3"]  # ls has opened the fourth itself
    bench.call("container.remove", name="web", force=True)


def test_errors_are_the_same(bench: Bench) -> None:  # noqa: F811
    ready(bench)
    with pytest.raises(ContainerError, match="no such program"):
        bench.wait(
            bench.collect("container.run", None, name="", options={"argv": ["nosuch"], "shm_size_bytes": 1 << 20})
        )
    ready(bench)
    with pytest.raises(ContainerError, match="no folder /nowhere"):
        bench.call("container.run", name="web", options={"argv": ["sleep", "60"]}, detach=True)
        options = {"argv": ["true"], "workdir": "/nowhere"}
        bench.wait(bench.collect("container.exec", None, name="web", options=options))
    bench.call("container.remove", name="web", force=True)


def test_one_that_was_killed_is_replaced(bench: Bench) -> None:  # noqa: F811
    pid = ready(bench)
    os.kill(pid, signal.SIGKILL)
    bench.wait(asyncio.sleep(0.1))
    assert bench.container("echo on", shm_size_bytes=1 << 20).out == b"on\n"
    assert ready(bench) != pid


def test_what_waits_is_not_in_the_view(bench: Bench) -> None:  # noqa: F811
    pid = ready(bench)
    view = bench.call("view", node="host", notebook_pid=os.getpid())
    assert pid not in [process["pid"] for process in view["processes"]]


def test_it_ends_with_a_killed_supervisor(bench: Bench) -> None:  # noqa: F811
    pid = ready(bench)
    os.kill(bench.agent.process.pid, signal.SIGKILL)
    bench.agent.process.wait(5)
    for _ in range(200):
        if state(pid) in ("gone", "Z"):
            break
        bench.wait(asyncio.sleep(0.02))
    assert state(pid) in ("gone", "Z")
    Bench(bench.folder.with_name(f"{SESSION}-2"), bench.folder.parent.parent / "images").close()  # it sweeps


BAD_DAYS = """
    import os, signal, sys, time
    from vmcontainer_kernel.container import ready
    from vmcontainer_kernel.container.launch import Start
    from vmcontainer_kernel.container.step import Step

    def pausing():
        return [Step("pause", "pause()", "", "pause(2)", lambda scene: signal.pause())]

    def order(of, meanwhile=lambda: None, recipe=list):
        report_r, report_w = os.pipe2(os.O_CLOEXEC)
        try:
            return of.clone(recipe, meanwhile)(0, Start((), (0, 1, 2), report_w), -1), report_r
        finally:
            os.close(report_w)

    def state(pid):
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]

    def raises():
        raise LookupError

    def killing(of):
        let_go = of._let_go
        def kill(*told):
            os.kill(of.child, signal.SIGKILL)
            os.waitid(os.P_PID, of.child, os.WEXITED | os.WNOWAIT)
            let_go(*told)
        of._let_go = kill
        return of

    one = ready.make_ready()
    try:
        order(one, raises)
        sys.exit("the error of meanwhile is lost")
    except LookupError:
        pass
    os.waitid(os.P_PID, one.pid, os.WSTOPPED | os.WNOWAIT)
    os.kill(one.pid, signal.SIGCONT)
    time.sleep(0.05)
    assert state(one.pid) == "t", "it has come back"
    assert not os.path.exists(f"/proc/{one.child}"), "the child is left"
    one.close()

    every = ready.Readiness()
    every.make()
    child, report = order(killing(every.take()))
    os.waitpid(child, 0)
    every.reaped(child)
    assert os.read(report, 1) == b"", "a report without end"

    every.make()
    lost = every.take()
    os.kill(lost.pid, signal.SIGKILL)
    os.waitid(os.P_PID, lost.pid, os.WEXITED | os.WNOWAIT)
    assert not lost.alive, "a dead one is given work"

    every.make()
    owner = every.take()
    child, report = order(owner, recipe=pausing)
    every.make()
    assert state(owner.pid) == "D", "it does not keep the memory its child waits in"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline_s = time.monotonic() + 5
    while os.path.exists(f"/proc/{owner.pid}") and time.monotonic() < deadline_s:
        every.make()
    assert not os.path.exists(f"/proc/{owner.pid}"), "one that is of no more use is kept"
    every.drop()
    try:
        os.waitpid(-1, 0)
        sys.exit("a process is left")
    except ChildProcessError:
        pass
"""


def test_bad_days_leave_nobody_and_let_nobody_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BAD_DAYS)], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
