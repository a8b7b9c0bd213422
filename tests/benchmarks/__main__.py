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

from tests.benchmarks import engine, engines, layers, machines, views
from tests.benchmarks.measure import Notebook, Row, Series
from tests.benchmarks.peers import every
from tests.browser.stage import chromium
from vmcontainer_kernel.session import current
from vmcontainer_kernel.vm import accelerator, qemu
from vmcontainer_kernel.vm.config import PLATFORMS

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


def computer() -> str:
    """Describe this computer in a line."""
    chosen = accelerator.choose()
    version = subprocess.run(
        [str(qemu.program_path(PLATFORMS["x86_64"])), "--version"], check=True, capture_output=True, text=True
    )
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
    seen: dict[str, Series] = {}
    try:
        for rows in (
            lambda: load_rows(5),
            lambda: container_rows(notebook, rounds * 3),
            lambda: engine.rows(rounds * 3),
            lambda: engines.rows(rounds),
            lambda: machines.rows(notebook, session, rounds, seen.get(engines.DOCKER)),
            lambda: views.rows(notebook, session) if chromium() else [],
            lambda: layers.rows(3),  # last: the disk is busy for a while after it
        ):
            for row in rows():
                seen[row.what] = row.series
                print(row.text(), flush=True)
    finally:
        session.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
