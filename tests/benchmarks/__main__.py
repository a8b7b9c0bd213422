"""Measure what a learner waits for, beside programs that do something alike, in one run on this computer.

    python -m tests.benchmarks [ROUNDS]

Absolute times drift with whatever else the computer does, so what is compared is measured in turns, and ratios are what
to look at. Nothing here fails for being slow; the last column says whether a goal was reached in this run.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import engine, engines, layers
from tests.benchmarks.measure import Notebook, Row, Series
from tests.benchmarks.peers import every
from vmcontainer_kernel.node import Node
from vmcontainer_kernel.session import Session, current
from vmcontainer_kernel.vm import accelerator, qemu
from vmcontainer_kernel.vm.machine import Machine

IDLE_S = 20.0
NEXT_CELLS = 15
READING_S = 0.5  # nobody reads a cell's output faster; meanwhile a container is made ahead
LOAD = """
import ipykernel.ipkernel, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
begin_s = time.perf_counter()
shell.run_line_magic("load_ext", "vmcontainer_kernel")
print((time.perf_counter() - begin_s) * 1e3)
"""


def load_rows(rounds: int) -> list[Row]:
    """Time ``%load_ext`` in new processes that have loaded what a notebook's kernel has."""
    series = Series()
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", LOAD], check=True, capture_output=True, text=True)
        series.times_ms.append(float(done.stdout))
    return [Row("%load_ext in a new kernel", series, goal=60)]


def container_rows(notebook: Notebook, rounds: int) -> list[Row]:
    """Time one-shot containers and their peers in turns."""
    ours, at_once = Series(), Series()
    first = Series([notebook.cell_ms("container", "--on host")])
    with tempfile.TemporaryDirectory() as folder, every(Path(folder)) as peers:
        theirs = {name: Series() for name in peers}
        for _ in range(rounds):
            at_once.take(lambda: notebook.cell_ms("container", "--on host"))
            time.sleep(READING_S)
            ours.take(lambda: notebook.cell_ms("container", "--on host"))
            for name, measure in peers.items():
                theirs[name].take(measure)
    bwrap = theirs.get("bwrap")
    rows = [Row("%%container, the first (starts the supervisor)", first)]
    beside = ("bwrap", bwrap) if bwrap else None
    rows += [Row("%%container", ours, beside, 1.5), Row("  at once after another, so not made ahead", at_once, beside)]
    return rows + [Row(name, series, ("bwrap", bwrap) if bwrap else None) for name, series in theirs.items()]


def clone_rows(notebook: Notebook, session: Session, rounds: int) -> list[Row]:
    """Time new machines, their phases since QEMU was started, and the cells that follow."""
    session.prepare()
    first, second, later = Series(), Series(), Series()
    phases: dict[str, Series] = {}
    for _ in range(rounds):
        first.take(lambda: notebook.cell_ms("vm", "bench"))
        for name, seconds in session.machines.guest("bench").machine.phases:
            phases.setdefault(name, Series()).times_ms.append(seconds * 1e3)
        second.take(lambda: notebook.cell_ms("vm", "bench"))
        for _ in range(NEXT_CELLS):
            later.take(lambda: notebook.cell_ms("vm", "bench"))
        session.wait(session.machines.remove("bench"))
    told = {"qmp": "QEMU answers", "restored": "state loaded", "agent": "guest renewed"}
    rows = [Row("%%vm, a new machine", first, goal=350)]
    rows += [Row(f"  of that: {told[name]}", phases[name]) for name in told]
    return [*rows, Row("%%vm, second cell", second), Row("%%vm, later cells", later, goal=25)]


def boot_rows(session: Session, rounds: int) -> list[Row]:
    """Time a machine from its kernel to the agent's first answer, without a template."""

    async def boot(name: str) -> float:
        config = await session.machines.config(name, None, None, lambda phase, fraction: None)
        host = await session.host()
        begin_s = time.perf_counter()
        machine = await Machine.boot(config, host, session.folder)
        node = Node(name, machine.stream)
        try:
            await machine.within(node.connect(60), 60, "answer")
            return (time.perf_counter() - begin_s) * 1e3
        finally:
            node.close()
            await machine.stop()

    series = Series()
    for number in range(rounds):
        series.take(lambda number=number: session.wait(boot(f"cold{number}")))
    return [Row("cold boot to the agent's answer", series, goal=5000)]


def idle_percent(notebook: Notebook, session: Session) -> float:
    """Return how much of a core an idle machine's QEMU uses."""
    notebook.cell_ms("vm", "idle")
    pid = session.machines.guest("idle").machine.pid
    time.sleep(2.0)
    begin_s, begin_cpu_s = time.perf_counter(), cpu_s(pid)
    time.sleep(IDLE_S)
    used_s, passed_s = cpu_s(pid) - begin_cpu_s, time.perf_counter() - begin_s
    session.wait(session.machines.remove("idle"))
    return 100 * used_s / passed_s


def cpu_s(pid: int) -> float:
    """Return a process's CPU time, summed over its threads (proc(5), schedstat: nanoseconds first)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


def computer() -> str:
    """Describe this computer in a line."""
    chosen = accelerator.choose()
    version = subprocess.run([str(qemu.program_path()), "--version"], check=True, capture_output=True, text=True)
    numbers = ".".join(str(part) for part in qemu.version_of(version.stdout))
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"QEMU {numbers} with {chosen.name} ({chosen.reason}); load {loads}"
    )


def main(rounds: int) -> None:
    """Measure everything and print the table."""
    print(computer())
    print(f"| {'to the first byte of output':<46} |   p50 ms |   min ms |   n | {'ratio':<13} | {'goal':<18} |")
    print(f"| {'-' * 46} | -------: | -------: | --: | {'-' * 13} | {'-' * 18} |")
    notebook, session = Notebook(), current()
    try:
        for rows in (
            lambda: load_rows(5),
            lambda: container_rows(notebook, rounds * 3),
            lambda: engine.rows(rounds * 3),
            lambda: engines.rows(rounds),
            lambda: layers.rows(3),
            lambda: clone_rows(notebook, session, rounds),
            lambda: boot_rows(session, 2),
        ):
            for row in rows():
                print(row.text(), flush=True)
        idle = idle_percent(notebook, session)
        print(f"\nAn idle machine: {idle:.2f} % of a core over {IDLE_S:g} s (≤ 1 %: {'yes' if idle <= 1 else 'no'})")
    finally:
        session.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
