"""Machines: made of a spare, by clone and from their kernel; the cells that follow; many at once; one that is idle.

python -m tests.benchmarks.machines [ROUNDS]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import FirstWrite, Notebook, Row, Series
from vmcontainer_kernel.errors import CommandFailed
from vmcontainer_kernel.machines import ANY, Wish, quiet
from vmcontainer_kernel.node import Node
from vmcontainer_kernel.session import Session, current
from vmcontainer_kernel.spares import SETTING
from vmcontainer_kernel.vm.config import PLATFORMS
from vmcontainer_kernel.vm.machine import Machine
from vmcontainer_kernel.vm.packages import Origin

IDLE_S = 20.0
NEXT_CELLS = 15
MANY = 20
FLOOD_BYTES = 100_000_000
FLOOD_S = 1.0
SPARE_LIMIT_S = 60.0
READING_S = 0.5  # nobody reads a cell's output faster
COMMAND = ("/bin/sh", "-c", "echo hi")


def rows(notebook: Notebook, session: Session, rounds: int, docker: Series | None = None) -> Iterator[Row]:
    """Measure everything of machines; `docker`: times of ``docker run`` in this run, to compare with."""
    os.environ[SETTING] = "0"
    session.prepare()
    yield from clone_rows(notebook, session, rounds, docker)
    yield from boot_rows(session, 2)
    if shutil.which(PLATFORMS["arm64"].program):
        yield from boot_rows(session, 2, Wish(origin=Origin("arm64")), "arm64, cold boot", goal=2500)
    yield from many_rows(session)
    yield from flood_rows(notebook)
    yield idle_row("idle machine (% of a core)", session, machine_of(notebook, session, "idle"))
    yield look_row(session, "idle")
    session.wait(session.machines.remove("idle"))
    os.environ[SETTING] = "1"
    yield from spare_rows(notebook, session, rounds)


def clone_rows(notebook: Notebook, session: Session, rounds: int, docker: Series | None) -> list[Row]:
    """Time new machines, their phases since QEMU was started, and the cells that follow."""
    first, second, later = Series(), Series(), Series()
    phases: dict[str, Series] = {}
    for _ in range(rounds):
        first.take(lambda: notebook.cell_ms("vm", "bench"))
        for phase in session.machines.guest("bench").machine.timeline()["phases"]:
            phases.setdefault(phase["text"], Series()).times_ms.append(phase["ms"])
        second.take(lambda: notebook.cell_ms("vm", "bench"))
        for _ in range(NEXT_CELLS):
            later.take(lambda: notebook.cell_ms("vm", "bench"))
        session.wait(session.machines.remove("bench"))
    parts = [Row(f"  of that: {text}", series) for text, series in phases.items()]
    last = [Row("%%vm, second cell", second), Row("%%vm, later cells", later, goal=25)]
    beside, goal = (("docker run", docker), 0.7) if docker else (None, 245)
    return [Row("%%vm, a new machine, by clone", first, beside, goal), *parts, *last]


def boot_rows(
    session: Session, rounds: int, wish: Wish = ANY, title: str = "cold boot to the agent's answer", goal: int = 4000
) -> list[Row]:
    """Time a machine from its kernel to the agent's first answer, without a template; and its phases."""
    phases: dict[str, Series] = {}

    async def boot(name: str) -> float:
        config = await session.machines.config(name, wish, quiet)
        host = await session.host()
        begin_s = time.perf_counter()
        machine = await Machine.boot(config, host, session.machines._folder)
        node = Node(name, machine.stream)
        try:
            await machine.within(node.connect(60), 60, "answer")
            machine.mark("agent")
            passed_ms = (time.perf_counter() - begin_s) * 1e3
            for phase in machine.timeline()["phases"]:
                phases.setdefault(phase["text"], Series()).times_ms.append(phase["ms"])
            return passed_ms
        finally:
            node.close()
            await machine.stop()

    series = Series()
    for number in range(rounds):
        series.take(lambda number=number: session.wait(boot(f"cold{number}")))  # type: ignore[misc]
    parts = [Row(f"  of that: {text}", series) for text, series in phases.items()]
    return [Row(title, series, goal=goal), *parts]


def many_rows(session: Session) -> list[Row]:
    """Time twenty clones asked for at once, until each has answered, and count the memory each takes for itself."""

    async def answered(name: str) -> int:
        guest = await session.machines.ensure(name)
        await guest.node.call("exec", argv=list(COMMAND))
        return guest.machine.pid

    async def all_of_them() -> tuple[float, list[int]]:
        begin_s = time.perf_counter()
        pids = await asyncio.gather(*(answered(f"many{number}") for number in range(MANY)))
        return (time.perf_counter() - begin_s) * 1e3, pids

    passed_ms, pids = session.wait(all_of_them())
    private, shares = Series(), Series()
    for pid in pids:
        kib = memory_kib(pid)
        private.times_ms.append((kib["Private_Dirty"] + kib["Private_Clean"]) / 1024)
        shares.times_ms.append(kib["Pss"] / 1024)
    for number in range(MANY):
        session.wait(session.machines.remove(f"many{number}"))
    return [
        Row(f"{MANY} clones at once, all answering", Series([passed_ms]), goal=6000),
        Row("  private memory of each (MB)", private, goal=40),
        Row("  with its share of what is common (PSS, MB)", shares),
    ]


def flood_rows(notebook: Notebook) -> list[Row]:
    """Time 100 MB of a guest's output until ``--out`` has kept all of it, and an interrupt of a flood without end."""
    kept, ended = Series(), Series()
    notebook.cell_ms("vm", "flood")
    for _ in range(3):
        begin_s = time.perf_counter()
        notebook.run("vm", "flood --out kept", f"dd if=/dev/zero bs=100000 count={FLOOD_BYTES // 100_000} 2>&-")
        kept.times_ms.append((time.perf_counter() - begin_s) * 1e3)
        assert notebook.variables.pop("kept") == "\0" * FLOOD_BYTES
        ended.take(lambda: interrupted_ms(notebook))
    notebook.line("vm", "rm flood")
    return [
        Row("100 MB of a guest's output, into --out", kept, goal=1000),
        Row("a guest's endless output, interrupted", ended, goal=500),
    ]


def interrupted_ms(notebook: Notebook) -> float:
    """Press the interrupt button of a cell that writes without end; return how long it takes the cell to end."""
    pressed_s: list[float] = []

    def press() -> None:
        pressed_s.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(FLOOD_S, press).start()
    with contextlib.suppress(CommandFailed), contextlib.redirect_stdout(FirstWrite()):
        notebook.run("vm", "flood", "dd if=/dev/zero bs=100000")
    return (time.perf_counter() - pressed_s[0]) * 1e3


def memory_kib(pid: int) -> dict[str, int]:
    """Return a process's memory by kind (proc_pid_smaps_rollup(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def spare_rows(notebook: Notebook, session: Session, rounds: int) -> list[Row]:
    """Time machines that were made ahead, and what one uses while it waits."""
    spares, first = session.machines.spares, Series()
    spares.quiet_s = 0.1
    notebook.cell_ms("vm", "seed")
    for number in range(rounds):
        wait_for_spare(session)
        first.take(lambda number=number: notebook.cell_ms("vm", f"spare{number}"))  # type: ignore[misc]
        session.wait(session.machines.remove(f"spare{number}"))
    wait_for_spare(session)
    assert spares.spare
    idle = idle_row("  idle spare (% of a core)", session, spares.spare.machine.pid)
    session.wait(session.machines.remove("seed"))
    return [Row("%%vm, a new machine, made ahead", first, goal=40), idle]


def wait_for_spare(session: Session) -> None:
    """Wait until one is ready, and has come to rest."""
    end_s = time.monotonic() + SPARE_LIMIT_S
    while not session.machines.spares.spare:
        assert time.monotonic() < end_s, "no machine is made ahead here"
        time.sleep(0.05)
    time.sleep(READING_S)


def machine_of(notebook: Notebook, session: Session, name: str) -> int:
    """Make a machine; return its QEMU's pid."""
    notebook.cell_ms("vm", name)
    return session.machines.guest(name).machine.pid


def idle_row(what: str, session: Session, pid: int) -> Row:
    """Return how much of a core a QEMU uses that has nothing to do."""
    time.sleep(2.0)
    begin_s, begin_cpu_s = time.perf_counter(), cpu_s(pid)
    time.sleep(IDLE_S)
    return Row(what, Series([100 * (cpu_s(pid) - begin_cpu_s) / (time.perf_counter() - begin_s)]), goal=0.5)


def look_row(session: Session, name: str) -> Row:
    """Return what it costs more to look at an idle machine twice a second, for this process and QEMU together."""
    machine = session.machines.guest(name).machine

    async def look() -> None:
        async with machine.poller.follow() as follower:
            while time.perf_counter() < end_s:
                await follower.next()

    def used_s() -> float:
        return time.process_time() + cpu_s(machine.pid)

    parts = []
    for action in (asyncio.sleep(IDLE_S), look()):
        begin_s, end_s = used_s(), time.perf_counter() + IDLE_S
        session.wait(action)
        parts.append(100 * (used_s() - begin_s) / IDLE_S)
    return Row("  looked at, twice a second: more by", Series([parts[1] - parts[0]]), goal=1.0)


def cpu_s(pid: int) -> float:
    """Return a process's CPU time, summed over its threads (proc(5), schedstat: nanoseconds first)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


if __name__ == "__main__":
    one = current()
    try:
        print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
        for line in rows(Notebook(), one, int(sys.argv[1]) if len(sys.argv) > 1 else 10):
            print(line.text(), flush=True)
    finally:
        one.close()
